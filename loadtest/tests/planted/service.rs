//! The whole service as a process of its own, which can be killed. It may carry a planted bug.

use std::{
    env,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

use carillon::{Layers, Role, Telemetry};
use carillon_proto::planted::{VARIABLE, WHOM};
use tempfile::TempDir;

const CONFIG: &str = "CARILLON_TEST_SERVICE";
const TOKEN_SECRET: &str = "a secret that only the tests have";
pub(crate) const CLUSTER_SECRET: &str = "cluster-secret-of-the-tests";
pub(crate) const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Service {
    /// Name of the planted bug.
    bug: Option<String>,
    pub(crate) folder: TempDir,
    ip: Ipv4Addr,
    process: Option<Child>,
}

impl Service {
    /// Prepares a service without starting a process.
    pub(crate) fn new(bug: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ip = own_address();
        let config = format!(
            r#"
            data_dir = "{data}"
            cluster.secret = "{CLUSTER_SECRET}"
            admin.listen = "{ip}:7400"
            storage.listen = "{ip}:7401"
            storage.directory_shards = 1
            storage.timeline_shards = 2
            storage.heartbeat_ms = 100
            storage.election_min_ms = 300
            storage.election_max_ms = 600
            router.listen = "{ip}:7402"
            router.storage = ["{ip}:7401"]
            gateway.routers = ["{ip}:7402"]
            gateway.tcp.listen = "{ip}:7410"
            gateway.ws.enabled = false
            gateway.grpc.enabled = false
            gateway.sends_per_second = 100000
            gateway.send_burst = 100000
            gateway.jwt.leeway_s = 0
            gateway.jwt.keys = [
                {{ algorithm = "HS256", secret = "{TOKEN_SECRET}" }},
                {{ algorithm = "ES256", kid = "es", public_key_file = "{KEYS}/es256.pub.pem" }},
            ]
            "#,
            data = folder.path().join("data").display(),
        );
        fs::write(folder.path().join("service.toml"), config).expect("written");
        fs::write(folder.path().join("token"), TOKEN_SECRET).expect("written");
        Self { bug: bug.map(str::to_owned), folder, ip, process: None }
    }

    /// The file with the name of the user whom a planted bug concerns.
    pub(crate) fn whom(&self) -> PathBuf {
        self.folder.path().join("whom")
    }

    /// The configuration of a canary of this service.
    pub(crate) fn canary(&self) -> String {
        format!(
            r#"
            data_dir = "{data}"
            cluster.secret = "{CLUSTER_SECRET}"
            admin.listen = "{ip}:7500"
            gateway.routers = ["{ip}:7402"]
            canary.gateways = ["{url}"]
            "#,
            data = self.folder.path().join("canary").display(),
            ip = self.ip,
            url = self.url(),
        )
    }

    pub(crate) fn url(&self) -> String {
        format!("tcp://{}:7410", self.ip)
    }

    /// Where the operator's commands go.
    pub(crate) fn router(&self) -> String {
        format!("{}:7402", self.ip)
    }

    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = Command::new(env::current_exe().expect("this test"));
        command
            .args(["--ignored", "--exact", "service::service_process", "--nocapture"])
            .env(CONFIG, self.folder.path().join("service.toml"))
            .env_remove(VARIABLE)
            .envs(self.bug.as_ref().map(|bug| (VARIABLE, bug)))
            .env(WHOM, self.whom())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.process = Some(command.spawn().expect("starts"));
    }

    pub(crate) fn wait_ready(&mut self) {
        self.wait_until("it is ready", |service| {
            service.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
    }

    /// Waits until this process has accepted so many messages.
    pub(crate) fn wait_accepted(&mut self, count: f64) {
        self.wait_until("messages are accepted", |service| {
            let metrics = service.get("/metrics").unwrap_or_default();
            let values = metrics.lines().filter_map(|line| line.strip_prefix("carillon_gateway_accepted_total "));
            values.filter_map(|value| value.parse::<f64>().ok()).sum::<f64>() >= count
        });
    }

    /// Waits for the process to end by itself; true if it succeeded.
    pub(crate) fn wait_end(&mut self) -> bool {
        let process = self.process.as_mut().expect("runs");
        let ended = wait(process, DEADLINE).expect("it ends");
        self.process = None;
        ended
    }

    /// Removes the bug from the next process.
    pub(crate) fn cure(&mut self) {
        self.bug = None;
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("runs");
        process.kill().expect("kills");
        process.wait().expect("ends");
    }

    pub(crate) fn words(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("service.log")
    }

    fn wait_until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !so(self) {
            let process = self.process.as_mut().expect("runs");
            assert!(process.try_wait().expect("status").is_none(), "it has ended before {what}");
            assert!(begun.elapsed() < DEADLINE, "waited in vain until {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn get(&self, path: &str) -> Option<String> {
        self.get_from(7400, path)
    }

    /// From the listener of an operator at this port of the service's address.
    pub(crate) fn get_from(&self, port: u16, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((self.ip, port)), Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        if thread::panicking() {
            let log = self.words();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the service's log ends with:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// True if the process succeeded, `None` if it is still running.
pub(crate) fn wait(process: &mut Child, patience: Duration) -> Option<bool> {
    let begun = Instant::now();
    loop {
        if let Some(status) = process.try_wait().expect("status") {
            return Some(status.success());
        }
        if begun.elapsed() > patience {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A loopback address for each service, so that no other service takes its ports while it is down.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + NEXT.fetch_add(1, Ordering::Relaxed), high, low)
}

/// Not a test: [`Service`] starts this as its process, because the test needs a process that it can kill.
#[test]
#[ignore = "it is the service that the others start"]
fn service_process() {
    let Some(config) = env::var_os(CONFIG) else { return };
    let config = Layers::default().file(Path::new(&config)).load().expect("a configuration");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let _telemetry = Telemetry::install(&config, "all").expect("installed");
        let running = match carillon::start(config, Role::ALL).await {
            Ok(running) => running,
            Err(error) => panic!("can't start: {error}"),
        };
        // The parent may have ended; then this process ends, too.
        let (tell, closed) = tokio::sync::oneshot::channel();
        thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = tell.send(());
        });
        tokio::select! {
            why = running.failed() => panic!("{why}"),
            _ = closed => {}
        }
    });
}
