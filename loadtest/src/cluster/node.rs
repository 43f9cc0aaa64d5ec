//! One process of the cluster, which can be killed, paused and started again.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{ClusterError, Role, admin, clock::Clock, plan::PlannedNode, tool};

pub struct Node {
    pub(crate) planned: PlannedNode,
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    /// The index of its address in the network.
    pub(crate) place: usize,
    /// True if the node has left the cluster for good: nobody starts it again.
    pub(crate) retired: bool,
    /// The network namespace of the process.
    pub(crate) namespace: Option<String>,
    pub(crate) clock: Option<Clock>,
    pub(crate) process: Option<Child>,
}

/// Pause between two checks of a condition.
const LOOK: Duration = Duration::from_millis(20);

impl Node {
    pub fn name(&self) -> &str {
        &self.planned.name
    }

    pub fn role(&self) -> Role {
        self.planned.role
    }

    /// The address for other nodes.
    pub fn address(&self) -> String {
        self.planned.internal()
    }

    pub fn start(&mut self) -> Result<(), ClusterError> {
        let log = File::options().create(true).append(true).open(&self.log).map_err(ClusterError::io(&self.log))?;
        let errors = log.try_clone().map_err(ClusterError::io(&self.log))?;
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.arg(self.planned.role.as_str()).arg("--config").arg(&self.config);
        // The process ends with this one, however this one ends.
        command.arg("--stop-with-stdin").stdin(Stdio::piped()).stdout(log).stderr(errors);
        // Ctrl-C in a terminal reaches only this process, which cleans up in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if let Some(clock) = &self.clock {
            command.envs(clock.environment());
        }
        self.process = Some(command.spawn().map_err(ClusterError::io(&self.program))?);
        Ok(())
    }

    /// Makes the cluster of the storage nodes that the node's configuration names.
    pub(crate) fn make_cluster(&self) -> Result<(), ClusterError> {
        match self.command(&["cluster", "init", "--timeout", "15"]) {
            // Early builds of 0.1.0 do not have the command: their storage nodes make it by themselves.
            Err(ClusterError::Tool { why, .. }) if why.contains("unexpected argument 'init'") => Ok(()),
            made => made.map(drop),
        }
    }

    /// Makes the data of this node, which does not run, whole. Returns what the command says.
    pub(crate) async fn repair(&self) -> Result<String, ClusterError> {
        tool::ask(&self.program, &["repair", "--config", &self.config.to_string_lossy()]).await
    }

    /// Runs a command of the program with the node's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        let (program, config) = (self.program.to_string_lossy(), self.config.to_string_lossy());
        let arguments = [arguments, &["--config", &*config]].concat();
        match &self.namespace {
            Some(namespace) => {
                let net = format!("--net=/run/netns/{namespace}");
                tool::run("nsenter", &[&[&*net, &*program], arguments.as_slice()].concat())
            }
            None => tool::run(&program, &arguments),
        }
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// The exit status, if the process has ended by itself since the last call.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status)
    }

    /// Sends SIGKILL, which also ends a stopped process. Does nothing if no process runs.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The process may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Sends a signal by its name, for example `STOP`.
    pub fn signal(&self, signal: &str) -> Result<(), ClusterError> {
        let Some(process) = &self.process else { return Ok(()) };
        tool::run("kill", &["-s", signal, &process.id().to_string()]).map(drop)
    }

    /// Waits for the process to end, after it was told to end.
    pub async fn wait_end(&mut self, patience: Duration) -> Result<ExitStatus, ClusterError> {
        let give_up = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if self.process.is_none() || Instant::now() > give_up {
                return Err(ClusterError::NotEnding { node: self.name().to_owned(), patience, log: self.log.clone() });
            }
            sleep(LOOK).await;
        }
    }

    pub async fn is_ready(&self) -> bool {
        let answer = admin::get(self.planned.admin(), "/readyz").await;
        answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Waits until the node is not ready for a reason that contains this text.
    pub async fn wait_until_it_says(&mut self, text: &str, patience: Duration) -> Result<(), ClusterError> {
        let give_up = Instant::now() + patience;
        while !admin::get(self.planned.admin(), "/readyz").await.is_some_and(|answer| answer.contains(text)) {
            let (node, log) = (self.name().to_owned(), self.log.clone());
            if let Some(status) = self.ended() {
                return Err(ClusterError::Ended { node, status, log });
            }
            if Instant::now() > give_up {
                return Err(ClusterError::NotSaid { node, text: text.to_owned(), patience, log });
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    pub async fn wait_ready(&mut self, patience: Duration) -> Result<(), ClusterError> {
        let give_up = Instant::now() + patience;
        while !self.is_ready().await {
            if let Some(status) = self.ended() {
                let (node, log) = (self.name().to_owned(), self.log.clone());
                return Err(ClusterError::Ended { node, status, log });
            }
            if Instant::now() > give_up {
                return Err(ClusterError::NotReady { node: self.name().to_owned(), patience, log: self.log.clone() });
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The sum of a metric over its labels; 0 when the node does not answer.
    pub async fn metric(&self, name: &str) -> f64 {
        admin::metric(&admin::get(self.planned.admin(), "/metrics").await.unwrap_or_default(), name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
