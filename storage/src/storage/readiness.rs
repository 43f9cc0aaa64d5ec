//! Whether a storage node is ready, and what it waits for.

use std::{collections::HashSet, sync::Arc, time::Duration};

use carillon_proto::{Readiness, ShardId};
use tokio::time::sleep;

use super::Node;
use crate::cluster::Cluster;

impl Node {
    pub(super) async fn watch_readiness(self: Arc<Self>) {
        let Some(cluster) = self.serving.get() else { return };
        // Once is enough: under load a node always lacks some entries.
        let mut caught_up = HashSet::new();
        while !self.alarm.is_raised() {
            let why = match cluster.has_no_place() {
                Some(why) => Some(why.to_owned()),
                None => lacking(cluster, &mut caught_up),
            };
            // Readiness is reported soon, and its loss within half a second.
            let pause = if why.is_some() { 100 } else { 500 };
            match why {
                Some(why) => self.not_ready(&why),
                None => self.set_readiness(Readiness::Ready),
            }
            sleep(Duration::from_millis(pause)).await;
        }
    }

    pub(super) fn not_ready(&self, why: &str) {
        self.set_readiness(Readiness::NotReady(why.to_owned()));
    }

    fn set_readiness(&self, readiness: Readiness) {
        self.tell.send_if_modified(|current| {
            let is_ready = readiness.is_ready() && self.alarm.is_raised();
            !is_ready && current.change(readiness)
        });
    }
}

/// The thing that a shard of this node lacks, in words; `None`: nothing. `caught_up`: the shards that had everything once.
fn lacking(cluster: &Cluster, caught_up: &mut HashSet<ShardId>) -> Option<String> {
    let mut why = None;
    for shard in cluster.shards().values() {
        let id = shard.id();
        if shard.group().leader_id().is_none() {
            return Some(format!("shard {id} has no leader that this node knows"));
        }
        if cluster.is_below_its_beginning(shard.reader().level()) {
            return Some(format!("shard {id} is being made"));
        }
        if !caught_up.contains(&id) {
            match shard.group().status().caught_up() {
                Ok(()) => drop(caught_up.insert(id)),
                Err(None) => why = Some(format!("shard {id} has heard nothing of its leader yet")),
                Err(Some(behind)) => why = Some(format!("shard {id} lacks {behind} of its leader's entries")),
            }
        }
    }
    why
}
