//! `carillon-drill`: growth, backup, restore and erasure of a store of some size, under load.

use std::process::ExitCode;

use carillon_loadtest::{drill::DrillCommand, faults::Outcome};
use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match DrillCommand::parse().run().await {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("carillon-drill: {error:#}");
            Outcome::Invalid.into()
        }
    }
}
