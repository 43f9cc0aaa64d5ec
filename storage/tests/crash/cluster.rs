//! Three nodes, one of which was away for too long: it is killed while it installs the snapshot that it receives.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant, SystemTime},
};

use carillon_proto::pb::store::store_reply::Result as Outcome;
use futures_util::future::join_all;
use tokio::{runtime::Runtime, time::sleep};

use crate::{
    Folder, Moments,
    kills::{address, forgetful, is_temporary, names, runtime, watch},
    ledger::Ledger,
    load::{Extent, ask_one, check, write_more},
    node::Node,
    rounds,
    support::MAP,
};

const AWAY: usize = 2;
/// Rounds on the same folders: snapshots take longer, the more data there is.
const LIFE: u64 = 10;

#[test]
fn kills_while_a_snapshot_is_installed_lose_nothing() {
    let (runtime, mut moments, mut left) = (runtime(), Moments::new(), rounds(1));
    while left > 0 {
        let rounds = left.min(LIFE);
        kill_during_installation(&runtime, &mut moments, rounds);
        left -= rounds;
    }
}

/// Nodes with these addresses. The first `members` of them are a cluster and have started; the others have not.
pub(crate) fn started(folder: &Folder, addresses: &[SocketAddr], members: usize) -> Vec<Node> {
    let listed: Vec<_> = addresses[..members].iter().map(ToString::to_string).collect();
    let new = |(number, listen): (usize, &SocketAddr)| {
        Node::new(folder.0.join(format!("node-{number}")), *listen, |config| {
            forgetful(config);
            config.members = listed.clone();
        })
    };
    let mut nodes: Vec<_> = addresses.iter().enumerate().map(new).collect();
    nodes[..members].iter_mut().for_each(Node::start);
    for node in &mut nodes[..members] {
        node.wait_ready();
    }
    nodes
}

fn kill_during_installation(runtime: &Runtime, moments: &mut Moments, rounds: u64) {
    let folder = Folder::new("install");
    let addresses: Vec<_> = (0..3).map(|host| address(10 + host)).collect();
    let mut nodes = started(&folder, &addresses, addresses.len());
    let snapshots = nodes[AWAY].config.data_dir.join("snapshots");
    let mut ledger = Ledger::new(6, moments.next(), 4000);
    let (mut half_done, mut round) = (0, 0);
    while round < rounds || half_done == 0 {
        round += 1;
        assert!(round <= rounds + 10, "no kill struck while a snapshot came in");
        nodes[AWAY].kill();
        // Waits until the other nodes no longer have the entries that the absent node would need.
        let made = |nodes: &[Node]| -> Vec<_> { nodes[..AWAY].iter().flat_map(snapshot_times).collect() };
        let (before, begun) = (made(&nodes), Instant::now());
        while made(&nodes).iter().zip(&before).any(|(now, before)| now == before) {
            // Few writes: a snapshot is made after a number of entries, however small, and takes longer, the more data
            // there is.
            runtime.block_on(write_more(&addresses[..AWAY], &mut ledger, 5));
            assert!(begun.elapsed() < Duration::from_secs(120), "no new snapshots");
        }
        // Parts of an earlier snapshot stay.
        let known = names(&snapshots);
        let comes_in = || names(&snapshots).difference(&known).any(is_temporary);
        nodes[AWAY].start();
        watch("a snapshot that comes in", comes_in);
        thread::sleep(moments.below(Duration::from_millis(15)));
        nodes[AWAY].kill();
        half_done += u64::from(comes_in());
        // Another time, while the node continues with what it has received.
        nodes[AWAY].start();
        let opening = nodes[AWAY].wait_ready();
        thread::sleep(moments.below(Duration::from_millis(200)));
        nodes[AWAY].kill();
        nodes[AWAY].start();
        thread::sleep(moments.below(opening));
        nodes[AWAY].kill();
        nodes[AWAY].start();
        nodes[AWAY].wait_ready();
        runtime.block_on(check(&addresses, &ledger, Extent::Recent));
        if round % 5 == 0 {
            check_replica(runtime, &mut nodes, &addresses, &ledger);
        }
    }
    println!("{half_done} of {round} kills left a snapshot that had come in by half");
    check_replica(runtime, &mut nodes, &addresses, &ledger);
    println!("{} writes acknowledged, all there", ledger.acknowledged());
}

/// Reads everything from the node that was away, as the leader of all shards. It can lead only with complete data.
fn check_replica(runtime: &Runtime, nodes: &mut [Node], addresses: &[SocketAddr], ledger: &Ledger) {
    let third = &addresses[AWAY..];
    // A leader loses its shards when it is killed; after some turns the third node leads all of them.
    for turn in 0..60 {
        let other = &mut nodes[turn % AWAY];
        other.kill();
        let all_read = runtime.block_on(async {
            for _ in 0..20 {
                if leads(third[0], ledger).await {
                    // The node may pass a shard on to the remaining one, because leaders are spread.
                    return tokio::select! {
                        () = check(third, ledger, Extent::Whole) => true,
                        () = no_longer_leads(third[0], ledger) => false,
                    };
                }
                sleep(Duration::from_millis(100)).await;
            }
            false
        });
        other.start();
        other.wait_ready();
        if all_read {
            return;
        }
    }
    panic!("the node that was away never led everything for long enough");
}

async fn leads(node: SocketAddr, ledger: &Ledger) -> bool {
    let reads = (0..ledger.writers.len()).map(|writer| ask_one(node, ledger.read(writer, 0)));
    join_all(reads).await.iter().all(|answer| matches!(answer, Some(Outcome::TimelineRead(_))))
}

async fn no_longer_leads(node: SocketAddr, ledger: &Ledger) {
    while leads(node, ledger).await {
        sleep(Duration::from_millis(500)).await;
    }
}

/// The time of the last snapshot of each timeline shard. The writers write to all of them.
fn snapshot_times(node: &Node) -> Vec<Option<SystemTime>> {
    let path = |shard| node.config.data_dir.join(format!("snapshots/timeline-{shard}.snapshot"));
    let time = |shard| path(shard).metadata().and_then(|meta| meta.modified()).ok();
    (0..MAP.timeline).map(time).collect()
}
