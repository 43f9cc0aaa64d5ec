//! The arguments of the command line.

use std::{num::ParseFloatError, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::memberships::Memberships;
use crate::{
    credentials::SignInPart,
    faults::parse_length,
    measure::proc,
    session::{Outputs, Print},
};

/// A year: beyond it, a number is a slip.
const MOST_SECONDS: f64 = 366.0 * 86_400.0;

/// Load on a running Carillon, what it costs, and a verdict on every message.
///
/// Without a command it is `direct`. Exit codes: 0 all was well; 1 the request was wrong or something failed; 2 a
/// promise was broken; 3 a level was missed; 4 the run says nothing, for example because the generator was the limit; 5 it
/// was interrupted.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    direct: Direct,
}

impl Arguments {
    pub(super) fn chosen(self) -> Command {
        self.command.unwrap_or(Command::Scenario(Scenario::Direct(self.direct)))
    }
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(super) enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Carry out a scenario file, or a preset (`presets` lists them)
    Run(RunArguments),
    /// Carry out a scenario with several workers, which may run on other machines
    Coordinate(CoordinateArguments),
    /// Take a share of the load that a coordinator hands out
    Work(WorkArguments),
    /// The presets: their names, or the text of one
    Presets(Presets),
    /// A bare relay: what a message costs at least on this machine
    Relay(RelayArguments),
    /// Small appends with fdatasync: how quick an acceptance can be on this disk
    FlushProbe(FlushProbe),
    /// Two reports beside each other
    Compare(Compare),
}

#[derive(Subcommand)]
pub(super) enum Scenario {
    /// Users who write to each other, as fast as it goes or at a rate
    Direct(Direct),
    /// Connections that are signed in and idle: memory and CPU of the servers
    Idle(Idle),
    /// Sign-ins a second and what they cost
    SignIn(SignIn),
    /// Messages to users who are away, and their catch-up
    Offline(Offline),
    /// Connections that break at once and come back
    Herd(Herd),
}

#[derive(Args)]
pub(super) struct Common {
    /// A gateway, for example tcp://127.0.0.1:7410 or wss://127.0.0.1:7411/ws; may be given several times
    #[arg(long, default_value = "tcp://127.0.0.1:7410")]
    pub(super) url: Vec<String>,
    /// The file with the secret that signs tokens
    #[arg(long, default_value = "data/secrets/token")]
    pub(super) token_secret_file: PathBuf,
    #[command(flatten)]
    pub(super) sign_in: SignInPart,
    /// PEM file with the authority that signed the gateways' certificate, instead of the public ones
    #[arg(long)]
    pub(super) ca: Option<PathBuf>,
    /// The name in the gateways' certificate, if it is not the host of the URL
    #[arg(long)]
    pub(super) server_name: Option<String>,
    /// Processes whose CPU and memory are measured
    #[arg(long, num_args = 1.., value_name = "PID")]
    pub(super) server_pid: Vec<u32>,
    /// Servers whose CPU and memory are read from their admin listener, for example http://127.0.0.1:7400. They renew
    /// these figures every 5 s: process ids are more exact
    #[arg(long, num_args = 1.., value_name = "URL")]
    pub(super) admin: Vec<String>,
    /// Gateways whose admin listener is asked how many sends they read and refused, and how long those took that they
    /// let in; for direct chat
    #[arg(long, num_args = 1.., value_name = "URL")]
    pub(super) gateway_admin: Vec<String>,
    /// Threads that make the load
    #[arg(long, default_value_t = proc::cores())]
    pub(super) workers: usize,
    #[command(flatten)]
    pub(super) outputs: OutputArguments,
    /// Level: 99th percentile of every kind of latency that the run has
    #[arg(long)]
    pub(super) max_p99_ms: Option<f64>,
    /// Level: accepted messages (or sign-ins) a second
    #[arg(long)]
    pub(super) min_rate: Option<f64>,
    /// Level: server CPU in microseconds for each message (or sign-in)
    #[arg(long)]
    pub(super) max_cpu_us: Option<f64>,
}

