//! One process of the local cluster.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use super::{
    super::{admin_http, out},
    plan::Planned,
};

pub(super) struct Node {
    pub(super) planned: Planned,
    pub(super) state: String,
    dir: PathBuf,
    child: Option<Child>,
    /// The node stops in order when this pipe ends, even if this process dies.
    stdin: Option<ChildStdin>,
    died: Option<Instant>,
}

const READY: &str = "ready";

impl Node {
    pub(super) fn new(planned: Planned, dir: &Path) -> Self {
        Self { planned, state: "starting".to_owned(), dir: dir.to_owned(), child: None, stdin: None, died: None }
    }

    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.planned.log);
        let log = log.with_context(|| format!("can't write {}", self.planned.log.display()))?;
        let program = std::env::current_exe().context("can't find this program")?;
        let mut child = Command::new(program)
            .arg(self.planned.role().as_str())
            .arg("--stop-with-stdin")
            .arg("--config")
            .arg(&self.planned.config)
            .current_dir(&self.dir)
            // The file has the environment's settings already, and some of these are for one node only.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("CARILLON_")))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("log")?)
            .stderr(log)
            // A Ctrl-C in the terminal reaches this process only, which stops the nodes in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {}", self.planned.name))?;
        self.planned.pid = child.id().unwrap_or(0);
        self.stdin = child.stdin.take();
        self.child = Some(child);
        self.died = None;
        self.state = "starting".to_owned();
        Ok(())
    }

    /// True if the state has changed since the last look.
    pub(super) async fn look(&mut self) -> bool {
        if self.died.is_none()
            && let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            self.died = Some(Instant::now());
            return self.change_to(format!("died ({status})"));
        }
        let admin = self.planned.addresses.get("admin").map_or("", String::as_str);
        match admin_http::get(admin, "/readyz").await {
            Ok((200, _)) => self.change_to(READY.to_owned()),
            Ok((_, why)) => self.change_to(format!("not ready: {}", why.trim().replace('\n', ", "))),
            // That the process died says more.
            Err(_) if self.died.is_some() => false,
            Err(_) if self.state == "starting" => false,
            Err(error) => self.change_to(format!("does not answer: {error}")),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == READY
    }

    /// The time since which the process that was started here is gone.
    pub(super) fn died_since(&self) -> Option<Instant> {
        self.died
    }

    pub(super) fn tell_to_stop(&mut self) {
        self.stdin = None;
    }

    pub(super) async fn stopped(&mut self, patience: Duration) {
        let Some(child) = &mut self.child else { return };
        if timeout(patience, child.wait()).await.is_err() {
            out::note(format_args!("{} did not stop in time: killed", self.planned.name));
            if let Err(error) = child.kill().await {
                out::note(format_args!("{}: {error}", self.planned.name));
            }
        }
    }

    /// The last lines of the node's log.
    pub(super) fn last_lines(&self) -> String {
        let tail = || {
            let mut file = fs::File::open(&self.planned.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2048)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        tail().unwrap_or_else(|error| format!("{}: {error}", self.planned.log.display()))
    }

    fn change_to(&mut self, state: String) -> bool {
        let changed = self.state != state;
        self.state = state;
        changed
    }
}
