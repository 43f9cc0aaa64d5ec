//! The command line.

mod admin_client;
mod admin_http;
mod backup;
mod callees;
mod chat;
mod cluster;
mod conformance;
mod connect;
mod contact;
mod conversation;
mod credential;
mod debug;
mod doctor;
mod domain;
mod ended;
mod group;
mod groups;
mod lines;
mod media;
mod message;
mod out;
mod outbox;
mod printer;
mod privacy;
mod progress;
pub(crate) mod refused;
mod repair;
mod reports;
mod said;
mod saying;
mod scheduled;
mod serve;
mod session;
mod status;
mod storage_nodes;
mod table;
mod trace;
mod user;
mod user_data;
mod watch;

use std::{borrow::Cow, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};

#[cfg(test)]
pub(crate) use credential::make_token;

pub(crate) use carillon_proto::date;

use crate::{Config, Layers, Role, causes::told, config::is_secret};

/// A clustered instant-messaging service.
///
/// Without a command, everything runs in this process.
#[derive(Parser)]
#[command(name = "carillon", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    // The options of `all`, which is the default command.
    #[command(flatten)]
    serve: serve::Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where the configuration comes from. Each place overrides the one before: defaults, file, environment
/// (CARILLON_GATEWAY__TCP__LISTEN), flags.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// TOML file; deploy/carillon.toml has every key. Otherwise the one in CARILLON_CONFIG.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, for example gateway.tcp.listen=127.0.0.1:7410; may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// data_dir: where this process keeps its data and generated secrets.
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// log.level: error, warn, info, debug or trace, also for single modules.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// All roles in one process: a service of its own (the default).
    All(serve::Serve),
    /// A gateway: ends the clients' connections.
    Gateway(serve::Serve),
    /// A router: owns users, appends their messages, delivers them.
    Router(serve::Serve),
    /// A storage node.
    Storage(serve::Serve),
    /// A canary: sends a message through the whole service every few seconds, and says by /readyz and metrics whether it is
    /// delivered.
    Canary(serve::Serve),
    /// Makes, shows and removes accounts, and hands out what is kept of a user.
    #[command(subcommand)]
    User(user::User),
    /// Shows and ends sessions.
    #[command(subcommand)]
    Session(session::Session),
    /// Prints a token with which a user signs in; `token revoke` takes tokens back.
    Token(credential::TokenCommand),
    /// Prints a tier's token as the cluster's secret gives it, for cluster.tokens of a machine that is to have no more.
    TierToken(credential::TierToken),
    /// Sends one message and waits until it is accepted.
    Send(chat::Send),
    /// Signs in and prints messages, one a line.
    Listen(chat::Listen),
    /// Conversations on the whole screen: what is unread, history, marks, presence. Without a terminal: prints what comes and sends
    /// lines.
    Chat(chat::Chat),
    /// Makes a preview of the picture on standard input: gateways run it.
    #[command(hide = true)]
    MediaInspect(media::Inspect),
    /// Downloads files of messages, and lists those of a user; `send --file` sends one.
    #[command(subcommand)]
    Media(media::MediaCommand),
    /// Makes and changes groups, as one of their users.
    Group(group::Group),
    /// Shows what workers have still to do; replays or discards what they could not do.
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// Shows moderators what users have reported, and notes what they have decided.
    #[command(subcommand)]
    Reports(reports::Reports),
    /// Lists and shows groups, gives members a role and deletes groups, as the operator; `group` does it as one of the users.
    #[command(subcommand)]
    Groups(groups::Groups),
    /// Decides limits, keeping and administrators of domains.
    #[command(subcommand)]
    Domain(domain::DomainCommand),
    /// Lists conversations, marks them as read, and keeps what the user wants of each.
    Conversation(conversation::ConversationCommand),
    /// Changes the contacts of a user, as this user.
    Contact(contact::Contact),
    /// Has messages sent later, as one of their users; lists, changes and cancels them.
    Scheduled(scheduled::Scheduled),
    /// Shows a user's presence, and prints that of the contacts.
    Presence(contact::PresenceCommand),
    /// Edits, recalls, reacts to, pins and shows messages, as one of their users.
    Message(message::Message),
    /// Says what others may see and do, and blocks users, as one of the users.
    Privacy(privacy::PrivacyCommand),
    /// Shows nodes, shards and leaders.
    Status(status::Status),
    /// Checks what this machine and this configuration can tell: configuration, files, ports, limits, disks, other nodes,
    /// clocks. Changes nothing. Exits with 0 if all was checked and is well, 1 if something could not be checked, 2 for wrong
    /// arguments, 3 for warnings, 4 for faults.
    Doctor(doctor::Doctor),
    /// Plays scenes to a client of the native protocol, and says which rules it breaks: for authors of clients.
    Conformance(conformance::Conformance),
    /// For reports of problems.
    #[command(subcommand)]
    Debug(debug::Debug),
    /// Tells what became of a message: where it is stored, and how far each device is. Never shows what it says.
    Trace(trace::Trace),
    /// Shows a user's traffic as it passes through the routers: sign-ins, messages, pushes, acknowledgements, signals. Never what
    /// they say.
    Watch(watch::Watch),
    /// Tells a storage node that is alone that its data folder was put back from a copy. To be run while everything is
    /// stopped: at the next start all timelines get new epochs, so that no device takes new messages for old ones.
    PutBack,
    /// Looks for damage in the data folder of a storage node, which must be stopped, and puts it aside. What this node can't
    /// make anew from its own snapshots and log, it gets from the others.
    Repair(repair::RepairCommand),
    /// Makes, checks, lists and restores backups. Exits with 0 when it is done, 1 if it failed and may be tried again, 2 for
    /// wrong arguments, 3 if a backup is damaged or missing, 4 if it was refused.
    #[command(subcommand)]
    Backup(backup::Backup),
    /// A whole cluster on this machine, each node a process of its own; `cluster init` makes a cluster of storage nodes
    /// anywhere.
    Cluster(cluster::Cluster),
}

