//! `carillon-faults`: faults on a local cluster under load.

use std::process::ExitCode;

use carillon_loadtest::faults::FaultsCommand;
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    FaultsCommand::parse().run().await
}
