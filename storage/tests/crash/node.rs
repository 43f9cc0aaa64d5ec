//! A storage node as a process of its own, which can be killed.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use carillon_proto::{Readiness, tasks::Tasks};
use carillon_storage::{FoundError, Storage, StorageConfig};

use crate::support::{MAP, security};

const CONFIG: &str = "CARILLON_TEST_STORE";
const OPEN: &str = "store is open";
const READY: &str = "store is ready";
const DEADLINE: Duration = Duration::from_secs(60);

/// A node, whether its process is running or not.
pub(crate) struct Node {
    pub(crate) config: StorageConfig,
    pub(crate) log: PathBuf,
    /// A command that starts the process, placed before the process's own command line.
    pub(crate) wrapper: Vec<String>,
    process: Option<Process>,
}

struct Process {
    child: Child,
    /// When it is closed, the process stops in order.
    _stdin: ChildStdin,
    words: mpsc::Receiver<String>,
}

impl Node {
    pub(crate) fn new(data_dir: PathBuf, listen: SocketAddr, change: impl FnOnce(&mut StorageConfig)) -> Self {
        let log = data_dir.with_extension("log");
        let mut config = StorageConfig {
            listen,
            data_dir,
            directory_shards: MAP.directory,
            timeline_shards: MAP.timeline,
            directory_cache_bytes: 4 << 20,
            timeline_cache_bytes: 4 << 20,
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 600,
            log_bytes: 2 << 20,
            ..StorageConfig::default()
        };
        change(&mut config);
        Self { config, log, wrapper: Vec::new(), process: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// The process may not have opened anything when this returns.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "runs already");
        let this = env::current_exe().expect("this test").to_str().expect("UTF-8").to_owned();
        let own = [&this, "--ignored", "--exact", "node::store_process", "--nocapture"].map(str::to_owned);
        let mut words = self.wrapper.iter().cloned().chain(own);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let mut child = Command::new(words.next().expect("a program"))
            .args(words)
            .env(CONFIG, serde_json::to_string(&self.config).expect("encodes"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("starts");
        let stdin = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Bounded by the few lines that a process prints.
        let (tell, words) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        self.process = Some(Process { child, _stdin: stdin, words });
    }

    /// Waits until the node is ready, and returns how long that took.
    pub(crate) fn wait_ready(&mut self) -> Duration {
        let begun = Instant::now();
        let process = self.process.as_ref().expect("runs");
        loop {
            match process.words.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
                // The test harness prints on the same line.
                Ok(word) if word.ends_with(READY) => return begun.elapsed(),
                Ok(_) => {}
                Err(why) => panic!("not ready ({why}); its log ends with:\n{}", self.last_words()),
            }
        }
    }

    /// Sends SIGKILL. True if the node was ready before.
    pub(crate) fn kill(&mut self) -> bool {
        let mut process = self.process.take().expect("runs");
        process.child.kill().expect("kills");
        process.child.wait().expect("ends");
        process.words.try_iter().any(|word| word.ends_with(READY))
    }

    pub(crate) fn stop_in_order(&mut self) {
        // The process's output is still read.
        let Process { mut child, _stdin: stdin, words: _words } = self.process.take().expect("runs");
        drop(stdin);
        let ended = wait(&mut child);
        assert!(ended.success(), "did not stop in order: {ended}\n{}", self.last_words());
    }

    /// Resident memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let id = self.process.as_ref().expect("runs").child.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("has one");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    pub(crate) fn last_words(&self) -> String {
        let mut log = String::new();
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut log));
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("can be waited for") {
            return status;
        }
        assert!(begun.elapsed() < DEADLINE, "the process does not end");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Not a test: [`Node`] starts this as its process, because the test needs a process that it can kill.
#[test]
#[ignore = "it is the store that the others kill"]
fn store_process() {
    let Ok(config) = env::var(CONFIG) else { return };
    let config: StorageConfig = serde_json::from_str(&config).expect("a configuration");
    let makes_cluster = config.members.first().is_none_or(|first| *first == config.listen.to_string());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::WARN).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let storage = match Storage::open(config, security()).await {
            Ok(storage) => storage,
            Err(error) => panic!("can't open: {error}"),
        };
        println!("\n{OPEN}");
        let tasks = Tasks::new();
        storage.run(&tasks);
        // The parent may have ended; then this process ends, too.
        let (tell, closed) = tokio::sync::oneshot::channel();
        thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = tell.send(());
        });
        let mut ready = storage.ready();
        let serve = async {
            if makes_cluster {
                while let Err(FoundError::NotAll(_)) = storage.found().await {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            ready.wait_for(Readiness::is_ready).await.expect("goes on");
            println!("{READY}");
            loop {
                assert!(tasks.failure().is_none(), "{:?}", tasks.failure());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = serve => {}
            _ = closed => {
                storage.drain().await;
                assert!(tasks.finish(DEADLINE).await, "tasks ended");
            }
        }
    });
}
