//! Carillon as a program: the roles of one process, wired, started, watched and stopped in order.

// Output that may fail must not panic: see cli/out.rs.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod causes;
mod certificates;
mod check;
mod cli;
mod config;
mod descriptors;
mod diagnosis;
mod log_writer;
mod machine;
mod memory;
mod metrics;
mod recent_log;
mod redact;
mod reload;
mod role;
mod running;
mod shutdown;
mod telemetry;

pub use cli::run;
pub use config::{
    AdminConfig, ClusterConfig, ClusterTlsConfig, Config, ConfigError, Layers, LogConfig, LogFormat, Secret,
    SecretError, Secrets, TraceConfig,
};
pub use role::Role;
pub use running::{Addresses, Running, StartError, start};
pub use telemetry::Telemetry;
