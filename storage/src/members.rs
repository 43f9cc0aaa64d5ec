//! Tells the other nodes and the registry this node's address and the level that its program reads.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    Level,
    pb::store::{SetStorageNode, StorageNode, StoreError, directory_command::Op, store_error::Why},
};
use tokio::time::{sleep, timeout};

use crate::{bootstrap::Bootstrap, carrier::Carrier, cluster::Serving, machine::Outcome};

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
    loop {
        let rows = registry.borrow_and_update().cluster.clone();
        if rows.has_rows() {
            cluster.book.follow(&rows);
            cluster.book.learn(cluster.own, bootstrap.own());
            if let Err(error) = bootstrap.remember(rows.clone()).await {
                tracing::error!(%error, "the file identity can't be brought up to date");
            }
            let mut row = bootstrap.row(cluster.own);
            if rows.level < Level::GROWTH {
                row.zone.clear();
            }
            let known = rows.node(cluster.own).map(|known| StorageNode { state: 0, ..known.clone() });
            if known.is_some_and(|known| known != row) {
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
