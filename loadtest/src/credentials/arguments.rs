//! The options by which an operator says how users sign in; `[sign_in]` of a scenario has the same.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use carillon_proto::peer::{PeerSecurity, Tier, TierTokens};
use serde::{Deserialize, Serialize};

use super::{Credentials, accounts::Accounts};
use crate::{scenario_file::length::Length, token::TokenKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    #[default]
    Token,
    Password,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SignInPart {
    /// By what users sign in: tokens, or a password (SCRAM), for which their accounts are made at the routers
    #[arg(id = "sign_in_by", long = "sign-in-by", value_enum, default_value = "token", value_name = "WHAT")]
    pub(crate) by: By,
    /// A private key in PEM that signs tokens, in the place of the secret: of P-256 by ES256, Ed25519 by EdDSA, RSA by RS256
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_key_file: Option<PathBuf>,
    /// The name (kid) by which the service knows this key
    #[arg(long, value_name = "NAME", requires = "token_key_file")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_key_id: Option<String>,
    /// How long a token is valid; each is renewed before its end, on its connection
    #[arg(long, default_value = "1440m", value_name = "LENGTH")]
    pub(crate) token_lifetime: Length,
    /// For passwords: the internal listeners of routers, where accounts are made
    #[arg(long = "router", default_value = "127.0.0.1:7402", value_name = "HOST:PORT")]
    pub(crate) routers: Vec<String>,
    /// For passwords: the cluster's secret, from which the operator's token is derived
    #[arg(long, default_value = "data/secrets/cluster", value_name = "FILE")]
    pub(crate) cluster_secret_file: PathBuf,
    /// For passwords: the operator's token, in the place of the cluster's secret
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator_token_file: Option<PathBuf>,
}

impl Default for SignInPart {
    fn default() -> Self {
        Self {
            by: By::Token,
            token_key_file: None,
            token_key_id: None,
            token_lifetime: Length::of_ms(24 * 3600 * 1000),
            routers: vec!["127.0.0.1:7402".to_owned()],
            cluster_secret_file: "data/secrets/cluster".into(),
            operator_token_file: None,
        }
    }
}

/// Of shorter ones, a busy machine would renew some too late.
const SHORTEST: Duration = Duration::from_secs(10);

impl SignInPart {
    /// Values that contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { by, token_key_file, token_key_id, token_lifetime, routers, .. } = self;
        if token_lifetime.0 < SHORTEST {
            return Err(format!("sign_in.token_lifetime is {token_lifetime}, and must be 10s at least"));
        }
        if token_key_id.is_some() && token_key_file.is_none() {
            return Err("sign_in.token_key_id needs sign_in.token_key_file".to_owned());
        }
        match by {
            By::Password if token_key_file.is_some() => {
                Err("sign_in.token_key_file is for tokens, and sign_in.by is \"password\"".to_owned())
            }
            By::Password if routers.is_empty() => Err("sign_in.routers is empty: accounts are made there".to_owned()),
            By::Password | By::Token => Ok(()),
        }
    }

    /// Reads the files. `secret_file` signs tokens if there is no key.
    pub(crate) fn credentials(&self, secret_file: &Path) -> anyhow::Result<Credentials> {
        self.check().map_err(anyhow::Error::msg)?;
        let lifetime = self.token_lifetime.0;
        match (self.by, &self.token_key_file) {
            (By::Password, _) => Ok(Credentials::of_accounts(Accounts::new(self.operator()?, self.routers.clone())?)),
            (By::Token, Some(file)) => {
                Ok(Credentials::of_key(TokenKey::read(file, self.token_key_id.as_deref())?, lifetime))
            }
            (By::Token, None) => {
                let secret = read(secret_file, "token secret")?;
                Ok(Credentials::of_secret(secret.trim(), lifetime))
            }
        }
    }

    fn operator(&self) -> anyhow::Result<PeerSecurity> {
        let tokens = match &self.operator_token_file {
            Some(file) => {
                let mut tokens = TierTokens::default();
                let given = tokens.give(Tier::Operator, &read(file, "operator's token")?);
                given.with_context(|| file.display().to_string())?;
                tokens
            }
            None => {
                let file = &self.cluster_secret_file;
                TierTokens::derived(&read(file, "cluster's secret")?).with_context(|| file.display().to_string())?
            }
        };
        Ok(PeerSecurity::new(Tier::Operator, tokens, None)?)
    }
}

fn read(file: &Path, what: &str) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("can't read the {what} {}", file.display()))
}
