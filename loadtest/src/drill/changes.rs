//! The storage nodes change as an operator asks for it, while users write.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    report::Changed,
    run::{Drill, Phase},
    sent::SnapshotsSent,
    size::Size,
    traffic::{Beginning, Traffic},
};
use crate::{
    cluster::{Cluster, Members, PlacedShard},
    faults::{
        Change,
        change::{self, add_without_share},
    },
};

/// The changes after a fourth storage node was added.
const STEPS: [(&str, Change); 5] = [
    ("move of one replica", Change::Move),
    ("rebalance", Change::Rebalance),
    ("replace a killed node", Change::Replace),
    ("remove the first node", Change::Remove),
    ("another address", Change::Readdress),
];

pub(super) async fn run(drill: &mut Drill<'_>) -> anyhow::Result<()> {
    let (options, patience) = (drill.options, drill.options.load.patience);
    let traffic = Traffic::start(&drill.cluster, &drill.load_of(Phase::Changes), &options.load).await?;
    drill.witnesses.extend(traffic.witnesses());
    drill.report.steady = Some(traffic.quiet(options.steady, patience).await?);
    let changed = all(drill, &traffic).await;
    let verdict = traffic.finish(patience).await?;
    drill.report.take("changes", &verdict);
    changed
}

async fn all(drill: &mut Drill<'_>, traffic: &Traffic) -> anyhow::Result<()> {
    let watching = drill.tasks.child();
    let sent = SnapshotsSent::watch(&drill.cluster, &watching);
    let patience = drill.options.load.change_patience;
    let add = Measured::begin(&drill.cluster, traffic, &sent).await?;
    let took = add_without_share(&mut drill.cluster, patience, &mut drill.report.notes).await?;
    add.end(drill, "add, without a share", took, traffic, &sent).await?;
    for (what, change) in STEPS {
        let node = node_for(&drill.cluster, change).await?;
        let measured = Measured::begin(&drill.cluster, traffic, &sent).await?;
        let underway = change::begin(&mut drill.cluster, change, node, &mut drill.report.notes).await?;
        let took = underway.finish(&mut drill.cluster, patience).await.map_err(anyhow::Error::msg)?;
        measured.end(drill, what, took, traffic, &sent).await?;
    }
    watching.stop();
    Ok(())
}

/// The first node is the one that leaves; others stand for any.
async fn node_for(cluster: &Cluster, change: Change) -> anyhow::Result<Option<usize>> {
    let by_leadership = cluster.storage_by_leadership().await?;
    let newest = cluster.newest()?;
    let others = || by_leadership.iter().copied().filter(|at| *at != 0 && *at != newest);
    Ok(match change {
        Change::Rebalance | Change::Add => None,
        Change::Remove => Some(0),
        Change::Move => by_leadership.first().copied(),
        Change::Replace | Change::ReplaceElsewhere | Change::Readdress => others().next_back(),
    })
}

/// The snapshots sent and the replicas in place before a change.
struct Measured {
    beginning: Beginning,
    sent: u64,
    placed: BTreeSet<(String, u64)>,
}

impl Measured {
    async fn begin(cluster: &Cluster, traffic: &Traffic, sent: &Arc<SnapshotsSent>) -> anyhow::Result<Self> {
        let placed = placed(&cluster.members().await?);
        Ok(Self { sent: sent.bytes().await, placed, beginning: traffic.begin() })
    }

    async fn end(
        self,
        drill: &mut Drill<'_>,
        what: &str,
        took: Duration,
        traffic: &Traffic,
        sent: &Arc<SnapshotsSent>,
    ) -> anyhow::Result<()> {
        let during = traffic.end(self.beginning, drill.options.load.patience).await?;
        let snapshots = Size(sent.bytes().await - self.sent);
        let replicas = placed(&drill.cluster.members().await?).difference(&self.placed).count();
        let seconds = took.as_secs_f64();
        drill.say(&format!("{what}: {seconds:.1} s, {replicas} replicas, {snapshots} in snapshots"));
        drill.report.changes.push(Changed { what: what.to_owned(), seconds, replicas, snapshots, during });
        Ok(())
    }
}

/// Each shard with each node that has a replica of it.
fn placed(members: &Members) -> BTreeSet<(String, u64)> {
    let on = |shard: &PlacedShard| {
        shard.replicas.iter().map(|replica| (shard.shard.clone(), replica.node)).collect::<Vec<_>>()
    };
    members.shards.iter().flat_map(on).collect()
}
