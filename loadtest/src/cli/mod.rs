//! The command line.

mod arguments;
mod config;
mod progress;
mod session;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;

use self::{
    arguments::{Arguments, Command, Compare, FlushProbe, RelayArguments, Scenario},
    session::Session,
};
use crate::{
    flush_probe::{self, FlushConfig},
    relay::{self, RelayConfig},
    report::{Report, Verdict, compare, html},
    scenario::{RunError, direct, herd, idle, offline, sign_in},
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

fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Pass => 0,
        Verdict::IntegrityBroken => 2,
        Verdict::LevelMissed => 3,
        Verdict::Invalid => INVALID,
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Relay(arguments) => measure_relay(&arguments),
        Command::FlushProbe(arguments) => probe_flush(&arguments),
        Command::Compare(arguments) => compare_reports(&arguments),
        Command::Scenario(scenario) => {
            let workers = scenario.common().workers.max(1);
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
            Ok(exit_code(runtime.block_on(run_scenario(&scenario, workers))?.verdict))
        }
    }
}

async fn run_scenario(scenario: &Scenario, workers: usize) -> anyhow::Result<Report> {
    match scenario {
        Scenario::Direct(arguments) => {
            let session = Session::start("direct", &arguments.common, workers)?
                .with_limits(arguments.limits.as_deref(), arguments.bytes)?;
            let config = arguments.config(&session.environment);
            let times = (seconds(arguments.warm_up), seconds(arguments.patience));
            let measured = session.for_seconds(arguments.seconds);
            session.finish(direct::run(&session.environment, config, times, measured)).await
        }
        Scenario::Idle(arguments) => {
            let session = Session::start("idle", &arguments.common, workers)?;
            let (settle, measured) = (seconds(arguments.warm_up), session.for_seconds(arguments.seconds));
            session.finish(idle::run(&session.environment, arguments.config(), settle, measured)).await
        }
        Scenario::SignIn(arguments) => {
            let session = Session::start("sign-in", &arguments.common, workers)?;
            session.finish(sign_in::run(&session.environment, arguments.config())).await
        }
        Scenario::Offline(arguments) => {
            let session = Session::start("offline", &arguments.common, workers)?;
            session.finish(offline::run(&session.environment, arguments.config())).await
        }
        Scenario::Herd(arguments) => {
            let session = Session::start("herd", &arguments.common, workers)?;
            session.finish(herd::run(&session.environment, arguments.config())).await
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
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
