//! Metrics of the shards and the cluster, which are read when they are scraped, and the sizes of the data folder's parts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use carillon_proto::{
    metrics::{Samples, at_scrape},
    pb::store::{Replica, storage_node::State},
};
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Serving},
    metrics as names,
    raft::GroupStatus,
    shard::Shard,
};

/// Time between two measurements of the data folder, which has some hundred files.
const MEASURED: Duration = Duration::from_secs(30);

/// From now on, scrapes read this node until it is gone.
pub(crate) fn watch(serving: &Arc<Serving>) {
    let serving: Weak<Serving> = Arc::downgrade(serving);
    at_scrape(move |samples| {
        let Some(serving) = serving.upgrade() else { return false };
        if let Some(cluster) = serving.get() {
            cluster.shards().values().for_each(|shard| read_shard(shard, samples));
            read_cluster(cluster, samples);
        }
        true
    });
}

fn read_shard(shard: &Shard, samples: &mut Samples) {
    let group = shard.group();
    let GroupStatus { leads, term, leader, last_log, applied, committed, snapshot, matched, voters, silent, .. } =
        group.status();
    let name = shard.id().to_string();
    let labels = [("shard", name.as_str())];
    let of = |index: Option<u64>| index.unwrap_or(0) as f64;
    samples.set(&names::SHARD_LEADS, &labels, f64::from(leads));
    samples.set(&names::SHARD_LEADER_KNOWN, &labels, f64::from(leader.is_some()));
    samples.set(&names::SHARD_TERM, &labels, term as f64);
    samples.set(&names::SHARD_LAST, &labels, of(last_log));
    samples.set(&names::SHARD_COMMITTED, &labels, of(committed));
    samples.set(&names::SHARD_APPLIED, &labels, of(applied));
    samples.set(&names::SHARD_APPLY_LAG, &labels, of(committed) - of(applied.min(committed)));
    samples.set(&names::SHARD_SNAPSHOT, &labels, of(snapshot));
    samples.set(&names::SHARD_LOG_BYTES, &labels, group.log().kept_bytes() as f64);
    if leads {
        let least = voters.iter().filter_map(|voter| matched.get(voter)).map(|matched| of(*matched)).reduce(f64::min);
        let lag = (of(last_log) - least.unwrap_or(of(last_log))).max(0.0);
        samples.set(&names::SHARD_FOLLOWER_LAG, &labels, lag);
        samples.set(&names::SHARD_SILENT, &labels, silent.len() as f64);
    }
}

fn read_cluster(cluster: &Cluster, samples: &mut Samples) {
    let rows = cluster.rows();
    let nodes = |state| rows.nodes().filter(|node| node.state() == state).count() as f64;
    for (name, state) in [("active", State::Active), ("leaving", State::Leaving), ("lost", State::Lost)] {
        samples.set(&names::NODES, &[("state", name)], nodes(state));
    }
    let replicas = |is: fn(&Replica) -> bool| {
        rows.placement().values().flat_map(|placement| &placement.replicas).filter(|replica| is(replica)).count() as f64
    };
    let settled = replicas(|replica| !replica.joining && !replica.leaving);
    let (joining, leaving) = (replicas(|replica| replica.joining), replicas(|replica| replica.leaving));
    for (name, count) in [("settled", settled), ("joining", joining), ("leaving", leaving)] {
        samples.set(&names::REPLICAS, &[("state", name)], count);
    }
}

/// Measures the parts of the data folder. Runs as long as the node.
pub(crate) async fn measure(folder: PathBuf) {
    loop {
        let folder = folder.clone();
        // A disk may hang. A panic changes nothing.
        let _ = tokio::task::spawn_blocking(move || {
            for part in names::PARTS {
                // Files come and go meanwhile.
                if let Ok(bytes) = bytes_of(&folder.join(part)) {
                    metrics::gauge!(names::STORE_BYTES, "part" => part).set(bytes as f64);
                }
            }
        })
        .await;
        sleep(MEASURED).await;
    }
}

fn bytes_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(file) if file.is_dir() => bytes_of(&entry.path()).unwrap_or(0),
            Ok(file) => file.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_as_large_as_the_files_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("inner")).expect("a folder");
        fs::write(folder.path().join("a"), [0; 100]).expect("written");
        fs::write(folder.path().join("inner/b"), [0; 23]).expect("written");
        assert_eq!(bytes_of(folder.path()).expect("is measured"), 123);
        assert!(bytes_of(&folder.path().join("missing")).is_err());
    }
}
