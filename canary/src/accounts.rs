//! The accounts of a canary: given with their password, or made with the operator's token.

use std::{fs, io, path::PathBuf, time::Duration};

use carillon_proto::{
    credentials, now_ms,
    pb::admin::{DeleteUserRequest, PutUserRequest, admin_client::AdminClient},
    peer::{PeerSecurity, cause},
};
use tonic::{Code, Request, Status};

use crate::metrics;

/// Deadline of a router.
const CALL: Duration = Duration::from_secs(10);

#[derive(Clone)]
enum Asked {
    Put(PutUserRequest),
    Delete(DeleteUserRequest),
}

pub(crate) enum Accounts {
    /// The operator has made the accounts; this file has their password.
    Given(PathBuf),
    Made(Operator),
}

/// Makes the accounts.
pub(crate) struct Operator {
    pub(crate) security: PeerSecurity,
    /// host:port of routers.
    pub(crate) routers: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("canary.password_file {} can't be read: {source}", path.display())]
    Password { path: PathBuf, source: io::Error },
    #[error("account {user} can't be made: {why}")]
    NotMade { user: String, why: String },
    #[error("account {user} can't be removed: {why}")]
    NotRemoved { user: String, why: String },
    #[error("the accounts are not the canary's own: canary.password_file is set")]
    Given,
}

impl Accounts {
    pub(crate) fn password(&self) -> Result<String, AccountError> {
        match self {
            Self::Given(path) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|source| AccountError::Password { path: path.clone(), source })?;
                Ok(text.lines().next().unwrap_or_default().to_owned())
            }
            // The same for all canaries with this token: one does not end another's sessions.
            Self::Made(operator) => {
                let key = operator.security.derive_key("password of the canary");
                Ok(key.iter().map(|byte| format!("{byte:02x}")).collect())
            }
        }
    }

    pub(crate) fn can_be_made(&self) -> bool {
        matches!(self, Self::Made(_))
    }

    /// Makes those that are not there. `replace`: gives all of them the password anew.
    pub(crate) async fn make(&self, users: &[String], replace: bool) -> Result<(), AccountError> {
        let Self::Made(operator) = self else { return Ok(()) };
        let password = self.password()?;
        // It takes some hundred milliseconds of CPU, on purpose.
        let scram = tokio::task::spawn_blocking(move || credentials::new_credentials(&password)).await;
        // An account without a password could not sign in, and nobody would say why.
        let scram = scram.map_err(|error| error.to_string()).and_then(|scram| scram.map_err(|error| error.to_string()));
        let scram = scram.map_err(|why| AccountError::NotMade { user: users.join(", "), why })?;
        for user in users {
            let put = Asked::Put(PutUserRequest { user: user.clone(), scram: Some(scram.clone()), replace });
            match operator.ask(put).await {
                Ok(()) => {}
                Err(status) if status.code() == Code::AlreadyExists => continue,
                Err(status) => return Err(AccountError::NotMade { user: user.clone(), why: cause(&status) }),
            }
        }
        metrics::accounts_made();
        Ok(())
    }

    /// With everything in their inboxes.
    pub(crate) async fn remove(&self, users: &[String]) -> Result<(), AccountError> {
        let Self::Made(operator) = self else { return Err(AccountError::Given) };
        for user in users {
            let delete = Asked::Delete(DeleteUserRequest { user: user.clone(), time_ms: now_ms() });
            match operator.ask(delete).await {
                Ok(()) => {}
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(AccountError::NotRemoved { user: user.clone(), why: cause(&status) }),
            }
        }
        Ok(())
    }
}

impl Operator {
    /// The first answer that is not that the router is unavailable.
    async fn ask(&self, asked: Asked) -> Result<(), Status> {
        let mut last = Status::unavailable("gateway.routers names no router");
        for address in &self.routers {
            let channel = match self.security.channel(address) {
                Ok(channel) => channel,
                Err(error) => return Err(Status::invalid_argument(error.to_string())),
            };
            let mut admin = AdminClient::with_interceptor(channel, self.security.token());
            let answer = match asked.clone() {
                Asked::Put(put) => admin.put_user(soon(put)).await.map(drop),
                Asked::Delete(delete) => admin.delete_user(soon(delete)).await.map(drop),
            };
            match answer {
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => last = status,
                answer => return answer,
            }
        }
        Err(last)
    }
}

fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}
