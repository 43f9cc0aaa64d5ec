//! The command line.

mod arguments;
mod config;
mod memberships;
mod run;
mod scenario;
mod together;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;

pub(crate) use self::config::{servers, target};
use self::{
    arguments::{Arguments, Command, Compare, FlushProbe, RelayArguments},
    scenario::{Common, Scenario},
};
use crate::{
    flush_probe::{self, FlushConfig},
    relay::{self, RelayConfig},
    report::{Limits, Report, Verdict, compare, html},
    scenario::{RunError, direct, herd, idle, offline, sign_in},
    session::Session,
};

/// Reads the command line, carries it out, and returns the exit code; docs/loadtest.md lists the codes.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help is not an error. For all other errors clap would return 2, which means that a promise was broken.
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            return if error.print().is_ok() { code } else { ExitCode::FAILURE };
        }
    };
    match run(arguments.chosen()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("carillon-loadtest: {error:#}");
            match error.downcast_ref::<RunError>() {
                Some(error) if error.makes_the_run_invalid() => ExitCode::from(INVALID),
                _ => ExitCode::from(1),
            }
        }
    }
}

const INVALID: u8 = 4;
const INTERRUPTED: u8 = 5;

fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Pass => 0,
        Verdict::IntegrityBroken => 2,
        Verdict::LevelMissed => 3,
        Verdict::Invalid => INVALID,
        Verdict::Interrupted => INTERRUPTED,
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Coordinate(arguments) => together::coordinate(&arguments),
        Command::Work(arguments) => together::work(&arguments),
        Command::Presets(arguments) => run::presets(&arguments),
        Command::Relay(arguments) => measure_relay(&arguments),
        Command::FlushProbe(arguments) => probe_flush(&arguments),
        Command::Compare(arguments) => compare_reports(&arguments),
        Command::Scenario(scenario) => {
            Ok(exit_code(on_threads(scenario.common().workers, run_scenario(&scenario))?.verdict))
        }
    }
}

/// Carries it out on a runtime with so many threads.
fn on_threads<T>(threads: usize, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads.max(1)).enable_all().build()?;
    runtime.block_on(work)
}

async fn run_scenario(scenario: &Scenario) -> anyhow::Result<Report> {
    let session = |name: &str, common: &Common| anyhow::Ok(Session::new(common.setting(name)?));
    match scenario {
        Scenario::Direct(arguments) => {
            let mut session = session("direct", &arguments.common)?;
            if let Some(folder) = &arguments.limits {
                session = session.with_limits(Some(limits(folder, arguments.bytes)?));
            }
            let config = arguments.config(&session.environment);
            let times = (seconds(arguments.warm_up), seconds(arguments.patience));
            let measured = session.for_this_long(seconds(arguments.seconds));
            session.finish(direct::run(&session.environment, config, times, measured)).await
        }
        Scenario::Idle(arguments) => {
            let session = session("idle", &arguments.common)?;
            let (settle, measured) = (seconds(arguments.warm_up), session.for_this_long(seconds(arguments.seconds)));
            session.finish(idle::run(&session.environment, arguments.config(), settle, measured)).await
        }
        Scenario::SignIn(arguments) => {
            let session = session("sign-in", &arguments.common)?;
            session.finish(sign_in::run(&session.environment, arguments.config())).await
        }
        Scenario::Offline(arguments) => {
            let session = session("offline", &arguments.common)?;
            session.finish(offline::run(&session.environment, arguments.config())).await
        }
        Scenario::Herd(arguments) => {
            let session = session("herd", &arguments.common)?;
            session.finish(herd::run(&session.environment, arguments.config())).await
        }
    }
}

/// How long each limit of the machine is measured.
const LIMIT: Duration = Duration::from_secs(2);

fn limits(folder: &Path, bytes: usize) -> anyhow::Result<Limits> {
    let relay = relay::measure(&RelayConfig { bytes, batch: 64, duration: LIMIT })?;
    let flush = flush_at(folder, &FlushConfig { bytes, duration: LIMIT })?;
    Ok(Limits { relay, flush })
}

/// Of an argument, whose range was checked.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn measure_relay(arguments: &RelayArguments) -> anyhow::Result<ExitCode> {
    let RelayArguments { bytes, batch, .. } = *arguments;
    let report = relay::measure(&RelayConfig { bytes, batch, duration: seconds(arguments.seconds) })?;
    println!("bare relay of frames of {} bytes:", report.frame_bytes);
    println!("  alone         {:.2} us of CPU a message, {:.0} a second", report.alone_cpu_us, report.alone_per_s);
    println!(
        "  {:>4} together {:.2} us of CPU a message, {:.0} a second",
        report.batch, report.batched_cpu_us, report.batched_per_s
    );
    Ok(ExitCode::SUCCESS)
}

fn probe_flush(arguments: &FlushProbe) -> anyhow::Result<ExitCode> {
    let config = FlushConfig { bytes: arguments.bytes, duration: seconds(arguments.seconds) };
    let report = flush_at(&arguments.folder, &config)?;
    let ms = |us: u64| us as f64 / 1000.0;
    let (p50, p99, max) = (ms(report.latency.p50_us), ms(report.latency.p99_us), ms(report.latency.max_us));
    println!(
        "appends of {} bytes with fdatasync: {:.0} a second, ms: p50 {p50:.2}, p99 {p99:.2}, max {max:.2}",
        report.bytes, report.per_s
    );
    Ok(ExitCode::SUCCESS)
}

fn flush_at(folder: &Path, config: &FlushConfig) -> anyhow::Result<flush_probe::FlushReport> {
    flush_probe::measure(folder, config).with_context(|| format!("can't probe flushes in {}", folder.display()))
}

fn compare_reports(arguments: &Compare) -> anyhow::Result<ExitCode> {
    let (a, b) = (Report::read(&arguments.a)?, Report::read(&arguments.b)?);
    let table = compare::table(&a, &b);
    print!("{table}");
    if let Some(path) = &arguments.html {
        let page = html::overlay(&a, &b, &table);
        std::fs::write(path, page).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
