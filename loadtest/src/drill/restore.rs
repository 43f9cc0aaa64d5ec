//! A new cluster out of a backup, and what it has.

use std::time::{Duration, Instant};

use carillon_client::{Client, ClientConfig, Credential, Event, Events, State};
use carillon_proto::{Position, tasks::Tasks};
use tokio::time::timeout;

use super::{
    backup::{RESTORED, place},
    letters::last_position,
    report::{Report, Restored},
    run::{Drill, Phase, target},
    size::on_disk,
};
use crate::{
    cluster::{Cluster, Counts},
    scenario::{Target, Witness, read_back::inbox_of},
};

/// How long a device may take to hear of a new epoch.
const HEARS: Duration = Duration::from_secs(60);

/// A device of the old cluster.
struct Device {
    user: String,
    has: Position,
}

pub(super) async fn run(mut drill: Drill<'_>) -> Report {
    let mut report = std::mem::take(&mut drill.report);
    if let Err(error) = restore(drill, &mut report).await {
        report.problems.push(format!("{}: {error:#}", Phase::Restore));
    }
    report
}

async fn restore(mut drill: Drill<'_>, report: &mut Report) -> anyhow::Result<()> {
    let devices = devices(&drill).await?;
    drill.cluster.stop(drill.options.load.patience).await?;
    let from = place(&drill).to_string_lossy().into_owned();
    let Drill { options, cluster, letters, mut witnesses, backed_up, tasks, began, .. } = drill;
    // Its data goes with it, and makes room.
    drop(cluster);
    // Witnesses of later phases have nothing that the backup must have.
    witnesses.truncate(backed_up);

    let mut cluster = Cluster::lay_out(&options.cluster("restored", Counts::ONE_OF_EACH))?;
    let into = cluster.stored(0, "");
    let into = into.to_string_lossy();
    let restoring = Instant::now();
    let arguments = ["backup", "restore", "--from", &from, "--name", RESTORED, "--into", into.trim_end_matches('/')];
    let said = cluster.operator().run(&arguments, options.load.change_patience).await?.done()?;
    let restore_seconds = restoring.elapsed().as_secs_f64();
    let bytes = on_disk(&cluster.stored(0, ""))?;
    let starting = Instant::now();
    cluster.start_with_data().await?;
    let ready_seconds = starting.elapsed().as_secs_f64();
    let elapsed = began.elapsed().as_secs_f64();
    println!("{elapsed:>7.1} s  restored in {restore_seconds:.1} s, ready after {ready_seconds:.1} s");

    let target = target(&cluster);
    let token = |user: &str| cluster.token(user);
    for device in &devices {
        let noticed = device.notices(&target, &token(&device.user), &tasks).await;
        report.violations.extend(noticed.err().map(|why| format!("restored: device of {}: {why}", device.user)));
    }
    for user in [&letters.leaver, &letters.friend] {
        let wrong = letters.check(user, false, &target, &token(user), &tasks).await?;
        report.violations.extend(wrong.map(|wrong| format!("restored: {wrong}")));
    }
    let reading = Instant::now();
    let mut read_back = 0;
    for witness in &witnesses {
        let findings = witness.read_restored(&target, token, &tasks).await?;
        read_back += findings.summary.read_back;
        report.take_findings("restored", findings);
    }
    report.restore = Some(Restored {
        backup: RESTORED.to_owned(),
        bytes,
        restore_seconds,
        ready_seconds,
        mended: mended(&said),
        accepted_before: witnesses.iter().map(Witness::noted).sum(),
        read_back,
        read_seconds: reading.elapsed().as_secs_f64(),
    });
    cluster.stop(options.load.patience).await?;
    Ok(())
}

/// A device that has the same positions as the backup, and one that knows later ones.
async fn devices(drill: &Drill<'_>) -> anyhow::Result<Vec<Device>> {
    let (target, mut devices) = (target(&drill.cluster), Vec::new());
    let under_load = drill.witnesses[..drill.backed_up].last().map(|witness| witness.user(0));
    for user in under_load.into_iter().chain([drill.letters.friend.clone()]) {
        let has = last_position(&target, &user, &drill.cluster.token(&user), &drill.tasks).await?;
        devices.push(Device { user, has });
    }
    Ok(devices)
}

impl Device {
    /// Comes back with its old position: it must hear that the timeline has another epoch before anything else, and then get everything.
    async fn notices(&self, target: &Target, token: &str, tasks: &Tasks) -> Result<(), String> {
        let positions = vec![(inbox_of(&self.user), self.has)];
        let config = ClientConfig {
            positions,
            ..target.config((&self.user, "comes-back"), Credential::Token(token.to_owned()))
        };
        let (client, mut events) = Client::open(config, tasks).map_err(|error| error.to_string())?;
        let heard = timeout(HEARS, first_two(self.has, &mut events)).await;
        client.close().await;
        heard.map_err(|_| format!("hears nothing within {HEARS:?}"))?
    }
}

async fn first_two(has: Position, events: &mut Events) -> Result<(), String> {
    let mut anew = None;
    while let Some(event) = events.next().await {
        match (event, anew) {
            (Event::State(State::Ended { why, .. }), _) => return Err(why),
            (Event::State(_), _) => {}
            (Event::Trimmed { first, .. }, None) if first.epoch != has.epoch => anew = Some(first),
            (Event::Delivered { position, .. } | Event::Sent { position, .. }, Some(first)) if position == first => {
                let is_the_first = position.seq == 1;
                return if is_the_first { Ok(()) } else { Err(format!("begins at {position:?}")) };
            }
            (other, _) => return Err(format!("has {has:?}, and is shown {other:?}")),
        }
    }
    Err("its client has ended".to_owned())
}

/// The number in what the command says of messages with one copy.
fn mended(said: &str) -> u64 {
    let line = said.lines().find(|line| line.contains("had one copy"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mended_messages_are_read_from_what_the_command_says() {
        let said = "it is a new cluster\n12 messages of the time of the backup had one copy, and have both now";
        assert_eq!(mended(said), 12);
        assert_eq!(mended("it is a new cluster, 7, of one storage node"), 0);
    }
}
