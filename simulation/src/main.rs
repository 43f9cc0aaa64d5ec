//! Runs seeds of the simulation by hand: `carillon-simulation --seed 1 --seeds 1000`.

use std::{process::ExitCode, time::Instant};

use carillon_simulation::{Guard, Plant, Report, Simulator};
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Print everything that happens.
    #[arg(long)]
    verbose: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// All kinds of faults, twice as often, and users who change all the time what they show.
    #[arg(long, conflicts_with = "without")]
    hostile: bool,
    /// Leave out this guard of the order of messages or sign-ins. Can be given several times.
    #[arg(long, value_enum)]
    without: Vec<Guard>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // The folder is in memory where the machine has one.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let mut simulator = Simulator::open(dir.path())?;
    let without = (!args.without.is_empty()).then(|| Plant::Without(args.without.iter().copied().collect()));
    let plant = without.or(args.hostile.then_some(Plant::Hostile));
    let (began, mut all, mut failed) = (Instant::now(), Report::default(), 0);
    for seed in args.seed..args.seed + args.seeds {
        match simulator.run(seed, plant, args.verbose) {
            Ok(report) => all += report,
            Err(failure) => {
                failed += 1;
                println!("seed {seed} failed after {} us: {}", failure.at_us, failure.what);
                if !args.keep_going {
                    break;
                }
            }
        }
    }
    let Report { events, time_us, sent, accepted, appended, in_groups, out_of_order, refused, .. } = all;
    println!(
        "{} seeds in {:.1} s, {failed} failed; {events} events, {} s of virtual time, {sent} sent, {accepted} accepted, {appended} appended, \
         {in_groups} in groups, \
         {out_of_order} attempts out of order, {refused} refusals",
        args.seeds,
        began.elapsed().as_secs_f64(),
        time_us / 1_000_000,
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
