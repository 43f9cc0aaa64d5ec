//! Runs roles until a signal or a failure ends them.

use anyhow::Context as _;
use clap::Args;
use tokio::io::AsyncReadExt as _;

use super::Options;
use crate::{Addresses, Config, Role, Running, Telemetry, shutdown::Signals, start};

#[derive(Args, Default)]
pub(super) struct Serve {
    /// Check the configuration and end.
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
    config.validate(roles)?;
    if serve.print_config {
        print!("{}", config.to_toml());
        return Ok(());
    }
    if serve.check_config {
        println!("configuration is valid");
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let served = runtime.block_on(serve_roles(config, roles, options, serve.stop_with_stdin));
    // A read of standard input can't be cancelled, and nobody waits for it any more.
    runtime.shutdown_background();
    served
}

async fn serve_roles(config: Config, roles: &[Role], options: &Options, with_stdin: bool) -> anyhow::Result<()> {
    let name = match roles {
        [role] => role.as_str(),
        _ => "all",
    };
    let telemetry = Telemetry::install(&config, name)?;
    let mut signals = Signals::install().context("can't watch signals")?;
    let running = tokio::select! {
        started = start(config, roles) => started?,
        signal = signals.next() => anyhow::bail!("{signal} while starting"),
    };
    announce(name, &running, options);
    let addresses = running.addresses().clone();

    let why = tokio::select! {
        () = tell_ready(name, &running) => "",
        signal = signals.next() => signal,
        () = end_of_stdin(), if with_stdin => "the end of standard input",
        why = running.failed() => {
            tracing::error!(role = name, why, "ended at once");
            eprintln!("carillon: {why}");
            // As if it had been killed: stopping in order would flush the engines to what may be the disk that failed.
            std::process::exit(1);
        }
    };
    tracing::info!(role = name, because = why, "stopping");
    let stopped = tokio::select! {
        in_time = running.stop() => in_time,
        signal = signals.next() => anyhow::bail!("a second {signal}: ended at once"),
    };
    // Sending the rest of the traces blocks.
    tokio::task::spawn_blocking(|| telemetry.flush()).await.context("telemetry")?;
    tracing::info!(role = name, admin = ?addresses.admin, "stopped");
    anyhow::ensure!(stopped, "not everything had stopped within shutdown_deadline_ms");
    Ok(())
}

/// Never returns.
async fn tell_ready(name: &str, running: &Running) {
    running.ready().await;
    tracing::info!(role = name, "ready");
    std::future::pending().await
}

async fn end_of_stdin() {
    let mut buffer = [0; 64];
    let mut stdin = tokio::io::stdin();
    while matches!(stdin.read(&mut buffer).await, Ok(1..)) {}
}

/// On standard output, for people; the log goes to standard error.
fn announce(name: &str, running: &Running, options: &Options) {
    let addresses = running.addresses();
    println!("carillon {} ({name}) listens:\n{addresses}", env!("CARGO_PKG_VERSION"));
    if name == "all" {
        println!("Try:\n{}", to_try(addresses, options));
    }
}

/// Exactly three lines.
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

/// How a shell in this folder finds this program.
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
