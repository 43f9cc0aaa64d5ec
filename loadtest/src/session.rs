//! One run: its environment, what is shown while it goes on, and its report.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use carillon_proto::tasks::Tasks;

use crate::{
    capacity::Searched,
    credentials::Credentials,
    measure::{gateways::Gateways, sampler, servers::Servers},
    progress::{self, Progress},
    report::{
        self, GeneratorReport, Integrity, Limits, Machine, Report, ServerReport, Verdict, capacity::CapacityOutcome,
        html, junit, levels::Levels, recorder::Recorder, text,
    },
    scenario::{Ending, Environment, Found, Gate, RunError, Target},
};

/// The setting of a run, wherever it was asked for.
pub(crate) struct Setting {
    /// Name of the scenario.
    pub(crate) scenario: String,
    pub(crate) target: Target,
    pub(crate) credentials: Credentials,
    pub(crate) servers: Servers,
    pub(crate) gateways: Gateways,
    pub(crate) levels: Levels,
    pub(crate) outputs: Outputs,
    pub(crate) note: String,
    /// Threads of this process that make the load.
    pub(crate) threads: usize,
}

/// The files of the report, and what is printed of it.
#[derive(Debug, Clone)]
pub(crate) struct Outputs {
    pub(crate) json: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
    pub(crate) junit: Option<PathBuf>,
    pub(crate) print: Vec<Print>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Print {
    Text,
    Json,
    Html,
    Junit,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { json: None, html: None, junit: None, print: vec![Print::Text] }
    }
}

pub(crate) struct Session {
    pub(crate) environment: Environment,
    scenario: String,
    levels: Levels,
    outputs: Outputs,
    note: String,
    limits: Option<Limits>,
}

/// Tasks beside a run.
pub(crate) struct Watch {
    progress: Progress,
    tasks: Tasks,
}

impl Watch {
    pub(crate) fn end(self) {
        self.tasks.stop();
        self.progress.end();
    }
}

/// Resolves when this process is told to end, by an interrupt or as Kubernetes does it.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};

    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without them the process ends at once, as it would without this function.
        _ => std::future::pending().await,
    }
}

async fn end_at_interrupt(environment: Environment) {
    interrupted().await;
    environment.recorder.mark("interrupted");
    environment.ending.interrupt();
    interrupted().await;
    std::process::exit(130);
}

/// A name that no other run has: several processes may begin in the same millisecond.
pub(crate) fn run_name() -> String {
    format!("load-{:x}-{:x}", carillon_proto::now_ms(), std::process::id())
}

impl Session {
    /// Connects to nothing yet.
    pub(crate) fn new(setting: Setting) -> Self {
        let environment = Environment {
            run: run_name(),
            target: setting.target,
            credentials: setting.credentials,
            recorder: Arc::default(),
            servers: Arc::new(setting.servers),
            gateways: Arc::new(setting.gateways),
            workers: setting.threads,
            tasks: Tasks::new(),
            gate: Gate::open(),
            ending: Ending::default(),
        };
        let Setting { scenario, levels, outputs, note, .. } = setting;
        Self { environment, scenario, levels, outputs, note, limits: None }
    }

    /// Limits of the machine that were measured just now: the run begins after that.
    pub(crate) fn with_limits(mut self, limits: Option<Limits>) -> Self {
        self.limits = limits;
        self.environment.recorder = Arc::new(Recorder::default());
        self
    }

    /// Resolves after this time, or when the run ends early.
    pub(crate) fn for_this_long(&self, lasts: Duration) -> impl Future<Output = ()> + use<> {
        let (recorder, ending) = (Arc::clone(&self.environment.recorder), self.environment.ending.clone());
        async move {
            recorder.phase_lasts(lasts);
            ending.within(lasts).await;
        }
    }

    /// Runs the scenario, prints its report, and writes the report to the files that the options name.
    pub(crate) async fn finish(&self, run: impl Future<Output = Result<Found, RunError>>) -> anyhow::Result<Report> {
        let found = match self.observe(run).await {
            Err(error) if error.makes_the_run_invalid() => {
                eprintln!("carillon-loadtest: {error}");
                Found::nothing(&self.environment, Some(error.to_string())).await
            }
            found => found?,
        };
        let report = self.report(&found);
        self.conclude(&report).await?;
        Ok(report)
    }

