//! A load that several processes make together.

use std::process::ExitCode;

use super::{
    arguments::{CoordinateArguments, WorkArguments},
    exit_code, on_threads,
};
use crate::{
    scenario_file::ScenarioFile,
    session::Session,
    workers::{self, Coordinator, Secret, WorkerConfig},
};

/// The coordinator makes no load.
const THREADS: usize = 2;

pub(super) fn coordinate(arguments: &CoordinateArguments) -> anyhow::Result<ExitCode> {
    let scenario = ScenarioFile::read(&arguments.scenario, &arguments.changes.all())?;
    anyhow::ensure!(scenario.chaos.is_none(), "{} has [chaos]: faults are for one process, `run`", scenario.name);
    let coordinator = Coordinator {
        listen: arguments.listen.clone(),
        secret: Secret::read(&arguments.together.secret_file)?,
        workers: arguments.workers,
        patience: arguments.together.wait,
    };
    let outputs = &arguments.outputs;
    let setting = scenario.coordinators_setting(outputs.outputs(), outputs.note.clone())?;
    let report = on_threads(THREADS, async {
        let session = Session::new(setting);
        let report = session.observe(workers::coordinate(&coordinator, &session, &scenario)).await?;
        session.conclude(&report).await?;
        Ok(report)
    })?;
    Ok(exit_code(report.verdict))
}

pub(super) fn work(arguments: &WorkArguments) -> anyhow::Result<ExitCode> {
    let config = WorkerConfig {
        coordinator: arguments.coordinator.clone(),
        secret: Secret::read(&arguments.together.secret_file)?,
        patience: arguments.together.wait,
        threads: arguments.threads.max(1),
        token_secret_file: arguments.token_secret_file.clone(),
        ca: arguments.ca.clone(),
    };
    on_threads(config.threads, workers::work(&config))?;
    Ok(ExitCode::SUCCESS)
}
