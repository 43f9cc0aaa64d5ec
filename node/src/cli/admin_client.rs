//! Calls to the Admin service of a router, with the operator's token.

use std::time::Duration;

use carillon_gateway::GatewayConfig;
use carillon_proto::{pb::admin::admin_client::AdminClient, peer::AddToken};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

use super::callees::Callees;
pub(super) use super::callees::with_deadline;
use crate::Config;

pub(super) type Admin = AdminClient<InterceptedService<Channel, AddToken>>;

/// The routers to ask.
pub(super) struct Routers(Callees);

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
        Ok(Self(Callees::new(config, "router", "gateway.routers", addresses)?))
    }

    /// A client for the router at this address.
    pub(super) fn at(&self, address: &str) -> anyhow::Result<Admin> {
        let (channel, token) = self.0.at(address)?;
        Ok(AdminClient::with_interceptor(channel, token))
    }

    /// Asks one router after the other until one answers. `call` must be idempotent.
    pub(super) async fn ask<T>(
        &self,
        call: impl AsyncFn(Admin, Duration) -> Result<T, Status>,
    ) -> anyhow::Result<Result<T, Status>> {
        let asking = async |channel, token| call(AdminClient::with_interceptor(channel, token), DEADLINE).await;
        self.0.ask(asking).await
    }
}
