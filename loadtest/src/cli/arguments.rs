//! The arguments of the command line.

use std::{num::ParseFloatError, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::scenario::{Direct, Scenario};
use crate::{
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

pub(super) fn number_of_seconds(text: &str) -> Result<f64, String> {
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
