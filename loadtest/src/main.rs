//! `carillon-loadtest`: load on a running service, and a verdict.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use carillon_loadtest::direct::{Direct, DirectConfig, Report};
use carillon_proto::tasks::Tasks;
use clap::Parser;

/// Direct chat between users that it signs in with tokens of its own. Exit code 0: all was well; 2: a promise was broken.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A gateway, for example tcp://127.0.0.1:7410 or ws://127.0.0.1:7411/ws; may be given several times.
    #[arg(long, default_value = "tcp://127.0.0.1:7410")]
    url: Vec<String>,
    /// The file with the secret that signs tokens.
    #[arg(long, default_value = "data/secrets/token")]
    token_secret_file: PathBuf,
    #[arg(long, default_value_t = 10)]
    users: usize,
    /// Connections of each user.
    #[arg(long, default_value_t = 1)]
    devices: usize,
    /// Sends a second over all users; without it as many as the window allows.
    #[arg(long)]
    rate: Option<f64>,
    /// Sends of each user without an answer.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Size of a message's text.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let secret = std::fs::read_to_string(&arguments.token_secret_file)
        .with_context(|| format!("can't read the token secret {}", arguments.token_secret_file.display()))?;
    let addresses = arguments.url.iter().map(|url| url.parse()).collect::<Result<_, _>>()?;
    let config = DirectConfig {
        run: format!("load-{:x}", carillon_proto::now_ms()),
        addresses,
        users: arguments.users.max(1),
        devices: arguments.devices.max(1),
        rate: arguments.rate.map(|rate| rate / arguments.users.max(1) as f64),
        window: arguments.window.max(1),
        bytes: arguments.bytes,
        send_timeout: Duration::from_secs(30),
    };
    let tasks = Tasks::new();
    let run = Direct::start(config, |user| carillon_loadtest::token::sign(secret.trim(), user), &tasks).await?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)) => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    let report = run.finish(Duration::from_secs(60)).await;
    tasks.finish(Duration::from_secs(5)).await;
    print(&report);
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn print(report: &Report) {
    let (summary, latencies) = (&report.summary, &report.latencies);
    let seconds = report.took.as_secs_f64();
    println!(
        "sent {}, accepted {}, refused {}, unknown {}, deliveries {} in {seconds:.1} s: {:.0} accepted a second",
        summary.sent,
        summary.accepted,
        summary.refused,
        summary.unknown,
        summary.delivered,
        summary.accepted as f64 / seconds,
    );
    let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "acceptance in ms: p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(0.999),
        latencies.max() as f64 / 1000.0
    );
    if report.violations.is_empty() {
        println!("integrity: nothing lost, doubled, reordered, invented or corrupted");
    } else {
        println!("integrity BROKEN: {} violations", report.violations.len());
        for violation in report.violations.iter().take(20) {
            println!("  {violation}");
        }
    }
}
