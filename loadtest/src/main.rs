//! `carillon-loadtest`: load on a running service, and a verdict.

use std::process::ExitCode;

fn main() -> ExitCode {
    carillon_loadtest::cli::main()
}
