//! Runs one scenario: makes its environment and its report.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use carillon_client::{ConnectOptions, Trust};
use carillon_proto::tasks::Tasks;

use super::{arguments::Common, flush_at, progress};
use crate::{
    flush_probe::FlushConfig,
    measure::{gateways::Gateways, sampler, servers::Servers},
    relay::{self, RelayConfig},
    report::{
        self, GeneratorReport, Integrity, Limits, Machine, Report, ServerReport, Verdict, html, recorder::Recorder,
        text,
    },
    scenario::{Environment, Found, RunError, Target},
};

pub(super) struct Session<'a> {
    pub(super) environment: Environment,
    scenario: &'static str,
    common: &'a Common,
    limits: Option<Limits>,
}

/// How long each limit of the machine is measured.
const LIMIT: Duration = Duration::from_secs(2);

impl<'a> Session<'a> {
    /// Reads the files that the options name, and connects to nothing yet.
    pub(super) fn start(scenario: &'static str, common: &'a Common, workers: usize) -> anyhow::Result<Self> {
        let secret = std::fs::read_to_string(&common.token_secret_file)
            .with_context(|| format!("can't read the token secret {}", common.token_secret_file.display()))?;
        let secret = secret.trim().to_owned();
        // Several processes may begin in the same millisecond.
        let run = format!("load-{:x}-{:x}", carillon_proto::now_ms(), std::process::id());
        let environment = Environment {
            run,
            target: target(common)?,
            token: Arc::new(move |user| crate::token::sign(&secret, user)),
            recorder: Arc::default(),
            servers: Arc::new(servers(common)?),
            gateways: Arc::new(Gateways::new(&common.gateway_admin)?),
            workers,
            tasks: Tasks::new(),
        };
        Ok(Self { environment, scenario, common, limits: None })
    }

    /// Measures the machine first, if a folder is given.
    pub(super) fn with_limits(mut self, folder: Option<&Path>, bytes: usize) -> anyhow::Result<Self> {
        if let Some(folder) = folder {
            let relay = relay::measure(&RelayConfig { bytes, batch: 64, duration: LIMIT })?;
            let flush = flush_at(folder, &FlushConfig { bytes, duration: LIMIT })?;
            self.limits = Some(Limits { relay, flush });
            // The run begins now.
            self.environment.recorder = Arc::new(Recorder::default());
        }
        Ok(self)
    }

    /// Resolves after this time, or at an interrupt.
    pub(super) fn for_seconds(&self, seconds: f64) -> impl Future<Output = ()> + use<> {
        let recorder = Arc::clone(&self.environment.recorder);
        let lasts = super::seconds(seconds);
        async move {
            recorder.phase_lasts(lasts);
            tokio::select! {
                () = tokio::time::sleep(lasts) => {}
                _ = tokio::signal::ctrl_c() => recorder.mark("interrupted"),
            }
        }
    }

    /// Runs the scenario, prints its report, and writes the report to the files that the options name.
    pub(super) async fn finish(&self, run: impl Future<Output = Result<Found, RunError>>) -> anyhow::Result<Report> {
        let environment = &self.environment;
        let around = environment.tasks.child();
        sampler::start(Arc::clone(&environment.recorder), Arc::clone(&environment.servers), &around);
        let shown = progress::start(Arc::clone(&environment.recorder), &around);
        let found = run.await;
        around.stop();
        shown.end();
        let report = self.report(&found?);
        environment.tasks.finish(Duration::from_secs(5)).await;
        print!("{}", text::text(&report));
        if let Some(path) = &self.common.json {
            report.write(path).with_context(|| format!("can't write {}", path.display()))?;
        }
        if let Some(path) = &self.common.html {
            std::fs::write(path, html::page(&report)).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(report)
    }

    fn report(&self, found: &Found) -> Report {
        let (environment, recorder) = (&self.environment, &self.environment.recorder);
        let levels = self.common.levels().judge(&found.figures, &found.distributions);
        let verdict = match found {
            Found { findings, .. } if !findings.counts.is_empty() => Verdict::IntegrityBroken,
            Found { invalid: Some(_), .. } => Verdict::Invalid,
            _ if levels.iter().any(|level| !level.met) => Verdict::LevelMissed,
            _ => Verdict::Pass,
        };
        Report {
            format: report::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: self.scenario.to_owned(),
            note: self.common.note.clone(),
            run: environment.run.clone(),
            began_unix_ms: recorder.began_unix_ms(),
            options: std::env::args().skip(1).collect(),
            machine: Machine::this(),
            verdict,
            measured_s: found.window.took.as_secs_f64(),
            measured_from_ms: recorder.measures_from_ms(),
            figures: found.figures.clone(),
            distributions: found.distributions.clone(),
            integrity: Integrity::from(&found.findings),
            levels,
            servers: ServerReport::all(&found.window),
            generator: GeneratorReport::new(&found.window, environment.workers, found.invalid.clone()),
            limits: self.limits.clone(),
            marks: recorder.marks(),
            samples: recorder.samples(),
        }
    }
}

fn target(common: &Common) -> anyhow::Result<Target> {
    let addresses = common.url.iter().map(|url| url.parse()).collect::<Result<_, _>>()?;
    let trust = match &common.ca {
        Some(path) => {
            Trust::ca(std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?)
        }
        None => Trust::public(),
    };
    let connect = ConnectOptions { trust, server_name: common.server_name.clone(), ..ConnectOptions::default() };
    Ok(Target { addresses, connect })
}

fn servers(common: &Common) -> anyhow::Result<Servers> {
    let servers = Servers::default();
    for pid in &common.server_pid {
        anyhow::ensure!(crate::measure::proc::usage(*pid).is_some(), "there is no process {pid}");
        servers.add_pid(&format!("pid {pid}"), *pid);
    }
    for url in &common.admin {
        servers.add_admin(url)?;
    }
    Ok(servers)
}
