//! Accounts with a password, made at the routers as an operator makes them.

use std::{sync::OnceLock, time::Duration};

use carillon_proto::{
    credentials::new_credentials,
    pb::{
        admin::{PutUserRequest, admin_client::AdminClient},
        store::ScramCredentials,
    },
    peer::{AddToken, PeerError, PeerSecurity, cause},
};
use rand::RngExt as _;
use tonic::{Code, Request, service::interceptor::InterceptedService, transport::Channel};

/// Deadline of a router.
const CALL: Duration = Duration::from_secs(10);

type Admin = AdminClient<InterceptedService<Channel, AddToken>>;

/// All accounts of a run have the same password, so that its key is derived once.
pub(super) struct Accounts {
    password: String,
    scram: ScramCredentials,
    security: PeerSecurity,
    /// host:port
    routers: Vec<String>,
    /// Connected when the first account is made.
    clients: OnceLock<Vec<Admin>>,
}

impl Accounts {
    pub(super) fn new(security: PeerSecurity, routers: Vec<String>) -> anyhow::Result<Self> {
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let scram = new_credentials(&password)?;
        Ok(Self { password, scram, security, routers, clients: OnceLock::new() })
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Makes the account, unless it is there.
    pub(super) async fn make(&self, user: &str) -> Result<(), String> {
        let clients = match self.clients.get() {
            Some(clients) => clients,
            None => {
                let connected = self.connect().map_err(|error| error.to_string())?;
                self.clients.get_or_init(|| connected)
            }
        };
        let mut why = "no router is named".to_owned();
        for client in clients {
            let (user, scram) = (user.to_owned(), Some(self.scram.clone()));
            let mut request = Request::new(PutUserRequest { user, scram, replace: false });
            request.set_timeout(CALL);
            match client.clone().put_user(request).await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                    why = cause(&status);
                }
                Err(status) => return Err(cause(&status)),
            }
        }
        Err(why)
    }

    fn connect(&self) -> Result<Vec<Admin>, PeerError> {
        let client = |router: &String| {
            let channel = self.security.channel(router)?;
            Ok(AdminClient::with_interceptor(channel, self.security.token()))
        };
        self.routers.iter().map(client).collect()
    }
}
