//! The program as a command that ends.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

pub fn carillon(arguments: &[&str], folder: &Path) -> Output {
    carillon_with(arguments, &[], folder)
}

pub fn carillon_with(arguments: &[&str], environment: &[(&str, &str)], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.envs(environment.iter().copied()).output().expect("the program starts")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
