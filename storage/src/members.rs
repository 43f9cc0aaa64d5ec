//! Tells the other nodes and the registry this node's address.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    Level,
    pb::store::{SetStorageNode, StorageNode, StoreError, directory_command::Op, store_error::Why},
};
use tokio::time::{sleep, timeout};

use crate::{bootstrap::Bootstrap, carrier::Carrier, cluster::Serving, machine::Outcome, metrics as names};

const PAUSE: Duration = Duration::from_millis(300);
/// Pause before an unreachable node is contacted again. A node that returns while this node does not know its address
/// contacts this node by itself.
const AWAY: Duration = Duration::from_secs(5);
/// Pause when all nodes have been told: another one may become a member.
const MET: Duration = Duration::from_secs(60);

/// Contacts the other nodes until each has been reached since this process started.
pub(crate) async fn announce(serving: Arc<Serving>, bootstrap: Bootstrap) {
    let Some(cluster) = serving.get() else { return };
    let mut registry = cluster.registry.clone();
    let mut pause = PAUSE;
    loop {
        registry.borrow_and_update();
        let nodes: Vec<u64> = cluster.rows().nodes().map(|node| node.node).collect();
        let unmet: Vec<u64> = nodes.into_iter().filter(|node| !bootstrap.has_met(*node)).collect();
        if unmet.is_empty() {
            // An error means that the registry's shard has ended, and the process with it.
            let _ = timeout(MET, registry.changed()).await;
            sleep(PAUSE).await;
            continue;
        }
        let known = unmet.iter().filter_map(|node| cluster.book.of(*node));
        let mut addresses: Vec<Arc<str>> = bootstrap.seeds().chain(known).collect();
        addresses.sort();
        addresses.dedup();
        futures_util::future::join_all(addresses.iter().map(|address| bootstrap.tell_of_this_node(address))).await;
        sleep(pause).await;
        pause = (pause * 2).min(AWAY);
    }
}

/// Keeps three things up to date: this node's row, the address book, the identity file.
pub(crate) async fn follow_rows(serving: Arc<Serving>, bootstrap: Bootstrap, carrier: Carrier) {
    let Some(cluster) = serving.get() else { return };
    let mut registry = cluster.registry.clone();
    let reads = bootstrap.reads();
    let mut told = false;
    loop {
        let rows = registry.borrow_and_update().cluster.clone();
        metrics::gauge!(names::CLUSTER_LEVEL).set(f64::from(rows.level.0));
        metrics::gauge!(names::PROGRAM_LEVEL).set(f64::from(reads.0));
        if !told && rows.level >= cluster.begins_at && rows.level < reads {
            told = true;
            tracing::info!(
                level = rows.level.0,
                reads = reads.0,
                "the cluster is at a lower level than this release reads: the release before can come back until \
                 `carillon cluster raise-level`"
            );
        }
        if rows.has_rows() {
            cluster.book.follow(&rows);
            cluster.book.learn(cluster.own, bootstrap.own());
            if let Err(error) = bootstrap.remember(rows.clone()).await {
                tracing::error!(%error, "the file identity can't be brought up to date");
            }
            let known = rows.node(cluster.own).map(|known| StorageNode { state: 0, ..known.clone() });
            let row = known.as_ref().map(|known| reported(bootstrap.row(cluster.own), known, rows.level));
            if let Some(row) = row.filter(|row| known.as_ref() != Some(row)) {
                let wanted = row.address.clone();
                match carrier.carry(Op::SetStorageNode(SetStorageNode { node: Some(row) })).await {
                    Ok(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })) => {
                        tracing::error!(why = rejected.detail, "the registry does not take this storage node's row");
                        sleep(AWAY).await;
                    }
                    Ok(_) => tracing::info!(address = wanted, "the registry knows where this storage node is reached"),
                    Err(why) => tracing::debug!(why, "the registry has not taken this storage node's row yet"),
                }
                // Written changes come with the next change; others are retried.
                let _ = timeout(PAUSE, registry.changed()).await;
                continue;
            }
        }
        if registry.wait_for(|state| state.cluster != rows).await.is_err() {
            return;
        }
    }
}

/// `own` as this node reports it, where the registry has `known` and the cluster is at `level`. What the program can read is no
/// reason to raise the level: that is the operator's to say.
fn reported(own: StorageNode, known: &StorageNode, level: Level) -> StorageNode {
    let mut row = StorageNode { level: own.level.min(known.level.max(level.0)), ..own };
    if level < Level::GROWTH {
        row.zone.clear();
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_reports_no_higher_level_than_the_registry_has_already() {
        let of = |level, zone: &str| StorageNode { level, zone: zone.to_owned(), ..StorageNode::default() };
        let level = |own, known, cluster| reported(of(own, ""), &of(known, ""), Level(cluster)).level;
        assert_eq!(level(5, 3, 3), 3, "a newer program");
        assert_eq!(level(5, 4, 3), 4, "the operator has begun to raise it");
        assert_eq!(level(3, 5, 3), 3, "an older program has come back");
        assert_eq!(level(5, 3, 4), 4, "the row is older than the level");
        assert_eq!(reported(of(5, "a"), &of(3, ""), Level(3)).zone, "", "programs of level 3 do not know zones");
        assert_eq!(reported(of(5, "a"), &of(4, ""), Level(4)).zone, "a");
    }
}