/// Runs the program, from the arguments to the exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse().and_then(Cli::check) {
        Ok(cli) => cli,
        Err(error) => return out::usage(&error),
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) if error.is::<out::Unread>() => ExitCode::SUCCESS,
        Err(error) => {
            out::tell(format_args!("carillon: {}", told(&error)));
            if is_damage(&error) {
                return ExitCode::from(DAMAGED);
            }
            let of_backup = error.downcast_ref::<backup::BackupError>().map(backup::BackupError::exit_code);
            let of_user_data = || error.downcast_ref().map(user_data::UserDataError::exit_code);
            let can_not = || error.downcast_ref::<storage_nodes::CanNot>().map(storage_nodes::CanNot::exit_code);
            let of_user = || error.downcast_ref().map(refused::Failed::exit_code);
            let code = of_backup.or_else(of_user_data).or_else(can_not).or_else(of_user);
            code.map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

/// The exit code when data on the disk is not what was written to it: starting again is of no use. It is EX_DATAERR of
/// sysexits.
pub(crate) const DAMAGED: u8 = 65;

fn is_damage(error: &anyhow::Error) -> bool {
    use crate::StartError;
    matches!(error.downcast_ref(), Some(StartError::Storage(carillon_storage::OpenError::Damaged(_))))
        || error.is::<repair::StillDamaged>()
}

impl Cli {
    /// Refuses options of a role that stand before a command.
    fn check(self) -> Result<Self, clap::Error> {
        if self.command.is_some() && self.serve != serve::Serve::default() {
            let why = "--check-config and --print-config stand behind the role; without a role they mean `all`";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, why));
        }
        Ok(self)
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let options = cli.options;
    let done = match cli.command {
        Some(Command::Doctor(doctor)) => return small(doctor.run(&options)),
        Some(Command::Debug(debug)) => return small(debug.run(&options)),
        Some(Command::Conformance(conformance)) => return small(conformance.run()),
        None => serve::run(Role::ALL, &options, cli.serve),
        Some(Command::All(serve)) => serve::run(Role::ALL, &options, serve),
        Some(Command::Gateway(serve)) => serve::run(&[Role::Gateway], &options, serve),
        Some(Command::Router(serve)) => serve::run(&[Role::Router], &options, serve),
        Some(Command::Storage(serve)) => serve::run(&[Role::Storage], &options, serve),
        Some(Command::Canary(serve)) => serve::run(&[Role::Canary], &options, serve),
        Some(Command::User(user)) => small(async { user.run(&options.load()?).await }),
        Some(Command::Session(session)) => small(async { session.run(&options.load()?).await }),
        Some(Command::Token(token)) => token.run(&options.load()?),
        Some(Command::TierToken(token)) => token.run(&options.load()?),
        Some(Command::Send(send)) => small(async { send.run(&options.load()?).await }),
        Some(Command::Listen(listen)) => small(async { listen.run(&options.load()?).await }),
        Some(Command::Chat(chat)) => small(async { chat.run(&options.load()?).await }),
        Some(Command::MediaInspect(inspect)) => inspect.run(),
        Some(Command::Media(media)) => small(async { media.run(&options.load()?).await }),
        Some(Command::Message(message)) => small(async { message.run(&options.load()?).await }),
        Some(Command::Group(group)) => small(async { group.run(&options.load()?).await }),
        Some(Command::Outbox(outbox)) => small(async { outbox.run(&options.load()?).await }),
        Some(Command::Reports(reports)) => small(async { reports.run(&options.load()?).await }),
        Some(Command::Groups(groups)) => small(async { groups.run(&options.load()?).await }),
        Some(Command::Domain(domain)) => small(async { domain.run(&options.load()?).await }),
        Some(Command::Conversation(conversation)) => small(async { conversation.run(&options.load()?).await }),
        Some(Command::Contact(contact)) => small(async { contact.run(&options.load()?).await }),
        Some(Command::Scheduled(scheduled)) => small(async { scheduled.run(&options.load()?).await }),
        Some(Command::Presence(presence)) => small(async { presence.run(&options.load()?).await }),
        Some(Command::Privacy(privacy)) => small(async { privacy.run(&options.load()?).await }),
        Some(Command::Status(status)) => small(async { status.run(&options.load()?).await }),
        Some(Command::Trace(trace)) => small(async { trace.run(&options.load()?).await }),
        Some(Command::Watch(watch)) => small(async { watch.run(&options.load()?).await }),
        Some(Command::PutBack) => put_back(&options.load()?),
        Some(Command::Repair(repair)) => repair.run(&options.load()?),
        Some(Command::Backup(backup)) => small(async { backup.run(&options.load()?).await }),
        Some(Command::Cluster(cluster)) => small(cluster.run(&options)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn put_back(config: &Config) -> anyhow::Result<()> {
    let folder = &config.storage.data_dir;
    carillon_storage::mark_put_back(folder)?;
    out::line(format_args!("{}: all timelines get new epochs at the next start", folder.display()))
}

/// The runtime of commands that do one thing and end.
fn small<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("can't start the runtime")?;
    let done = runtime.block_on(work);
    // A read of standard input can't be cancelled, and nobody waits for its result any more.
    runtime.shutdown_background();
    done
}

impl Options {
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        if let Some(file) = self.config.as_ref().filter(|file| !file.exists()) {
            return Err(
                refused::Failed::Arguments(format!("--config {}: there is no such file", file.display())).into()
            );
        }
        let layers = self.layers(Layers::default())?;
        for warning in layers.warnings() {
            out::tell(format_args!("carillon: {warning}"));
        }
        Ok(layers.load()?)
    }

    /// The configuration file, relative to the current folder.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| variable("CARILLON_CONFIG").map(PathBuf::from))
    }

    /// Adds file, environment and flags to `layers`.
    pub(crate) fn layers(&self, mut layers: Layers) -> anyhow::Result<Layers> {
        if let Some(file) = self.file() {
            layers = layers.file(&file);
        }
        let layers = layers.environment(std::env::vars_os().filter_map(|(name, value)| {
            // A setting must be Unicode, and the name of a setting is ASCII.
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }));
        let layers = layers.sets(&self.sets)?;
        Ok(layers.flag("data_dir", self.data_dir.as_deref(), "--data-dir").flag(
            "log.level",
            self.log_level.as_deref(),
            "--log-level",
        ))
    }

    /// The flags that another command needs to reach the same service.
    pub(crate) fn to_flags(&self) -> String {
        let config = self.file().into_iter().map(|file| format!(" --config {}", file.display()));
        let data = self.data_dir.iter().map(|folder| format!(" --data-dir {folder}"));
        let needed =
            ["data_dir=", "cluster.", "router.listen=", "router.advertise=", "gateway.routers=", "gateway.jwt"];
        let needed = |set: &&String| needed.iter().any(|start| set.starts_with(start));
        let sets = self.sets.iter().filter(needed).map(|set| format!(" --set '{}'", without_secret(set)));
        config.chain(data).chain(sets).collect()
    }
}

