//! `carillon-versions`: a release and the one before it in one cluster, under load.

use std::process::ExitCode;

use carillon_loadtest::{faults::Outcome, versions::VersionsCommand};
use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match VersionsCommand::parse().run().await {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("carillon-versions: {error:#}");
            Outcome::Invalid.into()
        }
    }
}
