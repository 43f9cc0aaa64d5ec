//! The program under test, as a process.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use carillon_loadtest::report::Report;

use crate::service::{Service, wait};

/// A run of the load generator against a service.
pub(crate) struct Load {
    process: Child,
    report: PathBuf,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) report: Report,
}

/// A run that is not interrupted ends by itself after this time.
const LONGEST: Duration = Duration::from_secs(120);

impl Load {
    /// Keeps several messages of each user on their way at any time. `patience` is the time for the last ones, in
    /// seconds.
    pub(crate) fn start(service: &Service, patience: &str) -> Self {
        let longest = LONGEST.as_secs().to_string();
        let load = ["--users", "4", "--window", "16", "--seconds", &longest, "--patience", patience];
        Self::start_with(service, &[&["--token-secret-file", "token", "--url", &service.url()], &load[..]].concat())
    }

    /// Carries out a scenario until it is told to end.
    pub(crate) fn start_scenario(service: &Service, scenario: &str) -> Self {
        std::fs::write(service.folder.path().join("scenario.toml"), scenario).expect("written");
        Self::start_with(service, &["run", "scenario.toml", "--url", &service.url()])
    }

    fn start_with(service: &Service, arguments: &[&str]) -> Self {
        let report = service.folder.path().join("run.json");
        let log = service.folder.path().join("load.log");
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let process = Command::new(env!("CARGO_BIN_EXE_carillon-loadtest"))
            .args(arguments)
            .args(["--json", "run.json"])
            .current_dir(service.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("starts");
        Self { process, report }
    }

    /// Ends the sending, and waits for the verdict.
    pub(crate) fn finish(mut self) -> Ended {
        let interrupt = ["-INT".to_owned(), self.process.id().to_string()];
        assert!(Command::new("kill").args(interrupt).status().expect("runs").success());
        wait(&mut self.process, LONGEST).expect("it ends");
        let code = self.process.wait().expect("ended").code();
        Ended { code, report: Report::read(&self.report).expect("a report") }
    }
}

/// Carries out a scenario.
pub(crate) fn run_scenario(service: &Service, scenario: &str) -> Ended {
    let at = |name: &str| service.folder.path().join(name);
    std::fs::write(at("scenario.toml"), scenario).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_carillon-loadtest"))
        .args(["run", "scenario.toml", "--url", &service.url(), "--json", "run.json"])
        .current_dir(service.folder.path())
        .output()
        .expect("runs");
    let report = Report::read(&at("run.json"));
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    Ended { code: output.status.code(), report }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The process has ended, unless the test failed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
