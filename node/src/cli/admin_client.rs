//! Calls to the Admin service of a router, with the operator's token.

use std::time::Duration;

use anyhow::{Context as _, bail};
use carillon_gateway::GatewayConfig;
use carillon_proto::{
    pb::admin::admin_client::AdminClient,
    peer::{AddToken, PeerSecurity, Tier, cause},
};
use tonic::{Code, Request, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{Config, Secrets};

pub(super) type Admin = AdminClient<InterceptedService<Channel, AddToken>>;

/// The routers to ask, and how.
pub(super) struct Routers {
    addresses: Vec<String>,
    security: PeerSecurity,
}

const DEADLINE: Duration = Duration::from_secs(10);

impl Routers {
    pub(super) fn of(config: &Config, given: Option<&str>) -> anyhow::Result<Self> {
        let router = &config.router;
        let own = if router.advertise.is_empty() { router.listen.to_string() } else { router.advertise.clone() };
        let addresses = match given {
            Some(address) => vec![address.to_owned()],
            None if config.gateway.routers == GatewayConfig::default().routers => vec![own],
            None => config.gateway.routers.clone(),
        };
        Ok(Self { addresses, security: Secrets::of(config).peer_security(config, &[Tier::Operator])? })
    }

    /// Asks one router after the other until one answers. `call` must be idempotent.
    pub(super) async fn ask<T>(
        &self,
        call: impl AsyncFn(Admin, Duration) -> Result<T, Status>,
    ) -> anyhow::Result<Result<T, Status>> {
        let mut last = None;
        for address in &self.addresses {
            let channel = self.security.channel(address).context("gateway.routers")?;
            let client = AdminClient::with_interceptor(channel, self.security.token());
            match call(client, DEADLINE).await {
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                    last = Some(format!("{address}: {}", cause(&status)));
                }
                Err(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => {
                    bail!(
                        "router {address}: {}; check cluster.tokens.operator_file, cluster.secret_file or --data-dir",
                        status.message()
                    );
                }
                answer => return Ok(answer),
            }
        }
        bail!("no router answered ({}); is the service running?", last.unwrap_or_default())
    }
}

pub(super) fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
