//! `carillon-faults`: faults on a local cluster under load.

use std::process::ExitCode;

use carillon_loadtest::faults::{FaultsCommand, Outcome};
use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match FaultsCommand::parse().run().await {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("carillon-faults: {error:#}");
            Outcome::Invalid.into()
        }
    }
}
