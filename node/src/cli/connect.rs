//! How commands reach a gateway as a user's device.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use carillon_client::{Acknowledge, Address, Client, ClientConfig, Events, Trust};
use carillon_proto::{UserId, pb::client::Start, tasks::Tasks};
use clap::Args;

use super::{credential::CredentialOptions, refused::Failed, variable};
use crate::Config;

#[derive(Args)]
pub(super) struct Connect {
    /// A gateway: tcp://host:port, tls://, ws://host:port/ws (with ?format=json for JSON), wss://, grpc://, grpcs://; may
    /// be repeated. Otherwise those in CARILLON_URL, with commas; otherwise the TCP listener of the configuration.
    #[arg(long = "url", value_name = "URL", value_delimiter = ',', global = true)]
    urls: Vec<Address>,
    /// PEM file with the authority that signed the gateway's certificate, instead of the public ones.
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// The name on the gateway's certificate, if it is not the host of the URL.
    #[arg(long, value_name = "NAME", global = true)]
    server_name: Option<String>,
    /// Where files are, as https://HOST, if the service does not say so; otherwise at the address of gateway.ws.listen, or that of a WebSocket.
    #[arg(long, value_name = "URL", global = true)]
    media_url: Option<String>,
    #[command(flatten)]
    credential: CredentialOptions,
}

/// Deadline for reaching a gateway and signing in there.
pub(super) const SIGN_IN: Duration = Duration::from_secs(15);

impl Connect {
    pub(super) fn settings(&self, config: &Config, user: &UserId, device: &str) -> anyhow::Result<ClientConfig> {
        let credential = self.credential.credential(config, user)?;
        let urls = if let Some(urls) = variable("CARILLON_URL").filter(|_| self.urls.is_empty()) {
            urls.split(',').map(|url| url.trim().parse()).collect::<Result<_, _>>().context("CARILLON_URL")?
        } else if self.urls.is_empty() {
            let scheme = if config.gateway.tls.is_some() { "tls" } else { "tcp" };
            vec![format!("{scheme}://{}", config.gateway.tcp.listen).parse().context("gateway.tcp.listen")?]
        } else {
            self.urls.clone()
        };
        let mut settings = ClientConfig::new(urls, user.as_str(), device, credential);
        settings.media_url = self.media_url.clone().or_else(|| self.media_of(config));
        if let Some(ca) = &self.ca {
            let pem = std::fs::read_to_string(ca).with_context(|| format!("can't read {}", ca.display()))?;
            settings.connect.trust = Trust::ca(pem);
        }
        settings.connect.server_name.clone_from(&self.server_name);
        settings.program = concat!("carillon/", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(settings)
    }

    /// Where the gateway of this configuration has files, if that is the one to be used.
    fn media_of(&self, config: &Config) -> Option<String> {
        let is_here = self.urls.is_empty() && variable("CARILLON_URL").is_none();
        let scheme = if config.gateway.tls.is_some() { "https" } else { "http" };
        let ws = Some(&config.gateway.ws).filter(|ws| is_here && ws.enabled)?;
        Some(format!("{scheme}://{}", ws.listen))
    }
}

/// Options of the commands that a user gives. They may stand before a subcommand or behind it.
#[derive(Args)]
pub(super) struct Actor {
    /// Who does it.
    #[arg(long = "as", value_name = "USER", global = true)]
    user: Option<UserId>,
    /// Names this device among the user's; otherwise by the command, for example terminal-group.
    #[arg(long, value_name = "DEVICE", global = true)]
    device: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

impl Actor {
    pub(super) fn user(&self) -> Result<&UserId, Failed> {
        self.user.as_ref().ok_or_else(|| Failed::arguments("--as USER is missing: who does it"))
    }

    /// `device`: its name, unless the user gives another one.
    pub(super) fn settings(&self, config: &Config, device: &str) -> anyhow::Result<ClientConfig> {
        self.connect.settings(config, self.user()?, self.device.as_deref().unwrap_or(device))
    }

    /// Signs in, works, and signs out. What is delivered to this device meanwhile stays unread.
    pub(super) async fn ask<T>(
        &self,
        config: &Config,
        device: &str,
        work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.ask_and_hear(config, device, async |client, _| work(client).await).await
    }

    /// The same, with what the service tells meanwhile.
    pub(super) async fn ask_and_hear<T>(
        &self,
        config: &Config,
        device: &str,
        work: impl AsyncFnOnce(&Client, &mut Events) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let settings = reads_nothing(self.settings(config, device)?);
        let tasks = Tasks::new();
        let (client, mut events) = Client::open(settings, &tasks)?;
        client.connected(SIGN_IN).await.map_err(|why| Failed::ended(&client, why))?;
        let done = work(&client, &mut events).await;
        client.close().await;
        done
    }
}

/// For a device that reads nothing of what is delivered to it.
pub(super) fn reads_nothing(settings: ClientConfig) -> ClientConfig {
    ClientConfig { start: Start::Head, acknowledge: Acknowledge::Explicit(Duration::from_secs(1)), ..settings }
}