#[derive(Args)]
pub(super) struct Direct {
    #[command(flatten)]
    pub(super) common: Common,
    /// At least 2
    #[arg(long, default_value_t = 10)]
    pub(super) users: usize,
    /// Connections of each user
    #[arg(long, default_value_t = 1)]
    pub(super) devices: usize,
    /// Sends a second over all users; without it as many as the window allows
    #[arg(long, value_parser = above_zero)]
    pub(super) rate: Option<f64>,
    /// Sends of each user without an answer
    #[arg(long, default_value_t = 16)]
    pub(super) window: usize,
    /// So many users have one more device, which reads slowly until the sending ends
    #[arg(long, default_value_t = 0)]
    pub(super) slow_readers: usize,
    /// Milliseconds that such a device pauses after each message
    #[arg(long, default_value_t = 50)]
    pub(super) slow_pause_ms: u64,
    /// Size of a message's text
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    /// Sending before anything is measured
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS", value_parser = number_of_seconds)]
    pub(super) warm_up: f64,
    #[arg(long, default_value_t = 10.0, value_parser = number_of_seconds)]
    pub(super) seconds: f64,
    /// How long the last messages may take after the end
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = number_of_seconds)]
    pub(super) patience: f64,
    /// Measure a bare relay and flushes in this folder (one on the servers' disk) right before the run
    #[arg(long, value_name = "FOLDER")]
    pub(super) limits: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Idle {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 1000)]
    pub(super) connections: usize,
    /// Sign-ins at the same time
    #[arg(long, default_value_t = 64)]
    pub(super) concurrency: usize,
    #[command(flatten)]
    pub(super) groups: Memberships,
    /// Between the last sign-in and the measurement
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = number_of_seconds)]
    pub(super) warm_up: f64,
    #[arg(long, default_value_t = 10.0, value_parser = number_of_seconds)]
    pub(super) seconds: f64,
}

#[derive(Args)]
pub(super) struct SignIn {
    #[command(flatten)]
    pub(super) common: Common,
    /// Sign-ins in all
    #[arg(long, default_value_t = 1000)]
    pub(super) count: usize,
    /// Who sign in, in turn; without it each one once
    #[arg(long)]
    pub(super) users: Option<usize>,
    /// Sign-ins at the same time
    #[arg(long, default_value_t = 32)]
    pub(super) concurrency: usize,
    /// Sign-ins begun a second; without it as many as the concurrency allows
    #[arg(long, value_parser = above_zero)]
    pub(super) rate: Option<f64>,
    /// Sign out after each, rather than stay until the end; what it costs is in the figures then
    #[arg(long)]
    pub(super) sign_out: bool,
    /// Do not sign everyone in once before, so that the making of their accounts is measured, too
    #[arg(long)]
    pub(super) new_users: bool,
    /// Sign in by resume tickets: every device gets one before the measurement, as it signs in otherwise
    #[arg(long, conflicts_with_all = ["new_users", "groups"])]
    pub(super) resume: bool,
    #[command(flatten)]
    pub(super) groups: Memberships,
    /// The devices have everything of their groups already, and say so
    #[arg(long, requires = "groups")]
    pub(super) up_to_date: bool,
}

#[derive(Args)]
pub(super) struct Offline {
    #[command(flatten)]
    pub(super) common: Common,
    /// Users who are away
    #[arg(long, default_value_t = 100)]
    pub(super) absent: usize,
    #[arg(long, default_value_t = 10)]
    pub(super) senders: usize,
    /// Messages in all
    #[arg(long, default_value_t = 10_000)]
    pub(super) messages: u64,
    /// Sends a second over all senders; without it as many as the window allows
    #[arg(long, value_parser = above_zero)]
    pub(super) rate: Option<f64>,
    /// Sends of each sender without an answer
    #[arg(long, default_value_t = 64)]
    pub(super) window: usize,
    /// Size of a message's text
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    /// How long each part may take
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS", value_parser = number_of_seconds)]
    pub(super) patience: f64,
}

#[derive(Args)]
pub(super) struct Herd {
    #[command(flatten)]
    pub(super) common: Common,
    #[arg(long, default_value_t = 1000)]
    pub(super) connections: usize,
    #[arg(long, default_value_t = 4)]
    pub(super) senders: usize,
    /// A shell command that breaks the connections, for example by killing a gateway; without it the clients drop them
    #[arg(long, value_name = "COMMAND")]
    pub(super) trigger_cmd: Option<String>,
    /// Size of a message's text
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    /// How long the way back may take
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = number_of_seconds)]
    pub(super) patience: f64,
}

