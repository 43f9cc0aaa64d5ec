//! Carries out scenario files.

use std::process::ExitCode;

use super::{
    arguments::{PresetCommand, Presets, RunArguments},
    exit_code, on_threads,
};
use crate::{
    capacity::{self, Steps},
    report::{Integrity, Report},
    scenario::mix::{self, Ending},
    scenario_file::{self, PRESETS, ScenarioFile},
    session::{Session, capacity_report},
};

pub(super) fn presets(arguments: &Presets) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Some(PresetCommand::Show { name }) => {
            anyhow::ensure!(PRESETS.iter().any(|(known, _)| known == name), "there is no preset {name:?}: {}", names());
            print!("{}", scenario_file::text_of(name)?);
        }
        None => {
            for (name, _) in PRESETS {
                println!("{name:<10} {}", ScenarioFile::read(name, &[])?.about);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

pub(super) fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let scenario = ScenarioFile::read(&arguments.scenario, &arguments.changes.all())?;
    let setting = scenario.setting(arguments.outputs.outputs(), arguments.outputs.note.clone(), arguments.threads)?;
    if arguments.check {
        print!("{}", scenario.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    let report = on_threads(arguments.threads, async {
        let session = Session::new(setting);
        if scenario.capacity.is_some() {
            look_for_capacity(&session, &scenario).await
        } else {
            carry_out(&session, &scenario).await
        }
    })?;
    Ok(exit_code(report.verdict))
}

/// Ends the run in order at an interrupt; the second one ends the process.
pub(super) fn end_at_interrupt(session: &Session, ending: &Ending) {
    let (ending, recorder) = (ending.clone(), session.environment.recorder.clone());
    session.environment.tasks.spawn("interrupt", async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            recorder.mark("interrupted");
            ending.end();
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        }
    });
}

async fn carry_out(session: &Session, scenario: &ScenarioFile) -> anyhow::Result<Report> {
    let ending = Ending::new();
    end_at_interrupt(session, &ending);
    session.finish(mix::run(&session.environment, scenario, &ending)).await
}

async fn look_for_capacity(session: &Session, scenario: &ScenarioFile) -> anyhow::Result<Report> {
    let environment = &session.environment;
    let (config, direct) = scenario
        .capacity_config()
        .zip(scenario.direct.as_ref())
        .expect("a scenario with [capacity] was checked to have these");
    let (searched, integrity) = session
        .observe(async {
            let mut steps = Steps::open(environment, scenario.direct_config(direct, environment)).await?;
            let searched = capacity::search(&mut steps, &config, environment).await;
            let report = steps.finish(config.patience).await;
            anyhow::Ok((searched, Integrity::from(&report.findings)))
        })
        .await?;
    let report = capacity_report(session, searched, integrity);
    session.conclude(&report).await?;
    Ok(report)
}
