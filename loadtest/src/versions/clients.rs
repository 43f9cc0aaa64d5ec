//! Clients of the old release: its own load generator, which checks what it sent.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use carillon_proto::tasks::Tasks;
use tokio::{process::Command, sync::oneshot};

use crate::cluster::{Cluster, ClusterError};

/// Runs one generator after the other until it is told to end.
pub(super) struct OldClients {
    ending: Arc<AtomicBool>,
    results: oneshot::Receiver<Results>,
}

#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) runs: usize,
    /// The broken promises that the generators found.
    pub(super) violations: Vec<String>,
    /// Why some of them found out nothing.
    pub(super) problems: Vec<String>,
}

const USERS: &str = "4";
const RATE: &str = "20";
/// Shorter than the replacement of all processes, so that clients also sign in while releases are mixed.
const SECONDS: &str = "8";
const PATIENCE: &str = "60";

impl OldClients {
    pub(super) fn start(generator: PathBuf, cluster: &Cluster, tasks: &Tasks) -> Result<Self, ClusterError> {
        let secret = cluster.token_secret_file()?;
        let mut command = vec!["direct".to_owned(), "--token-secret-file".to_owned(), secret.display().to_string()];
        for address in cluster.addresses() {
            command.extend(["--url".to_owned(), address.to_string()]);
        }
        let fixed = ["--users", USERS, "--rate", RATE, "--seconds", SECONDS, "--patience", PATIENCE];
        command.extend(fixed.map(str::to_owned));
        let ending = Arc::<AtomicBool>::default();
        let told = Arc::clone(&ending);
        let (tell, results) = oneshot::channel();
        tasks.spawn("old clients", async move {
            let mut results = Results::default();
            while !told.load(Ordering::Relaxed) {
                let output =
                    Command::new(&generator).args(&command).stdin(Stdio::null()).kill_on_drop(true).output().await;
                results.runs += 1;
                match output {
                    Ok(output) => {
                        let said = String::from_utf8_lossy(&output.stdout).into_owned();
                        results.take(output.status.code(), &said, &String::from_utf8_lossy(&output.stderr));
                    }
                    Err(error) => {
                        results.problems.push(format!("{}: {error}", generator.display()));
                        break;
                    }
                }
            }
            // Nobody waits any more if the run was interrupted.
            let _ = tell.send(results);
        });
        Ok(Self { ending, results })
    }

    /// Waits for the end of the generator that runs.
    pub(super) async fn finish(self) -> Results {
        self.ending.store(true, Ordering::Relaxed);
        self.results.await.unwrap_or_else(|_| {
            let problems = vec!["clients of the old release were stopped".to_owned()];
            Results { problems, ..Results::default() }
        })
    }
}

impl Results {
    /// `code` is that of `carillon-loadtest`. A generator on a busy machine may send late, which says nothing about the messages.
    fn take(&mut self, code: Option<i32>, said: &str, errors: &str) {
        let verdict = said.lines().find(|line| line.starts_with("integrity: ")).unwrap_or_default();
        match code {
            Some(2) => self.violations.push(format!("a client of the old release: {verdict}")),
            Some(0 | 3 | 4) if verdict.contains("nothing lost") => {}
            _ => self.problems.push(format!("a client of the old release ended with {code:?}: {}", errors.trim())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_generator_is_no_broken_promise_and_a_failed_one_is_no_success() {
        let of = |code, said: &str| {
            let mut results = Results::default();
            results.take(code, said, "");
            (results.violations.len(), results.problems.len())
        };
        let well = "integrity: nothing lost, doubled, reordered, invented or corrupted";
        assert_eq!(of(Some(0), well), (0, 0));
        assert_eq!(of(Some(4), well), (0, 0), "it was late");
        assert_eq!(of(Some(2), "integrity: 1 lost"), (1, 0));
        assert_eq!(of(Some(4), "INVALID: nobody signed in"), (0, 1));
        assert_eq!(of(Some(1), ""), (0, 1));
        assert_eq!(of(None, well), (0, 1), "it was killed");
    }
}