#[derive(Args)]
pub(super) struct RunArguments {
    /// A TOML file, or the name of a preset
    #[arg(value_name = "FILE|PRESET")]
    pub(super) scenario: String,
    #[command(flatten)]
    pub(super) changes: Changes,
    #[command(flatten)]
    pub(super) outputs: OutputArguments,
    /// Threads that make the load
    #[arg(long, default_value_t = proc::cores())]
    pub(super) threads: usize,
    #[command(flatten)]
    pub(super) chaos: ChaosArguments,
    /// Check the scenario, print it as it would be run, and connect to nothing; files that it names are not read
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Args)]
pub(super) struct CoordinateArguments {
    /// A TOML file, or the name of a preset
    #[arg(value_name = "FILE|PRESET")]
    pub(super) scenario: String,
    #[command(flatten)]
    pub(super) changes: Changes,
    #[command(flatten)]
    pub(super) outputs: OutputArguments,
    /// How many workers share the load; the run begins when all are there
    #[arg(long)]
    pub(super) workers: usize,
    /// Where workers find this process
    #[arg(long, default_value = "127.0.0.1:7499", value_name = "ADDRESS")]
    pub(super) listen: String,
    #[command(flatten)]
    pub(super) together: Together,
}

#[derive(Args)]
pub(super) struct WorkArguments {
    /// Host and port of the coordinator
    #[arg(long, value_name = "ADDRESS")]
    pub(super) coordinator: String,
    #[command(flatten)]
    pub(super) together: Together,
    /// Threads that make the load
    #[arg(long, default_value_t = proc::cores())]
    pub(super) threads: usize,
    /// In the place of the scenario's target.token_secret_file
    #[arg(long, value_name = "FILE")]
    pub(super) token_secret_file: Option<PathBuf>,
    /// In the place of the scenario's target.ca
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
}

/// What the coordinator and its workers have in common.
#[derive(Args)]
pub(super) struct Together {
    /// The file with the secret by which coordinator and workers know each other, of at least 16 bytes
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: PathBuf,
    /// How long the others may take to be there
    #[arg(long, default_value = "5m", value_parser = parse_length)]
    pub(super) wait: Duration,
}

/// Where the faults of a scenario with [chaos] strike.
#[derive(Args)]
pub(super) struct ChaosArguments {
    /// In this namespace, of the present context of kubectl, with the label carillon-faults=allowed
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) kubernetes: Option<String>,
    /// Without it nothing is touched in Kubernetes
    #[arg(long, value_name = "CONTEXT/NAMESPACE", requires = "kubernetes")]
    pub(super) yes_i_mean: Option<String>,
    /// Say what the faults of a round would do, and neither do it nor make a load
    #[arg(long, requires = "kubernetes", conflicts_with = "yes_i_mean")]
    pub(super) dry_run: bool,
    /// In a cluster of processes on this machine, with its files in this folder, which is made for the run
    #[arg(long, value_name = "FOLDER", conflicts_with = "kubernetes")]
    pub(super) local_cluster: Option<PathBuf>,
    /// The program for --local-cluster; by default the one beside this program
    #[arg(long, value_name = "PROGRAM", requires = "local_cluster")]
    pub(super) carillon: Option<PathBuf>,
}

/// What is another one than in the scenario.
#[derive(Args)]
pub(super) struct Changes {
    /// Replaces a value of the scenario, for example direct.users=100; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Gateways in the place of target.addresses; may be given several times
    #[arg(long)]
    pub(super) url: Vec<String>,
    /// In the place of target.token_secret_file
    #[arg(long, value_name = "FILE")]
    pub(super) token_secret_file: Option<String>,
    /// In the place of target.ca
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<String>,
}

#[derive(Args)]
pub(super) struct OutputArguments {
    /// Write the report here
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write a page with plots here
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Write levels and findings as test cases of JUnit here
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    /// What is written to standard output at the end: text, json (in one line), html, junit; may be given several times
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) print: Vec<Print>,
    /// A text for the report
    #[arg(long, default_value = "")]
    pub(super) note: String,
}

