//! Nodes that take an operator's calls: asked one after the other until one answers.

use std::time::Duration;

use anyhow::{Context as _, bail};
use carillon_proto::peer::{AddToken, PeerSecurity, Tier, cause};
use tonic::{Code, Request, Status, transport::Channel};

use crate::{Config, Secrets};

pub(super) struct Callees {
    /// As in "storage node".
    kind: &'static str,
    /// Where the addresses come from.
    setting: &'static str,
    addresses: Vec<String>,
    security: PeerSecurity,
}

impl Callees {
    pub(super) fn new(
        config: &Config,
        kind: &'static str,
        setting: &'static str,
        addresses: Vec<String>,
    ) -> anyhow::Result<Self> {
        Ok(Self { kind, setting, addresses, security: Secrets::of(config).peer_security(config, &[Tier::Operator])? })
    }

    /// The way to one node.
    pub(super) fn at(&self, address: &str) -> anyhow::Result<(Channel, AddToken)> {
        Ok((self.security.channel(address).context(self.setting)?, self.security.token()))
    }

    /// The first answer that is not that the node is unavailable. `call` must be idempotent.
    pub(super) async fn ask<T>(
        &self,
        call: impl AsyncFn(Channel, AddToken) -> Result<T, Status>,
    ) -> anyhow::Result<Result<T, Status>> {
        let Self { kind, setting, .. } = self;
        let mut last = None;
        for address in &self.addresses {
            let (channel, token) = self.at(address)?;
            match call(channel, token).await {
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                    last = Some(format!("{address}: {}", cause(&status)));
                }
                Err(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => bail!(
                    "{kind} {address}: {}; check cluster.tokens.operator_file, cluster.secret_file or --data-dir",
                    status.message()
                ),
                answer => return Ok(answer),
            }
        }
        let last = last.unwrap_or_default();
        bail!("no {kind} answered ({last}); is the service running, and is that its address ({setting}, or as given)?")
    }
}

pub(super) fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
