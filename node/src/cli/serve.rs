//! Runs roles until a signal or a failure ends them.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::{
    io::AsyncReadExt as _,
    task::block_in_place,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{DAMAGED, Options, out};
use crate::{
    Addresses, Config, Role, Running, Telemetry,
    check::{Findings, check},
    reload::{self, Reloader},
    shutdown::{Hangup, Signals},
    start,
};

#[derive(Args, Default, PartialEq, Eq)]
pub(super) struct Serve {
    /// Look at the configuration and all files that it names, and end.
    #[arg(long)]
    check_config: bool,
    /// Print the configuration as TOML, without secrets, and end.
    #[arg(long)]
    print_config: bool,
    /// Stop in order when standard input ends, so that no node outlives who started it.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(super) fn run(roles: &[Role], options: &Options, serve: Serve) -> anyhow::Result<()> {
    let config = options.load()?;
    if serve.check_config {
        return check_config(&config, roles);
    }
    config.validate(roles)?;
    if serve.print_config {
        return out::print(config.to_toml());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let served = runtime.block_on(serve_roles(config, roles, options, serve.stop_with_stdin));
    // A read of standard input can't be cancelled, and nobody waits for its result any more.
    runtime.shutdown_background();
    served
}

/// A start takes less than this if all is well.
const NOT_READY: Duration = Duration::from_secs(15);
const NOT_READY_AGAIN: Duration = Duration::from_secs(60);
const LOOK_READY: Duration = Duration::from_secs(1);

fn check_config(config: &Config, roles: &[Role]) -> anyhow::Result<()> {
    let Findings { problems, warnings } = check(config, roles);
    for warning in warnings {
        out::tell(format_args!("carillon: {warning}"));
    }
    match problems.as_slice() {
        [] => out::line("configuration is valid"),
        [one] => anyhow::bail!("{one}"),
        all => anyhow::bail!("the configuration has {} problems:\n  {}", all.len(), all.join("\n  ")),
    }
}

async fn serve_roles(config: Config, roles: &[Role], options: &Options, with_stdin: bool) -> anyhow::Result<()> {
    let name = match roles {
        [role] => role.as_str(),
        _ => "all",
    };
    let telemetry = Telemetry::install(&config, name)?;
    let mut signals = Signals::install().context("can't watch signals")?;
    let mut hangup = Hangup::install().context("can't watch signals")?;
    let mut reloader = Reloader::new(|| options.load(), roles, config.clone());
    let running = tokio::select! {
        started = start(config, roles) => started?,
        signal = signals.next() => anyhow::bail!("{signal} while starting"),
    };
    if roles == Role::ALL {
        // The start may just have written files that are watched.
        reloader.started();
    }
    announce(name, &running);

    let changes = async {
        let mut tick = interval(reload::LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Reading files blocks, but only briefly.
            tokio::select! {
                () = hangup.next() => block_in_place(|| reloader.on_signal(&running, &telemetry)),
                _ = tick.tick() => block_in_place(|| reloader.look(&running)),
            }
        }
    };
    let why = tokio::select! {
        () = changes => "",
        () = tell_ready(name, &running, options) => "",
        signal = signals.next() => signal,
        () = end_of_stdin(), if with_stdin => "the end of standard input",
        why = running.failed() => {
            tracing::error!(role = name, why, "ended at once");
            telemetry.flush();
            out::tell_briefly(format_args!("carillon: {why}"));
            // Ends as a killed process does: stopping in order would flush the engines, possibly to the disk that
            // failed.
            std::process::exit(if running.is_damaged() { DAMAGED.into() } else { 1 });
        }
    };
    tracing::info!(role = name, because = why, "stopping");
    let stopped = tokio::select! {
        in_time = running.stop() => in_time,
        signal = signals.next() => anyhow::bail!("a second {signal}: ended at once"),
    };
    tracing::info!(role = name, "stopped");
    // Sending the remaining traces blocks.
    block_in_place(|| telemetry.flush());
    anyhow::ensure!(stopped, "not everything had stopped within shutdown_deadline_ms");
    Ok(())
}

/// Logs when the process becomes ready and, if that takes long, what it waits for. Never returns.
async fn tell_ready(name: &str, running: &Running, options: &Options) {
    let mut try_it = (name == "all").then(|| format!("Try:\n{}", to_try(running.addresses(), options)));
    loop {
        let mut patience = NOT_READY;
        while timeout(patience, running.ready()).await.is_err() {
            tracing::warn!(role = name, waiting = running.not_ready().join("; "), "not ready");
            patience = NOT_READY_AGAIN;
        }
        tracing::info!(role = name, "ready");
        // The commands would fail before the process is ready.
        if let Some(try_it) = try_it.take() {
            out::note(try_it);
        }
        while running.not_ready().is_empty() {
            sleep(LOOK_READY).await;
        }
        tracing::info!(role = name, waiting = running.not_ready().join("; "), "no longer ready");
    }
}

async fn end_of_stdin() {
    let mut buffer = [0; 64];
    let mut stdin = tokio::io::stdin();
    while matches!(stdin.read(&mut buffer).await, Ok(1..)) {}
}

/// Prints the addresses to standard output, for people; the log goes to standard error.
fn announce(name: &str, running: &Running) {
    let addresses = running.addresses();
    let version = env!("CARGO_PKG_VERSION");
    out::note(format_args!("carillon {version} ({name}) listens:\n{addresses}"));
}

/// Three lines with commands to try.
fn to_try(addresses: &Addresses, options: &Options) -> String {
    let flags = options.to_flags();
    let url = addresses.tcp.map(|address| format!(" --url tcp://{address}")).filter(|url| !url.ends_with(":7410"));
    let url = url.unwrap_or_default();
    let program = program();
    format!(
        "  {program} user add alice --no-password{flags}; {program} user add bob --no-password{flags}\n  \
         {program} listen bob{url}{flags}\n  \
         {program} send alice bob \"hello\"{url}{flags}"
    )
}

/// The command by which a shell in this folder finds this program.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "carillon".to_owned() };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&folders).any(|folder| Some(&*folder) == path.parent()) {
        return "carillon".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(&path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_exactly_three_lines_to_try() {
        let options = Options {
            config: None,
            sets: vec!["data_dir=x".into(), "admin.listen=y".into()],
            data_dir: None,
            log_level: None,
        };
        let text = to_try(&Addresses { tcp: Some(([127, 0, 0, 1], 9).into()), ..Addresses::default() }, &options);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.contains("carillon") && line.contains("--set 'data_dir=x'")));
        assert!(!text.contains("admin.listen"), "no other command needs it");
        assert!(text.contains("--url tcp://127.0.0.1:9"));
    }
}
