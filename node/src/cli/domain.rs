//! The operator's settings of domains: limits, how long messages are kept, and the tokens of administrators. See
//! docs/adr/0036-domain-rules.md.

use std::time::Duration;

use anyhow::{anyhow, bail};
use carillon_proto::{
    ANY_DOMAIN, DomainId, new_domain_token, now_ms,
    pb::{
        admin::{ListDomainsRequest, SetDomainRequest, list_domains_reply::Row},
        store::{Domain, DomainKey, SetDomain},
    },
    token_hash,
};
use clap::{Args, Subcommand};

use super::{
    admin_client::{Routers, with_deadline},
    credential::duration_or_none,
    out,
    table::{Output, Table, time},
};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum DomainCommand {
    /// Lists the domains for which something is decided. With the token of a domain's administrator: this one.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Decides something for a domain. What is not given stays as it is; 0 means that the domain has no limit of its own.
    Set {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limits: Box<Limits>,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Forgets all that was decided for a domain, with the keys of its administrators.
    Reset {
        #[command(flatten)]
        which: Which,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Keys of a domain's administrators: at most two, so that one can be replaced while the other one counts.
    #[command(subcommand)]
    Key(Key),
}

#[derive(Subcommand)]
pub(super) enum Key {
    /// Makes a key, and prints the token, which is kept nowhere else. An administrator has it where the operator has the
    /// operator's: in the file of cluster.tokens.operator_file.
    Add {
        #[command(flatten)]
        which: Which,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Lists the keys of a domain.
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: Output,
    },
    /// Removes a key: its token counts no more.
    Remove {
        #[command(flatten)]
        which: Which,
        /// As `domain key list` shows it.
        #[arg(long = "key", value_name = "KEY")]
        key: String,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// The name of the domain.
    domain: Option<DomainId>,
    /// The default domain.
    #[arg(long)]
    default_domain: bool,
}

impl Which {
    fn name(&self) -> String {
        self.domain.as_ref().map(|domain| domain.as_str().to_owned()).unwrap_or_default()
    }
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct Limits {
    /// Longest content of a message, in bytes.
    #[arg(long, value_name = "BYTES")]
    max_message_bytes: Option<u32>,
    /// Messages a second of a user, over all connections to one gateway.
    #[arg(long, value_name = "NUMBER")]
    sends_per_second: Option<u32>,
    /// Accounts; not for the default domain.
    #[arg(long, value_name = "NUMBER")]
    max_users: Option<u64>,
    /// Groups that a user has made and is in.
    #[arg(long, value_name = "NUMBER")]
    max_groups_of_user: Option<u32>,
    /// Members of a group.
    #[arg(long, value_name = "NUMBER")]
    max_group_members: Option<u32>,
    /// Bytes of all files of a user.
    #[arg(long, value_name = "BYTES")]
    max_media_bytes: Option<u64>,
    /// For how long messages are kept, for example 24h or 30d: at least a minute and at most 36600d; 0: as the cluster keeps them.
    #[arg(long, value_name = "TIME", value_parser = duration_or_none)]
    message_age: Option<Duration>,
    /// For how long reports of its users are kept, in the same way.
    #[arg(long, value_name = "TIME", value_parser = duration_or_none)]
    report_age: Option<Duration>,
    /// Users of this domain and of that one may talk to each other and be in groups of each other: a name, '' for the default domain, '*' for any.
    /// May be given several times.
    #[arg(long, value_name = "DOMAIN", value_parser = crossed)]
    crosses_to: Vec<String>,
    /// The domain no longer talks to that one, whichever of the two was to talk to the other. May be given several times.
    #[arg(long, value_name = "DOMAIN", value_parser = crossed)]
    parts_from: Vec<String>,
    /// Tokens make no accounts: only the operator and the domain's administrators do.
    #[arg(long, value_name = "true|false")]
    closed: Option<bool>,
    /// Users make no groups.
    #[arg(long, value_name = "true|false")]
    no_new_groups: Option<bool>,
}

impl DomainCommand {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::List { output } => list(config, &output).await,
            Self::Set { which, limits, router } => {
                let set = limits.of(which.name());
                change(config, router.as_deref(), set).await?;
                told(&which, "was changed")?;
                note_if_nobody_is_there(config, router.as_deref(), &which).await;
                Ok(())
            }
            Self::Reset { which, router } => {
                change(
                    config,
                    router.as_deref(),
                    SetDomain { name: which.name(), remove: true, ..SetDomain::default() },
                )
                .await?;
                told(&which, "has the settings of the cluster")
            }
            Self::Key(key) => key.run(config).await,
        }
    }
}

impl Key {
    async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Add { which, router } => {
                let token = new_domain_token();
                let key = DomainKey { sha256: token_hash(&token).to_vec().into(), created_ms: now_ms() };
                let set = SetDomain { name: which.name(), add_key: Some(key), ..SetDomain::default() };
                change(config, router.as_deref(), set).await?;
                out::line(token)
            }
            Self::List { which, output } => {
                let domain = read(config, output.router.as_deref(), &which).await?;
                let mut table = Table::new(output.json, &["KEY", "MADE"]);
                for key in &domain.keys {
                    let json = serde_json::json!({"key": name_of(key), "created_ms": key.created_ms});
                    table.row(&[name_of(key), time(key.created_ms)], &json)?;
                }
                table.end()
            }
            Self::Remove { which, key, router } => {
                let domain = read(config, router.as_deref(), &which).await?;
                let Some(known) = domain.keys.iter().find(|known| name_of(known) == key) else {
                    bail!("the domain has no key {key:?}: `carillon domain key list` lists them");
                };
                let remove_key = known.sha256.clone();
                change(config, router.as_deref(), SetDomain { name: which.name(), remove_key, ..SetDomain::default() })
                    .await?;
                told(&which, "has lost the key")
            }
        }
    }
}

