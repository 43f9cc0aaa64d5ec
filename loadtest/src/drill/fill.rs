//! Fills the store as fast as the cluster takes it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::sleep;

use super::{
    report::Filled,
    run::{Drill, Phase},
    size::{Size, on_disk},
};
use crate::{
    direct::{Direct, DirectConfig, SlowReaders},
    faults::load::Verdict,
    payload::Filling,
};

/// Sends of one user without an answer.
const WINDOW: usize = 32;
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two lines of progress.
const LOOKS: u32 = 15;

pub(super) async fn run(drill: &mut Drill<'_>) -> anyhow::Result<()> {
    let options = drill.options;
    let config = DirectConfig {
        run: drill.load_of(Phase::Fill),
        addresses: drill.cluster.addresses().to_vec(),
        users: options.fill_users,
        devices: 1,
        rate: None,
        window: WINDOW,
        bytes: options.fill_bytes,
        filling: Filling::Noise,
        send_timeout: options.load.send_timeout,
        slow_readers: SlowReaders::default(),
    };
    let direct = Direct::start(config, |user| drill.cluster.token(user), &drill.tasks).await?;
    let began = Instant::now();
    let grown = grow(drill, &direct, began).await;
    drill.witnesses.push(direct.witness());
    let (seconds, messages) = (began.elapsed().as_secs_f64(), direct.accepted());
    let findings = direct.finish_unread(options.load.patience).await;
    let verdict = Verdict { summary: findings.summary, violations: findings.violations, ..Verdict::default() };
    drill.report.take("fill", &verdict);
    grown?;
    let size = |part: &str| on_disk(&drill.cluster.stored(0, part)).context("the store is not measured");
    let (timelines, log, snapshots) = (size("timeline")?, size("log")?, size("snapshots")?);
    drill.say(&format!("filled with {messages} messages: {timelines} of timelines"));
    let users = options.fill_users;
    drill.report.fill = Some(Filled { seconds, messages, users, timelines, log, snapshots });
    Ok(())
}

/// Waits until the store has its size.
async fn grow(drill: &mut Drill<'_>, direct: &Direct, began: Instant) -> anyhow::Result<()> {
    let (folder, wanted) = (drill.cluster.stored(0, "timeline"), drill.options.fill);
    let (mut most, mut moved) = (0, Instant::now());
    for look in 0.. {
        drill.cluster.all_run()?;
        let measured = folder.clone();
        let Size(bytes) = tokio::task::spawn_blocking(move || on_disk(&measured)).await??;
        if bytes >= wanted.0 {
            return Ok(());
        }
        let accepted = direct.accepted();
        if accepted > most {
            (most, moved) = (accepted, Instant::now());
        }
        anyhow::ensure!(moved.elapsed() < drill.options.load.patience, "sends stand still at {}", Size(bytes));
        if look % LOOKS == 0 {
            let a_second = accepted as f64 / began.elapsed().as_secs_f64().max(0.1);
            drill.say(&format!("{} of {wanted}, {accepted} messages, {a_second:.0}/s", Size(bytes)));
        }
        sleep(LOOK).await;
    }
    Ok(())
}
