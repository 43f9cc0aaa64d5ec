//! `carillon debug bundle`: one file with what a report of a problem needs, and without secrets and messages.
//!
//! ```text
//! canary.rs    what canaries tell
//! nodes.rs     which nodes there are, and what each tells of itself
//! shards.rs    all replicas as a table
//! archive.rs   the file
//! README.txt   what is in it, for whoever opens it
//! ```

mod archive;
mod canary;
mod nodes;
mod shards;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use carillon_proto::{
    now_ms,
    pb::diagnostics::{Description, Fact},
    peer::{PeerSecurity, Tier},
};
use clap::{Args, Subcommand};
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use self::{
    archive::Archive,
    canary::{Canary, Place},
    nodes::{Node, Told, Whole, ask},
    shards::Shards,
};
use super::{Options, cluster, date, doctor, out, status};
use crate::{Config, Layers, Secrets, machine, redact::Redactor};

#[derive(Subcommand)]
pub(super) enum Debug {
    /// Asks all nodes of the cluster what they tell of themselves, and puts it into one file, with what `carillon doctor` says of
    /// this machine: no secrets, no messages. Nodes that do not answer are named in it. Exits with 0 if all have answered, 1 if no
    /// file could be made, 2 for wrong arguments, 3 if it was made, and something is missing.
    Bundle(Bundle),
}

#[derive(Args)]
pub(super) struct Bundle {
    /// The file, which must not exist yet; `-` for standard output. Otherwise carillon-debug-TIME.tar.gz in this folder.
    #[arg(long, value_name = "FILE.tar.gz")]
    out: Option<PathBuf>,
    /// What this machine runs, for the doctor; see `carillon doctor`.
    #[arg(long = "doctor", value_enum, value_name = "ROLE")]
    what: Option<doctor::What>,
    /// The admin listener of a canary; may be given several times. Otherwise that of this configuration, if a canary runs there.
    #[arg(long = "canary", value_name = "HOST:PORT")]
    canaries: Vec<String>,
}

/// Nodes that are asked at the same time. Each may tell some megabytes.
const AT_ONCE: usize = 8;
/// The bundle was made, and something is missing in it.
const NOT_WHOLE: u8 = 3;
const README: &str = include_str!("README.txt");

impl Debug {
    pub(super) async fn run(self, options: &Options) -> anyhow::Result<ExitCode> {
        let Self::Bundle(Bundle { out, what, canaries }) = self;
        let time = now_ms();
        let name = format!("carillon-debug-{}", date::format(time).replace(':', ""));
        let path = out.unwrap_or_else(|| Path::new(&format!("{name}.tar.gz")).to_owned());
        let is_piped = path == Path::new("-");
        let config = options.layers(Layers::default()).and_then(|layers| Ok(layers.load()?));
        let redactor =
            config.as_ref().map(|config| Redactor::new(Secrets::of(config).texts(config))).unwrap_or_default();
        let failed = || format!("can't write {}", path.display());
        let archive = Archive::create(&path, &name, time / 1000, redactor).with_context(failed)?;
        let mut making = Making { archive, missing: Vec::new(), nodes: Vec::new(), canaries: Vec::new() };
        let places = Place::of(&canaries, config.as_ref().ok());
        making.make(options, config, what, &places).await.with_context(failed)?;
        let Making { archive, missing, nodes, canaries } = making;
        archive.finish().with_context(failed)?;
        for missing in &missing {
            out::tell(format_args!("carillon: {missing}"));
        }
        let whole = if missing.is_empty() { String::new() } else { format!(", {} things are missing", missing.len()) };
        let canaries = if canaries.is_empty() { String::new() } else { format!(", {} canaries", canaries.len()) };
        let summary = format!("{}: {} nodes{canaries}{whole}", path.display(), nodes.len());
        if is_piped {
            out::tell(format_args!("carillon: {summary}"))
        } else {
            out::line(summary)?
        }
        Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NOT_WHOLE) })
    }
}

struct Making {
    archive: Archive,
    /// What could not be had, each with the reason.
    missing: Vec<String>,
    /// For the list of nodes.
    nodes: Vec<serde_json::Value>,
    canaries: Vec<serde_json::Value>,
}

impl Making {
    async fn make(
        &mut self,
        options: &Options,
        config: anyhow::Result<Config>,
        what: Option<doctor::What>,
        places: &[Place],
    ) -> io::Result<()> {
        let report = doctor::examine(options, what).await;
        self.archive.add("doctor.txt", &doctor::text(&report))?;
        self.archive.add("doctor.json", &pretty(&doctor::json(&report)))?;
        match &config {
            Ok(config) => {
                self.archive.add("machine.txt", &facts(&machine::facts(config, &[])))?;
                self.cluster(config).await?;
            }
            Err(error) => {
                self.archive.add("machine.txt", &facts(&machine::facts(&Config::default(), &[])))?;
                self.missing.push(format!("the cluster: the configuration can't be used: {error}"));
            }
        }
        for place in places {
            self.canary(place).await?;
        }
        let bundle = json!({
            "release": env!("CARGO_PKG_VERSION"),
            "time": date::format(now_ms()),
            "missing": self.missing,
            "nodes": self.nodes,
            "canaries": self.canaries,
        });
        self.archive.add("bundle.json", &pretty(&bundle))?;
        let files = self.archive.names().join("\n  ");
        let missing = if self.missing.is_empty() { "nothing".to_owned() } else { self.missing.join("\n  ") };
        self.archive.add("README.txt", &format!("{README}\nFiles:\n\n  {files}\n\nMissing:\n\n  {missing}\n"))
    }

