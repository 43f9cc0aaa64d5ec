//! The program, run as a command that ends.

use std::{
    net::IpAddr,
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

/// All roles in one process with the default ports, on an address of its own.
pub fn all_in_one(ip: IpAddr, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.arg("all").current_dir(folder);
    let ports = [
        ("admin", 7400),
        ("storage", 7401),
        ("router", 7402),
        ("gateway.tcp", 7410),
        ("gateway.ws", 7411),
        ("gateway.grpc", 7412),
    ];
    for (key, port) in ports {
        command.args(["--set", &format!("{key}.listen={ip}:{port}")]);
    }
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