    /// Takes samples and shows the progress while something runs.
    pub(crate) async fn observe<T>(&self, run: impl Future<Output = T>) -> T {
        let watch = self.watch();
        let done = run.await;
        watch.end();
        done
    }

    /// Takes samples and shows the progress until the watch ends. From now on an interrupt ends the run in order, and the second one
    /// the process.
    pub(crate) fn watch(&self) -> Watch {
        let environment = &self.environment;
        let tasks = environment.tasks.child();
        environment.tasks.spawn("interrupt", end_at_interrupt(environment.clone()));
        sampler::start(Arc::clone(&environment.recorder), Arc::clone(&environment.servers), &tasks);
        Watch { progress: progress::start(Arc::clone(&environment.recorder), &tasks), tasks }
    }

    /// Ends what still runs, prints the report and writes it.
    pub(crate) async fn conclude(&self, report: &Report) -> anyhow::Result<()> {
        self.environment.tasks.finish(Duration::from_secs(5)).await;
        let Outputs { json, html, junit, print } = &self.outputs;
        for format in print {
            match format {
                Print::Text => print!("{}", text::text(report)),
                Print::Json => println!("{}", serde_json::to_string(report)?),
                Print::Html => println!("{}", html::page(report)),
                Print::Junit => println!("{}", junit::junit(report)),
            }
        }
        if let Some(path) = html {
            fs::write(path, html::page(report)).with_context(|| format!("can't write {}", path.display()))?;
        }
        if let Some(path) = junit {
            fs::write(path, junit::junit(report)).with_context(|| format!("can't write {}", path.display()))?;
        }
        if let Some(path) = json {
            report.write(path).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(())
    }

    pub(crate) fn report(&self, found: &Found) -> Report {
        let (environment, recorder) = (&self.environment, &self.environment.recorder);
        let distributions: Vec<_> = found.times.iter().filter_map(report::times::Times::distribution).collect();
        let levels = self.levels.judge(&found.figures, &distributions, &found.integrity);
        let invalid = found.integrity.not_provable().or_else(|| found.invalid.clone());
        let interrupted_ms = environment.ending.interrupted_at().map(|at| recorder.us(at) / 1000);
        let verdict = match found {
            Found { integrity, .. } if !integrity.violations.is_empty() => Verdict::IntegrityBroken,
            _ if interrupted_ms.is_some() => Verdict::Interrupted,
            _ if invalid.is_some() => Verdict::Invalid,
            _ if levels.iter().any(|level| !level.met) => Verdict::LevelMissed,
            _ => Verdict::Pass,
        };
        Report {
            format: report::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: self.scenario.clone(),
            note: self.note.clone(),
            run: environment.run.clone(),
            began_unix_ms: recorder.began_unix_ms(),
            options: std::env::args().skip(1).collect(),
            machine: Machine::this(),
            verdict,
            interrupted_ms,
            measured_s: found.window.took.as_secs_f64(),
            measured_from_ms: recorder.measures_from_ms(),
            figures: found.figures.clone(),
            distributions,
            integrity: found.integrity.clone(),
            levels,
            servers: ServerReport::all(&found.window),
            generator: GeneratorReport::new(&found.window, environment.workers, invalid),
            limits: self.limits.clone(),
            capacity: None,
            workers: Vec::new(),
            faults: Vec::new(),
            marks: recorder.marks(),
            samples: recorder.samples(),
        }
    }
}

/// The report of a search.
pub(crate) fn capacity_report(session: &Session, searched: Searched, integrity: Integrity) -> Report {
    let (figures, invalid) = (searched.figures(), searched.inconclusive());
    let found = Found { integrity, times: searched.times, figures, window: searched.window, invalid };
    let mut report = session.report(&found);
    if report.verdict == Verdict::Pass && searched.capacity.outcome == CapacityOutcome::None {
        report.verdict = Verdict::LevelMissed;
    }
    report.capacity = Some(searched.capacity);
    report
}