impl Limits {
    fn of(self, name: String) -> SetDomain {
        let Self {
            max_message_bytes,
            sends_per_second,
            max_users,
            max_groups_of_user,
            max_group_members,
            max_media_bytes,
            message_age,
            report_age,
            crosses_to,
            parts_from,
            closed,
            no_new_groups,
        } = self;
        let ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        SetDomain {
            name,
            max_message_bytes,
            sends_per_second,
            max_users,
            max_groups_of_user,
            max_group_members,
            max_media_bytes,
            message_age_ms: message_age.map(ms),
            report_age_ms: report_age.map(ms),
            cross_to: crosses_to,
            part_from: parts_from,
            closed,
            no_new_groups,
            ..SetDomain::default()
        }
    }
}

/// A key is named by the beginning of its hash, which tells nothing of its token.
fn name_of(key: &DomainKey) -> String {
    key.sha256.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn told(which: &Which, what: &str) -> anyhow::Result<()> {
    match &which.domain {
        Some(domain) => out::line(format_args!("domain {domain} {what}")),
        None => out::line(format_args!("the default domain {what}")),
    }
}

/// A name that nobody uses may be mistyped. Silent where that can't be read: the change is made.
async fn note_if_nobody_is_there(config: &Config, router: Option<&str>, which: &Which) {
    let Some(name) = &which.domain else { return };
    let is_empty = |row: &Row| {
        let domain = row.domain.as_ref().filter(|domain| domain.name == name.as_str());
        row.accounts == 0 && domain.is_some_and(|domain| domain.keys.is_empty())
    };
    if rows(config, router).await.is_ok_and(|rows| rows.iter().any(is_empty)) {
        out::tell(format_args!("carillon: note: domain {name} has neither users nor keys of administrators yet"));
    }
}

async fn change(config: &Config, router: Option<&str>, set: SetDomain) -> anyhow::Result<()> {
    let request = SetDomainRequest { set: Some(set) };
    let reply = Routers::of(config, router)?
        .ask(async |mut admin, deadline| admin.set_domain(with_deadline(request.clone(), deadline)).await)
        .await?;
    reply.map(drop).map_err(|status| anyhow!("{}", status.message()))
}

async fn rows(config: &Config, router: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let reply = Routers::of(config, router)?
        .ask(async |mut admin, deadline| admin.list_domains(with_deadline(ListDomainsRequest {}, deadline)).await)
        .await?;
    Ok(reply.map_err(|status| anyhow!("{}", status.message()))?.into_inner().domains)
}

async fn read(config: &Config, router: Option<&str>, which: &Which) -> anyhow::Result<Domain> {
    let domains = rows(config, router).await?.into_iter().filter_map(|row| row.domain);
    let found = domains.into_iter().find(|domain| domain.name == which.name());
    found.ok_or_else(|| anyhow!("nothing is decided for this domain"))
}

async fn list(config: &Config, output: &Output) -> anyhow::Result<()> {
    let mut table = Table::new(output.json, &["DOMAIN", "USERS", "KEYS", "DECIDED"]);
    for Row { domain, accounts } in rows(config, output.router.as_deref()).await? {
        let domain = domain.unwrap_or_default();
        let decided = decided(&domain);
        let numbers = decided.iter().map(|(name, value)| format!("{name}={value}"));
        let others = domain.crosses_to.iter().map(|other| format!("crosses-to={}", shown(other)));
        let words: Vec<String> = numbers.chain(others).collect();
        let users = if domain.name.is_empty() { String::new() } else { accounts.to_string() };
        let name = shown(&domain.name).to_owned();
        let columns = [name, users, domain.keys.len().to_string(), words.join(" ")];
        let decided =
            serde_json::Map::from_iter(decided.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
        let json = serde_json::json!({
            "domain": domain.name,
            "users": accounts,
            "keys": domain.keys.len(),
            "decided": decided,
            "crosses_to": domain.crosses_to,
        });
        table.row(&columns, &json)?;
    }
    table.end()
}

fn shown(name: &str) -> &str {
    if name.is_empty() { "(default)" } else { name }
}

/// The name of another domain, "" for the default one, or "*" for any.
fn crossed(text: &str) -> Result<String, String> {
    match text {
        "" | ANY_DOMAIN => Ok(text.to_owned()),
        name => name.parse::<DomainId>().map(|name| name.as_str().to_owned()).map_err(|error| error.to_string()),
    }
}

/// The settings, by the names of the options; flags are 1.
fn decided(domain: &Domain) -> Vec<(&'static str, u64)> {
    let all = [
        ("max-message-bytes", domain.max_message_bytes.into()),
        ("sends-per-second", domain.sends_per_second.into()),
        ("max-users", domain.max_users),
        ("max-groups-of-user", domain.max_groups_of_user.into()),
        ("max-group-members", domain.max_group_members.into()),
        ("max-media-bytes", domain.max_media_bytes),
        ("message-age-s", domain.message_age_ms / 1000),
        ("report-age-s", domain.report_age_ms / 1000),
        ("closed", domain.closed.into()),
        ("no-new-groups", domain.no_new_groups.into()),
    ];
    all.into_iter().filter(|(_, value)| *value != 0).collect()
}
