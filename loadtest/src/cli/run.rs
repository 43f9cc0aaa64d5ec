//! Carries out scenario files.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use carillon_proto::tasks::Tasks;

use super::{
    arguments::{ChaosArguments, PresetCommand, Presets, RunArguments},
    exit_code, on_threads,
};
use crate::{
    capacity::{self, Steps},
    chaos::{self, Consent, Kubectl, KubernetesFaults, LocalFaults, Strike},
    cluster::{Cluster, ClusterConfig, Counts, Keeping, Layout},
    credentials::By,
    report::{Integrity, Report},
    scenario::mix,
    scenario_file::{self, ChaosPart, PRESETS, ScenarioFile, TargetPart},
    session::{Session, Setting, capacity_report},
};

pub(super) fn presets(arguments: &Presets) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Some(PresetCommand::Show { name }) => {
            anyhow::ensure!(PRESETS.iter().any(|(known, _)| known == name), "there is no preset {name:?}: {}", names());
            print!("{}", scenario_file::text_of(name)?);
        }
        None => {
            for (name, _) in PRESETS {
                println!("{name:<16} {}", ScenarioFile::read(name, &[])?.about);
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
    check_chaos(&scenario, &arguments.chaos)?;
    if arguments.check {
        print!("{}", scenario.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    let setting = |scenario: &ScenarioFile| {
        scenario.setting(arguments.outputs.outputs(), arguments.outputs.note.clone(), arguments.threads.max(1))
    };
    let report = on_threads(arguments.threads, async {
        let ChaosArguments { kubernetes, local_cluster, .. } = &arguments.chaos;
        Ok(match (&scenario.chaos, kubernetes, local_cluster) {
            (Some(part), Some(namespace), _) => {
                in_kubernetes(&scenario, part, (namespace, &arguments.chaos), setting).await?
            }
            (Some(part), None, Some(folder)) => {
                Some(locally(&scenario, part, (folder, arguments.chaos.carillon.as_deref()), setting).await?)
            }
            _ if scenario.capacity.is_some() => {
                Some(look_for_capacity(&Session::new(setting(&scenario)?), &scenario).await?)
            }
            _ => Some(carry_out(&Session::new(setting(&scenario)?), &scenario).await?),
        })
    })?;
    Ok(report.map_or(ExitCode::SUCCESS, |report| exit_code(report.verdict)))
}

/// Faults need a place, and it must know them.
fn check_chaos(scenario: &ScenarioFile, arguments: &ChaosArguments) -> anyhow::Result<()> {
    let place = arguments.kubernetes.is_some() || arguments.local_cluster.is_some();
    let sign_in = &scenario.sign_in;
    let Some(chaos) = &scenario.chaos else {
        anyhow::ensure!(!place, "{} has no [chaos]: --kubernetes and --local-cluster are for faults", scenario.name);
        return Ok(());
    };
    anyhow::ensure!(
        place,
        "{} has [chaos]: give --kubernetes NAMESPACE, or --local-cluster FOLDER for a cluster of processes on this machine",
        scenario.name
    );
    anyhow::ensure!(
        arguments.local_cluster.is_none() || (&sign_in.by, &sign_in.token_key_file) == (&By::Token, &None),
        "--local-cluster makes a cluster that takes tokens by a secret of its own: leave sign_in.by and token_key_file out"
    );
    let knows = if arguments.kubernetes.is_some() { KubernetesFaults::knows } else { LocalFaults::knows };
    chaos.schedules().iter().try_for_each(knows).map_err(anyhow::Error::msg)
}

async fn carry_out(session: &Session, scenario: &ScenarioFile) -> anyhow::Result<Report> {
    session.finish(mix::run(&session.environment, scenario)).await
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

/// `None` after a rehearsal.
async fn in_kubernetes(
    scenario: &ScenarioFile,
    part: &ChaosPart,
    (namespace, arguments): (&str, &ChaosArguments),
    setting: impl Fn(&ScenarioFile) -> anyhow::Result<Setting>,
) -> anyhow::Result<Option<Report>> {
    let kubectl = Kubectl::of_present_context("kubectl".into(), namespace).await?;
    let consent = match (&arguments.yes_i_mean, arguments.dry_run) {
        (_, true) => Consent::Rehearsal,
        (Some(place), false) => Consent::Given(place.clone()),
        (None, false) => anyhow::bail!(
            "faults would strike in {place}: see what they do with --dry-run, and allow it with --yes-i-mean {place}",
            place = kubectl.place()
        ),
    };
    let mut faults = KubernetesFaults::new(kubectl, &consent, part.patience.0).await?;
    if consent == Consent::Rehearsal {
        chaos::rehearse(&mut faults, part).await.map_err(anyhow::Error::msg)?;
        return Ok(None);
    }
    with_faults(&Session::new(setting(scenario)?), scenario, part, &mut faults).await.map(Some)
}

async fn locally(
    scenario: &ScenarioFile,
    part: &ChaosPart,
    (folder, program): (&Path, Option<&Path>),
    setting: impl Fn(&ScenarioFile) -> anyhow::Result<Setting>,
) -> anyhow::Result<Report> {
    let program = match program {
        Some(program) => program.to_owned(),
        None => std::env::current_exe().context("can't find this program")?.with_file_name("carillon"),
    };
    let program = std::fs::canonicalize(&program).with_context(|| format!("there is no {}", program.display()))?;
    let config = ClusterConfig {
        program,
        folder: folder.to_owned(),
        layout: Layout::Loopback,
        subnet: [127, 33, (std::process::id() % 250) as u8 + 1],
        disk_mib: None,
        clocks: false,
        counts: Counts::FULL,
        keeping: Keeping::Everything,
    };
    let tasks = Tasks::new();
    let cluster = Cluster::start(&config).await?;
    let (addresses, secret) = (cluster.addresses().to_vec(), cluster.token_secret_file()?);
    let mut own = scenario.clone();
    own.target = TargetPart {
        addresses: addresses.iter().map(ToString::to_string).collect(),
        token_secret_file: secret,
        ..TargetPart::default()
    };
    let mut faults = LocalFaults { cluster, patience: part.patience.0, tasks: tasks.clone() };
    let report = with_faults(&Session::new(setting(&own)?), &own, part, &mut faults).await;
    tasks.finish(std::time::Duration::from_secs(5)).await;
    report
}

async fn with_faults(
    session: &Session,
    scenario: &ScenarioFile,
    part: &ChaosPart,
    faults: &mut impl Strike,
) -> anyhow::Result<Report> {
    let environment = &session.environment;
    let ending = &environment.ending;
    let both = async {
        let load = async {
            let found = mix::run(environment, scenario).await;
            // Without a load there is nothing to strike at.
            ending.end();
            found
        };
        let (recorder, measured) = (&environment.recorder, scenario.time.measured.0);
        tokio::join!(load, chaos::run(faults, part, measured, recorder, ending))
    };
    let (found, struck) = session.observe(both).await;
    let mut found = found?;
    let is_loaded = found.integrity.summary.accepted > 0 || found.window.counts.accepted > 0;
    if !scenario.level.asks_for_figures() && is_loaded {
        // What counts is that nothing is lost and everything comes back. How late the generator was is in the report.
        found.invalid = None;
    }
    let mut report = Report { faults: struck, ..session.report(&found) };
    report.judge_faults();
    session.conclude(&report).await?;
    Ok(report)
}
