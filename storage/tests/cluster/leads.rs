//! Leads move by load, and away from a node that can't keep up. Needs the feature `planted-bugs`, which makes disks slow and waits short.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carillon_proto::{
    ShardId,
    pb::{
        raft::{Leads, MembersReply},
        store::LeadsRequest,
    },
};
use carillon_storage::StorageConfig;
use tokio::time::{Instant, sleep};

use crate::{
    growth::members,
    quick,
    support::{Cluster, MAP, eventually, timeline_shard},
};

/// Waits are so many times shorter: a node has to be well for 6 seconds, and a lead settles for 1.5.
const HASTE: u32 = 10;
/// Longer than what makes a write slow.
const DELAY: Duration = Duration::from_millis(600);
const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];

async fn hasty() -> Cluster {
    let patient = |config: &mut StorageConfig| {
        quick(config);
        // A slow disk can write a vote in this time, so its node could be elected.
        config.election_min_ms = 1500;
        config.election_max_ms = 2000;
    };
    let cluster = Cluster::started(3, patient).await;
    hurry(&cluster, HASTE);
    eventually("leads are spread", || async {
        let leads = leads(&cluster).await;
        if leads.iter().all(|led| !led.is_empty()) { Ok(()) } else { Err(leads) }
    })
    .await;
    cluster
}

fn hurry(cluster: &Cluster, haste: u32) {
    for node in &cluster.nodes {
        node.storage().plant_haste(haste);
    }
}

/// The shards that each node claims to lead.
async fn leads(cluster: &Cluster) -> Vec<BTreeSet<ShardId>> {
    let mut all = Vec::new();
    for node in &cluster.nodes {
        let reply = node.registry().leads(LeadsRequest {}).await;
        let led = reply.map(|reply| reply.into_inner().led).unwrap_or_default();
        all.push(led.iter().filter_map(|led| ShardId::from_pb(led.shard.as_ref()?)).collect());
    }
    all
}

/// Writes of all users, one after the other, numbered without a gap.
struct Writing<'a> {
    cluster: &'a Cluster,
    written: Cell<u64>,
}

impl<'a> Writing<'a> {
    fn to(cluster: &'a Cluster) -> Self {
        Self { cluster, written: Cell::new(0) }
    }

    async fn write(&self) {
        let key = self.written.get();
        for user in USERS {
            assert_eq!(self.cluster.append(user, key).await.seq, key + 1);
        }
        self.written.set(key + 1);
    }

