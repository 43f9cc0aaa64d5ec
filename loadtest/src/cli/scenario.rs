//! The arguments of scenarios that are chosen by a command of their own.

use std::{num::ParseFloatError, path::PathBuf};

use clap::{Args, Subcommand};

use super::{
    arguments::{OutputArguments, number_of_seconds},
    memberships::Memberships,
};
use crate::{credentials::SignInPart, measure::proc};

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

/// A number above zero, as of messages a second.
fn above_zero(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error: ParseFloatError| error.to_string())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("it must be above 0".to_owned()) }
}