    async fn cluster(&mut self, config: &Config) -> io::Result<()> {
        let Whole { status, members, nodes } = nodes::whole(config).await;
        match status {
            Ok(status) => self.archive.add("status.txt", &status::show(&status))?,
            Err(why) => self.missing.push(format!("status.txt: {why}")),
        }
        match members {
            Ok(members) => {
                self.archive.add("cluster-status.txt", &cluster::show_members(&members))?;
                self.archive.add("cluster-status.json", &pretty(&cluster::members_json(&members)))?;
            }
            Err(why) => self.missing.push(format!("cluster-status.txt: {why}")),
        }
        let security = Secrets::of(config).peer_security(config, &[Tier::Operator]);
        match security {
            Ok(security) => self.all(&nodes, &security).await,
            Err(error) => {
                self.missing.extend(nodes.iter().map(|node| format!("{}: {error}", node.name)));
                Ok(())
            }
        }
    }

    async fn all(&mut self, nodes: &[Node], security: &PeerSecurity) -> io::Result<()> {
        let routers: Vec<String> = nodes
            .iter()
            .filter(|node| node.name.starts_with("router-") && !node.address.is_empty())
            .map(|node| node.address.clone())
            .collect();
        let routers = &routers;
        let asking = nodes.iter().map(|node| async move { (node, ask(node, routers, security).await) });
        // In the order of the list: those that only the configuration names come last.
        let mut answers = stream::iter(asking.collect::<Vec<_>>()).buffered(AT_ONCE);
        let (mut shards, mut instances) = (Shards::default(), Vec::<(Vec<u8>, String)>::new());
        while let Some((node, answer)) = answers.next().await {
            let told = match answer {
                Ok(told) => told,
                Err(why) => {
                    self.missing.push(format!("{} {}: {why}", node.name, node.address));
                    let release = (!node.release.is_empty()).then_some(&node.release);
                    self.nodes
                        .push(json!({ "node": node.name, "address": node.address, "release": release, "error": why }));
                    continue;
                }
            };
            let instance = told.description.instance.to_vec();
            if let Some((_, first)) = instances.iter().find(|(other, _)| *other == instance) {
                // The registry knows a guessed one by another address.
                if !node.is_guess {
                    self.nodes.push(json!({ "node": node.name, "address": node.address, "same_process_as": first }));
                }
                continue;
            }
            instances.push((instance, node.name.clone()));
            shards.add(&node.name, &told.description.metrics);
            self.node(node, told)?;
        }
        drop(answers);
        self.archive.add("shards.txt", &shards.table())
    }

    async fn canary(&mut self, place: &Place) -> io::Result<()> {
        let address = place.address();
        let Canary { release, is_ready, says, metrics } = match place.ask().await {
            Ok(Some(canary)) => canary,
            Ok(None) => return Ok(()),
            Err(why) => {
                self.missing.push(format!("canary {address}: {why}"));
                self.canaries.push(json!({ "address": address, "error": why }));
                return Ok(());
            }
        };
        self.canaries.push(json!({ "address": address, "release": release, "ready": is_ready, "says": says.trim() }));
        self.archive.add(&format!("{}/readyz.txt", place.folder()), &says)?;
        self.archive.add(&format!("{}/metrics.txt", place.folder()), &metrics)
    }

    fn node(&mut self, node: &Node, told: Told) -> io::Result<()> {
        let Told { description, ahead_ms } = told;
        let Description { configuration, metrics, log, log_left_out, machine, .. } = &description;
        let (release, folder) = (description.release.clone().unwrap_or_default(), node.folder(&description));
        self.nodes.push(json!({
            "node": node.name,
            "folder": format!("nodes/{folder}"),
            "host": node.host(&description),
            "address": node.address,
            "roles": description.roles,
            "release": release.version,
            "reads_level": release.level,
            "pid": description.pid,
            "started": date::format(description.started_ms),
            "clock_ahead_ms": ahead_ms,
            "not_ready": description.not_ready,
        }));
        let mut lines = String::new();
        if *log_left_out > 0 {
            lines = format!("({log_left_out} earlier warnings and errors are not kept)\n");
        }
        log.iter().for_each(|line| lines.extend([line.as_str(), "\n"]));
        let file = |name: &str| format!("nodes/{folder}/{name}");
        self.archive.add(&file("configuration.toml"), configuration)?;
        self.archive.add(&file("metrics.txt"), metrics)?;
        self.archive.add(&file("log.txt"), &lines)?;
        self.archive.add(&file("machine.txt"), &facts(machine))
    }
}

fn facts(facts: &[Fact]) -> String {
    let shown = |fact: &Fact| match fact.value.contains('\n') {
        true => format!("{}:\n  {}\n", fact.name, fact.value.replace('\n', "\n  ")),
        false => format!("{}: {}\n", fact.name, fact.value),
    };
    facts.iter().map(shown).collect()
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
