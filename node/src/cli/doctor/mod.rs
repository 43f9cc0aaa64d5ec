//! `carillon doctor`: what this machine and this configuration can tell, before or while the node runs. It changes nothing.
//!
//! ```text
//! configuration.rs, files.rs   what is configured: values, secrets, certificates
//! ports.rs, limits.rs, disk.rs what the machine gives
//! peers.rs, clock.rs           the other nodes
//! kernel_clock.rs              whether a time service keeps this machine's clock
//! process.rs                   the node, if it runs here
//! report.rs                    findings, and how they are shown
//! ```

mod clock;
mod configuration;
mod disk;
mod files;
mod kernel_clock;
mod limits;
mod peers;
mod ports;
mod process;
mod report;

use std::process::ExitCode;

use carillon_proto::peer::Tier;
use clap::{Args, ValueEnum};

use self::process::Node;
pub(super) use self::process::built as release_and_roles;
use self::report::{Report, Severity};
use super::{Options, out};
use crate::{Config, Layers, Role, running::tiers};

/// Checks configuration, files, clocks, ports, limits, disks and the other nodes; changes nothing.
#[derive(Args)]
pub(super) struct Doctor {
    /// What this machine runs. Otherwise what the running node says, and `all` if none runs.
    #[arg(value_enum)]
    what: Option<What>,
    /// One JSON object, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    All,
    Storage,
    Router,
    Gateway,
    Canary,
    /// No node: only the command line.
    Operator,
}

/// What the checks are made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Looked {
    /// Empty for a machine with the command line only.
    pub(super) roles: Vec<Role>,
}

/// The checks, in the order in which they are shown.
const CHECKS: [&str; 7] = ["configuration", "files", "ports", "limits", "disk", "peers", "clock"];

impl Doctor {
    pub(super) async fn run(self, options: &Options) -> anyhow::Result<ExitCode> {
        let report = examine(options, self.what).await;
        let told = if self.json { out::line(json(&report)) } else { out::print(text(&report)) };
        // Who does not read the lines may want the code.
        match told {
            Err(error) if !error.is::<out::Unread>() => Err(error),
            _ => Ok(exit_code(report.worst())),
        }
    }
}

/// All checks, none of which fails: what can't be checked is a finding, too.
pub(super) async fn examine(options: &Options, what: Option<What>) -> Report {
    let mut report = Report::default();
    let file = options.file();
    let shown = file.as_ref().map(|file| file.display().to_string());
    let layers = options.layers(Layers::default());
    let Some(config) = configuration::examine(&mut report.check("configuration"), layers, shown) else {
        for name in &CHECKS[1..] {
            report.check(name).not_checked(name, "the configuration can't be used");
        }
        return report;
    };
    let node = if what == Some(What::Operator) { Node::Stopped } else { process::find(&config).await };
    let looked = Looked { roles: roles(what, &node) };
    {
        let mut check = report.check("configuration");
        tell_roles(&mut check, what, &node);
        configuration::values(&mut check, &config, &looked.roles);
    }
    files::examine(&mut report.check("files"), &config, &looked, file.as_deref());
    if !looked.roles.is_empty() {
        ports::examine(&mut report.check("ports"), &config, &looked.roles, &node);
        limits::examine(&mut report.check("limits"), &config, &looked.roles, &node);
        disk::examine(&mut report.check("disk"), &config, &looked.roles, &node);
    }
    let answers = peers::examine(&mut report.check("peers"), &config, &looked).await;
    kernel_clock::examine(&mut report.check("clock"), answers.is_none());
    match answers {
        Some(answers) => clock::examine(&mut report.check("clock"), &answers, config.gateway.jwt.leeway_s),
        None => report.check("clock").note("there is no other node to compare the clock with"),
    }
    report
}

fn roles(what: Option<What>, node: &Node) -> Vec<Role> {
    match (what, node.running()) {
        (Some(What::All), _) | (None, None) => Role::ALL.to_vec(),
        (Some(What::Storage), _) => vec![Role::Storage],
        (Some(What::Router), _) => vec![Role::Router],
        (Some(What::Gateway), _) => vec![Role::Gateway],
        (Some(What::Canary), _) => vec![Role::Canary],
        (Some(What::Operator), _) => Vec::new(),
        (None, Some(running)) => running.roles.clone(),
    }
}

fn tell_roles(check: &mut report::Check<'_>, what: Option<What>, node: &Node) {
    match (what, node.running()) {
        (Some(What::Operator), _) => check.note("looked at as a machine that runs no node"),
        (_, Some(running)) => {
            let pid =
                running.pid.map_or("a process that this user may not see".to_owned(), |pid| format!("process {pid}"));
            let names: Vec<&str> = running.roles.iter().map(|role| role.as_str()).collect();
            check.ok(format!("the node runs: {pid}, {}, release {}", names.join("+"), running.release));
            let asked = roles(what, node);
            if asked != running.roles {
                check.warning("the node that runs here has other roles than those asked about", "ask without a role");
            }
        }
        (None, None) => {
            check.note("no node runs at admin.listen: looked at as a process with all roles (`carillon doctor ROLE` for another)");
        }
        (Some(_), None) => check.note("no node runs at admin.listen"),
    }
}

impl Looked {
    /// The tiers of the node, or the operator's.
    fn tiers(&self, config: &Config) -> Vec<Tier> {
        if self.roles.is_empty() { vec![Tier::Operator] } else { tiers(&self.roles, config) }
    }

    /// host:port by which others reach the listeners of this node.
    fn own_addresses(&self, config: &Config) -> Vec<String> {
        let known = |advertise: &str, listen: std::net::SocketAddr| match advertise {
            "" => listen.to_string(),
            advertise => advertise.to_owned(),
        };
        let storage = || known(&config.storage.advertise, config.storage.listen);
        let router = || known(&config.router.advertise, config.router.listen);
        let own = self.roles.iter().filter_map(|role| match role {
            Role::Storage => Some(storage()),
            Role::Router => Some(router()),
            Role::Gateway | Role::Canary => None,
        });
        own.collect()
    }
}

pub(super) fn text(report: &Report) -> String {
    format!("{report}\n{}\n", summary(report))
}

fn summary(report: &Report) -> String {
    let count = |severity| report.count(severity);
    format!(
        "{} faults, {} warnings, {} not checked, {} notes, {} ok",
        count(Severity::Fault),
        count(Severity::Warning),
        count(Severity::NotChecked),
        count(Severity::Note),
        count(Severity::Ok)
    )
}

pub(super) fn json(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "release": env!("CARGO_PKG_VERSION"),
        "worst": report.worst(),
        "findings": report.findings,
    })
}

/// As other commands, with 1 for what could not be found out.
pub(super) fn exit_code(worst: Severity) -> ExitCode {
    ExitCode::from(match worst {
        Severity::Ok | Severity::Note => 0,
        Severity::NotChecked => 1,
        Severity::Warning => 3,
        Severity::Fault => 4,
    })
}