    /// Writes until the nodes that can't keep up are these, and each leads as many shards as wanted.
    async fn until(&self, what: &str, slow: &[u64], wanted: impl Fn(&[BTreeSet<ShardId>]) -> bool) {
        eventually(what, || async {
            self.write().await;
            let (told, leads) = (members(self.cluster).await.slow, leads(self.cluster).await);
            if told == slow && wanted(&leads) { Ok(()) } else { Err((told, leads)) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_slow_disk_gives_its_leads_away_and_gets_them_back_when_it_is_well() {
    let cluster = hasty().await;
    let writing = Writing::to(&cluster);
    writing.write().await;
    // One of its leads stays the preferred one meanwhile: others are preferred one a minute.
    let slow = leads(&cluster).await.iter().position(|led| led.len() > 1).expect("five shards on three nodes");
    let number = slow as u64 + 1;
    // The registry's leader would take longer to prefer other nodes.
    hurry(&cluster, 1);
    cluster.nodes[slow].storage().plant_delay(DELAY);
    writing.until("the slow node leads nothing", &[number], |leads| leads[slow].is_empty()).await;

    hurry(&cluster, HASTE);
    writing.write().await;
    // Without writes the slow node soon has what the leaders have, and would be handed the leads that it is preferred for, but it has
    // not been well for long enough.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert!(leads(&cluster).await[slow].is_empty(), "leads come back to a node that is still slow");
        sleep(Duration::from_millis(20)).await;
    }

    cluster.nodes[slow].storage().plant_delay(Duration::ZERO);
    writing.until("the node leads again", &[], |leads| leads.iter().all(|led| !led.is_empty())).await;
}

/// The shards that each answering node claims to lead, towards the others.
fn told(members: &MembersReply) -> BTreeMap<u64, BTreeSet<ShardId>> {
    let led = |leads: &Leads| leads.led.iter().filter_map(|lead| ShardId::from_group(lead.group)).collect();
    members.programs.iter().map(|program| (program.node, led(program.leads.as_ref().expect("is told")))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_tell_who_leads_now() {
    let mut cluster = Cluster::started(3, quick).await;
    let all: BTreeSet<ShardId> = MAP.all().collect();
    eventually("each shard has one leader, as its node says", || async {
        let told: Vec<_> = told(&members(&cluster).await).into_values().collect();
        let own = leads(&cluster).await;
        let count: usize = told.iter().map(BTreeSet::len).sum();
        if told == own && count == all.len() { Ok(()) } else { Err((told, own)) }
    })
    .await;
    cluster.nodes[0].stop().await;
    eventually("the other two lead all", || async {
        let members = members(&cluster).await;
        let told = told(&members);
        let led: BTreeSet<ShardId> = told.values().flatten().copied().collect();
        let is_so = members.silent == [1] && told.keys().eq(&[2, 3]) && led == all;
        if is_so { Ok(()) } else { Err(members) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leads_stay_when_all_disks_are_equally_slow() {
    let cluster = hasty().await;
    let writing = Writing::to(&cluster);
    writing.write().await;
    eventually("leads have settled", || async {
        let (before, placed) = (leads(&cluster).await, members(&cluster).await);
        (before == preferred(&placed)).then_some(()).ok_or((before, placed))
    })
    .await;
    let before = leads(&cluster).await;
    for node in &cluster.nodes {
        node.storage().plant_delay(DELAY);
    }
    writing.until("all are slow", &[1, 2, 3], |_| true).await;
    for _ in 0..5 {
        writing.write().await;
        assert_eq!(leads(&cluster).await, before);
    }
}

/// The shards that each node should lead.
fn preferred(members: &MembersReply) -> Vec<BTreeSet<ShardId>> {
    let mut by_node: BTreeMap<u64, BTreeSet<ShardId>> = BTreeMap::new();
    for placed in &members.placement {
        let leader = placed.replicas.iter().find(|replica| replica.id == placed.preferred).expect("has one");
        let shard = placed.shard.as_ref().and_then(ShardId::from_pb).expect("is one");
        by_node.entry(leader.node).or_default().insert(shard);
    }
    (1..=3).map(|node| by_node.remove(&node).unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leads_a_shard_with_much_work_leads_no_other() {
    const BYTES: usize = 50_000;
    let cluster = hasty().await;
    // Each node leads two of five shards, except for one.
    assert_eq!(MAP.all().count(), 5);
    let first = preferred(&members(&cluster).await);
    let is_with_another = |user: &String| first.iter().any(|led| led.len() == 2 && led.contains(&timeline_shard(user)));
    let user = &(0..).map(|number| format!("user-{number}")).find(is_with_another).expect("there is one");
    let hot = timeline_shard(user);
    let key = Cell::new(0);
    eventually("the node of the hot shard leads only this", || async {
        cluster.append_noise(user, key.get(), BYTES).await;
        key.set(key.get() + 1);
        let (leads, preferred) = (leads(&cluster).await, preferred(&members(&cluster).await));
        let is_alone = |led: &BTreeSet<ShardId>| *led == BTreeSet::from([hot]);
        let are_even = leads == preferred && leads.iter().filter(|led| led.len() == 2).count() == 2;
        if leads.iter().any(is_alone) && are_even { Ok(()) } else { Err((leads, preferred)) }
    })
    .await;
    let before = preferred(&members(&cluster).await);
    for _ in 0..50 {
        cluster.append_noise(user, key.get(), BYTES).await;
        key.set(key.get() + 1);
    }
    assert_eq!(preferred(&members(&cluster).await), before, "and leads stay then");
}
