//! One process of the built program.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// A loopback address that no other test on this machine uses. Ports need not be searched for, so no other program can
/// take one between search and use.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // Addresses 127.0.0.x are for programs with fixed addresses.
    IpAddr::V4(Ipv4Addr::new(127, (number % 250) as u8 + 1, high, low))
}

/// Waits for a condition; panics with `what` after the deadline.
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "waited {deadline:?} for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A node that can be killed and started again with the same configuration.
pub struct Node {
    pub name: String,
    role: &'static str,
    config: PathBuf,
    log: PathBuf,
    pub admin: SocketAddr,
    /// `None`: as many as this program may have.
    open_files: Option<u32>,
    process: Option<Child>,
}

impl Node {
    /// Writes the configuration (TOML) and starts the process.
    pub fn start(folder: &Path, name: &str, role: &'static str, admin: SocketAddr, config: &str) -> Self {
        Self::start_with_open_files(folder, name, role, admin, config, None)
    }

    /// Like `start`, with a limit (soft and hard) of open files.
    pub fn start_with_open_files(
        folder: &Path,
        name: &str,
        role: &'static str,
        admin: SocketAddr,
        config: &str,
        open_files: Option<u32>,
    ) -> Self {
        let path = folder.join(format!("{name}.toml"));
        File::create(&path).and_then(|mut file| file.write_all(config.as_bytes())).expect("configuration written");
        let log = folder.join(format!("{name}.log"));
        let mut node = Self { name: name.to_owned(), role, config: path, log, admin, open_files, process: None };
        node.start_again();
        node
    }

    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        let log = File::options().create(true).append(true).open(&self.log).expect("log");
        let program = env!("CARGO_BIN_EXE_carillon");
        let mut command = match self.open_files {
            None => Command::new(program),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(program);
                shell
            }
        };
        let child = command
            .arg(self.role)
            .arg("--config")
            .arg(&self.config)
            // The process ends with this test program, however that ends.
            .arg("--stop-with-stdin")
            .current_dir(self.config.parent().expect("folder"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.process = Some(child);
    }

    /// Runs a command of the program with this node's configuration.
    pub fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(arguments).arg("--config").arg(&self.config).current_dir(self.config.parent().expect("folder"));
        command.stdin(Stdio::null()).output().expect("the program starts")
    }

    /// The same. Returns its output, or why it failed.
    pub fn command(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.output(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Like `command`, with this as standard input.
    pub fn command_with(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(arguments).arg("--config").arg(&self.config).current_dir(self.config.parent().expect("folder"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Starts a command of the program with this node's configuration, whose output goes to this file.
    pub fn start_command(&self, arguments: &[&str], output: &Path) -> Running {
        let output = File::create(output).expect("output");
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(arguments).arg("--config").arg(&self.config).current_dir(self.config.parent().expect("folder"));
        let errors = output.try_clone().expect("output");
        Running(command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().expect("the program starts"))
    }

    /// The id of the running process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// Sends a signal by its name: STOP, CONT, HUP.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
        if name == "STOP" {
            until("the process stands still", Duration::from_secs(30), || self.threads().all(|state| state == "T"));
        }
    }

    /// The states of its threads, as proc(5) has them.
    fn threads(&self) -> impl Iterator<Item = String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        tasks.filter_map(|task| {
            // A task that has just ended has no such file.
            let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            // Behind the name in parentheses, which may have any character.
            stat.rsplit_once(") ")?.1.split(' ').next().map(str::to_owned)
        })
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        process.kill().expect("killed");
        process.wait().expect("reaped");
    }

    /// Changes the text of the configuration file. A running process has read the file already.
    pub fn change_config(&self, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(&self.config).expect("configuration");
        std::fs::write(&self.config, change(text)).expect("configuration written");
    }

    /// Sends SIGTERM, and waits for the orderly end.
    pub fn terminate(&mut self) {
        let mut process = self.process.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let status = Command::new("kill").arg(process.id().to_string()).status().expect("kill runs");
        assert!(status.success());
        // Waiting would close standard input, which the process would take for a second signal.
        let _stdin = process.stdin.take();
        let status = process.wait().expect("reaped");
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.log());
    }

    pub fn is_ready(&self) -> bool {
        get(self.admin, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    pub fn wait_ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.is_ready() {
            if let Some(status) = self.process.as_mut().and_then(|process| process.try_wait().expect("status")) {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            assert!(Instant::now() < end, "{} is not ready:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the process to end by itself; true if it succeeded.
    pub fn wait_end(&mut self) -> bool {
        self.wait_code() == Some(0)
    }

    /// Waits for the process to end by itself, and returns its exit code.
    pub fn wait_code(&mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let process = self.process.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name));
            if let Some(status) = process.try_wait().expect("status") {
                self.process = None;
                return status.code();
            }
            assert!(Instant::now() < end, "{} goes on", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The text of /metrics.
    pub fn metrics(&self) -> String {
        get(self.admin, "/metrics").unwrap_or_default()
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let lines = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// A command that runs until it is dropped.
pub struct Running(Child);

impl Running {
    pub fn goes_on(&mut self) -> bool {
        self.0.try_wait().expect("status").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The process may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("---- end of {}'s log", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