#[derive(Args)]
pub(super) struct Presets {
    #[command(subcommand)]
    pub(super) command: Option<PresetCommand>,
}

#[derive(Subcommand)]
pub(super) enum PresetCommand {
    /// Print the text of a preset
    Show { name: String },
}

/// A number above zero, as of messages a second.
fn above_zero(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error: ParseFloatError| error.to_string())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("it must be above 0".to_owned()) }
}

fn number_of_seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error: ParseFloatError| error.to_string())?;
    let is_sound = (0.0..=MOST_SECONDS).contains(&number);
    if is_sound { Ok(number) } else { Err(format!("it must be from 0 to {MOST_SECONDS}")) }
}

impl Changes {
    /// All of them as `KEY=VALUE`.
    pub(super) fn all(&self) -> Vec<String> {
        let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let mut all = self.set.clone();
        if !self.url.is_empty() {
            let urls: Vec<_> = self.url.iter().map(|url| text(url)).collect();
            all.push(format!("target.addresses=[{}]", urls.join(", ")));
        }
        for (key, file) in [("token_secret_file", &self.token_secret_file), ("ca", &self.ca)] {
            all.extend(file.as_ref().map(|file| format!("target.{key}={}", text(file))));
        }
        all
    }
}

impl OutputArguments {
    pub(super) fn outputs(&self) -> Outputs {
        let print = self.print.clone();
        Outputs { json: self.json.clone(), html: self.html.clone(), junit: self.junit.clone(), print }
    }
}

#[derive(Args)]
pub(super) struct RelayArguments {
    /// Size of a message's text
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    /// Messages that travel together in the second part
    #[arg(long, default_value_t = 64)]
    pub(super) batch: usize,
    /// Seconds of each part
    #[arg(long, default_value_t = 2.0, value_parser = number_of_seconds)]
    pub(super) seconds: f64,
}

#[derive(Args)]
pub(super) struct FlushProbe {
    /// The folder of the file, which is removed at the end
    pub(super) folder: PathBuf,
    /// Size of each append
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    #[arg(long, default_value_t = 2.0, value_parser = number_of_seconds)]
    pub(super) seconds: f64,
}

#[derive(Args)]
pub(super) struct Compare {
    pub(super) a: PathBuf,
    pub(super) b: PathBuf,
    /// Write a page with both runs in each plot here
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

impl Scenario {
    pub(super) fn common(&self) -> &Common {
        match self {
            Self::Direct(arguments) => &arguments.common,
            Self::Idle(arguments) => &arguments.common,
            Self::SignIn(arguments) => &arguments.common,
            Self::Offline(arguments) => &arguments.common,
            Self::Herd(arguments) => &arguments.common,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_is_direct() {
        let arguments =
            Arguments::parse_from(["loadtest", "--users", "3", "--rate", "9", "--url", "ws://a", "--url", "tcp://b"]);
        let Command::Scenario(Scenario::Direct(direct)) = arguments.chosen() else { panic!("direct") };
        assert_eq!((direct.users, direct.rate, direct.common.url.len()), (3, Some(9.0), 2));
        let arguments = Arguments::parse_from(["loadtest", "idle", "--server-pid", "1", "2", "--connections", "5"]);
        let Command::Scenario(Scenario::Idle(idle)) = arguments.chosen() else { panic!("idle") };
        assert_eq!((idle.common.server_pid, idle.connections), (vec![1, 2], 5));
    }

    #[test]
    fn a_rate_or_a_time_that_makes_no_sense_is_refused() {
        for words in [
            ["direct", "--rate", "0"],
            ["direct", "--rate", "-5"],
            ["sign-in", "--rate", "NaN"],
            ["offline", "--rate", "inf"],
            ["direct", "--seconds", "inf"],
            ["direct", "--patience", "-1"],
            ["idle", "--warm-up", "1e300"],
        ] {
            // With `=`, so that a minus is no option.
            let [command, option, value] = words;
            let parsed = Arguments::try_parse_from(["loadtest", command, &format!("{option}={value}")]);
            assert!(parsed.is_err_and(|error| error.to_string().contains("it must be")), "{words:?}");
        }
        assert!(Arguments::try_parse_from(["loadtest", "direct", "--rate", "0.5", "--seconds", "0"]).is_ok());
    }
}
