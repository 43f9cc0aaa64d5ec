//! Runs programs of the machine, each with a time limit.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use super::ClusterError;

/// Longer than a command waits for a storage node.
const ASK: Duration = Duration::from_secs(30);

/// Runs a program for at most 20 seconds, and returns its standard output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, ClusterError> {
    let failed = |why: String| ClusterError::Tool { command: format!("{program} {}", arguments.join(" ")), why };
    let output = Command::new("timeout").args(["-k", "1", "20", program]).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim())))
}

/// The output and the exit status of a program.
#[derive(Debug)]
pub(crate) struct Told {
    command: String,
    status: ExitStatus,
    pub(crate) said: String,
    pub(crate) errors: String,
}

impl Told {
    /// `None` if a signal has ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The standard output, if the program ended with 0.
    pub(crate) fn done(self) -> Result<String, ClusterError> {
        if self.status.success() { Ok(self.said) } else { Err(self.failed()) }
    }

    pub(crate) fn failed(self) -> ClusterError {
        ClusterError::Tool { command: self.command, why: format!("{}: {}", self.status, self.errors) }
    }
}

/// Like `run`, for a program that waits for nodes: nobody waits for it on a thread that others need.
pub(crate) async fn ask(program: &Path, arguments: &[&str]) -> Result<String, ClusterError> {
    ask_for(program, arguments, ASK).await?.done()
}

/// Runs a program that may take so long, and whose exit code means something.
pub(crate) async fn ask_for(program: &Path, arguments: &[&str], patience: Duration) -> Result<Told, ClusterError> {
    let command = format!("{} {}", program.display(), arguments.join(" "));
    let failed = |why: String| ClusterError::Tool { command: command.clone(), why };
    let mut asked = tokio::process::Command::new(program);
    asked.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(patience, asked.output()).await;
    let output = output.map_err(|_| failed(format!("no end within {patience:?}")))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(Told { said: text(&output.stdout), errors: text(&output.stderr), status: output.status, command })
}

/// Like `run`, for a line of words without quoting.
pub(crate) fn line(words: &str) -> Result<String, ClusterError> {
    let mut words = words.split_whitespace();
    let program = words.next().unwrap_or_default();
    run(program, &words.collect::<Vec<_>>())
}

pub(crate) fn require_root() -> Result<(), ClusterError> {
    let me = fs::metadata("/proc/self").map_err(ClusterError::io("/proc/self"))?;
    if me.uid() == 0 { Ok(()) } else { Err(ClusterError::NotRoot) }
}

pub(crate) fn require(tools: &[(&'static str, &'static str)]) -> Result<(), ClusterError> {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    for (tool, package) in tools.iter().copied() {
        if !folders.iter().any(|folder| Path::new(folder).join(tool).exists()) {
            return Err(ClusterError::Missing { tool, package });
        }
    }
    Ok(())
}