/// An environment variable, unless it is absent or empty: an empty variable counts as absent.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `KEY=VALUE` without the value if that is a secret.
fn without_secret(set: &str) -> Cow<'_, str> {
    match set.split_once('=') {
        Some((key, _)) if is_secret(key.trim()) => Cow::Owned(format!("{key}=...")),
        _ => Cow::Borrowed(set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_configuration_can_be_looked_at_without_a_role() {
        let parsed = |arguments: &[&str]| Cli::try_parse_from([&["carillon"], arguments].concat()).and_then(Cli::check);
        let cli = parsed(&["--check-config", "--set", "a=1"]).expect("means all");
        assert!(cli.command.is_none() && cli.serve != serve::Serve::default());
        parsed(&["router", "--print-config"]).expect("behind the role");
        for wrong in [["--check-config", "router"], ["--print-config", "status"]] {
            assert_eq!(parsed(&wrong).map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::ArgumentConflict));
        }
    }

    #[test]
    fn no_time_is_longer_than_a_day() {
        let ok = |arguments: &[&str]| Cli::try_parse_from([&["carillon", "cluster"], arguments].concat()).is_ok();
        assert!(ok(&["init", "--timeout", "86400"]) && ok(&["--ready-timeout", "1"]));
        for wrong in ["18446744073709551615", "86401", "0"] {
            assert!(!ok(&["init", "--timeout", wrong]) && !ok(&["--ready-timeout", wrong]), "{wrong}");
        }
    }

    #[test]
    fn settings_may_come_before_and_after_the_command() {
        let cli = Cli::parse_from(["carillon", "--set", "a=1", "listen", "bob", "--config", "x.toml"]);
        assert_eq!(cli.options.config, Some(PathBuf::from("x.toml")));
        assert!(matches!(cli.command, Some(Command::Listen(_))));
    }
}
