//! Messages that are shown for a time only, over two gateways, while a router and a storage node die.

mod support;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use carillon_client::{Client, Event, SendError};
use carillon_proto::{
    TimelineId, now_ms,
    pb::client::{Accepted, CreateGroup, Envelope, Recipient},
};
use support::{
    cluster::Cluster,
    device::{Device, PATIENCE, said},
};
use tokio::{runtime::Runtime, time::timeout};

const SHOWN: Duration = Duration::from_secs(5);
/// The clocks of the shards tick every second, and the rows of these tests are young.
const QUICK_CLOCKS: &str = "storage.retention.cursor_age_ms = 8000\n";

impl Device {
    /// Sends as soon as the shards are at the level for it: each rises by itself.
    async fn says(&self, to: Recipient, text: &str) -> Accepted {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.send_expiring(to.clone(), Client::text(text), SHOWN).await {
                Ok(accepted) => return accepted,
                Err(SendError::Refused(refusal)) if refusal.retry => assert!(Instant::now() < until, "{refusal}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next message with this id.
    async fn gets(&mut self, id: &str) -> Envelope {
        let is_it = |event| match event {
            Event::Delivered { envelope, .. } if envelope.id == id => Some(envelope),
            _ => None,
        };
        self.hears(id, is_it).await
    }
}

fn is_gone(envelope: &Envelope) -> bool {
    envelope.erased && said(envelope).is_empty() && envelope.expires_at_ms != 0
}

/// Reads the message again and again: it is whole until its time, and gone from then on.
async fn vanishes(device: &Device, timeline: &TimelineId, id: &str, text: &str) {
    loop {
        let before_ms = now_ms();
        let envelope = device.reads(timeline, id).await;
        if is_gone(&envelope) {
            assert!(now_ms() >= envelope.expires_at_ms, "too early");
            return;
        }
        assert_eq!(said(&envelope), text);
        assert!(before_ms < envelope.expires_at_ms, "too late");
    }
}

fn expired(cluster: &Cluster, nodes: &[usize]) -> u64 {
    nodes.iter().map(|node| cluster.storage[*node].metric("carillon_storage_messages_expired_total") as u64).sum()
}

#[test]
fn an_expiring_message_is_gone_in_time_for_everybody_although_nodes_die() {
    let mut cluster = Cluster::start_with(QUICK_CLOCKS);
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        let members = vec!["bob".to_owned()];
        let club = alice.client.create_group(None, CreateGroup { settings: None, members }).await.expect("made");
        let accepted = alice.says(Client::user("bob"), "the code is 4711").await;
        let envelope = bob.gets(&accepted.message_id).await;
        assert_eq!(said(&envelope), "the code is 4711");
        assert_eq!(envelope.expires_at_ms, accepted.time_ms + SHOWN.as_millis() as u64);
        let to_all = alice.says(Client::group(club.as_str()), "in the club").await;
        assert_eq!(said(&bob.gets(&to_all.message_id).await), "in the club");
        cluster.routers[0].kill();
        cluster.storage[2].kill();
        vanishes(&bob, &bob.inbox(), &accepted.message_id, "the code is 4711").await;
        vanishes(&alice, &alice.inbox(), &accepted.message_id, "the code is 4711").await;
        vanishes(&bob, &TimelineId::Group(club.clone()), &to_all.message_id, "in the club").await;
        // A device that was away.
        let mut tablet = Device::enter(&cluster, &[0], "bob", "tablet").await;
        assert!(is_gone(&tablet.gets(&accepted.message_id).await));

        // Three rows: in two inboxes and the group. The leads of the dead node are with the others.
        let until = Instant::now() + PATIENCE;
        while expired(&cluster, &[0, 1]) < 3 {
            assert!(Instant::now() < until, "not all were removed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let node = &cluster.storage_addresses()[0];
        let exported = cluster.storage[0].command(&["user", "export", "bob", "--to", "-", "--node", node]);
        let exported = exported.expect("is exported");
        let line = exported.lines().find(|line| line.contains(&accepted.message_id)).expect("it has its place");
        assert!(line.contains("\"expires_at_ms\":") && !exported.contains("4711"), "{line}");
        let later = alice.client.send(Client::user("bob"), Client::text("still here")).await.expect("accepted");
        assert_eq!(said(&bob.gets(&later.message_id).await), "still here");
    });
}

#[test]
fn the_command_line_sends_and_schedules_messages_that_expire() {
    let cluster = Cluster::start_with(QUICK_CLOCKS);
    let carillon = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(args).env("CARILLON_URL", cluster.addresses[0].to_string());
        let output = command.env("CARILLON_TOKEN", cluster.token("alice")).output().expect("it runs");
        (output.status.success(), format!("{output:?}"))
    };
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        // The shards are at the level for it.
        let probe = alice.says(Client::user("bob"), "probe").await;
        bob.gets(&probe.message_id).await;
        let (sent, output) = carillon(&["send", "alice", "bob", "psst", "--expires", "30s"]);
        assert!(sent, "{output}");
        let (sent, output) = carillon(&["send", "alice", "bob", "psst", "--expires", "1s"]);
        assert!(!sent && output.contains("5s to 366d"), "{output}");
        let until = Instant::now() + PATIENCE;
        loop {
            let (scheduled, output) = carillon(&[
                "scheduled",
                "--as",
                "alice",
                "add",
                "--to",
                "bob",
                "later",
                "--in",
                "1",
                "--expires",
                "1m",
            ]);
            if scheduled {
                break;
            }
            assert!(Instant::now() < until, "{output}");
        }
        for (text, shown_for_ms) in [("psst", 30_000), ("later", 60_000)] {
            let hears = async {
                loop {
                    match bob.events.next().await.expect("it goes on") {
                        Event::Delivered { envelope, .. } if said(&envelope) == text => return envelope,
                        _ => {}
                    }
                }
            };
            let envelope = timeout(PATIENCE, hears).await.unwrap_or_else(|_| panic!("{text} did not come"));
            assert_eq!(envelope.expires_at_ms, envelope.time_ms + shown_for_ms, "{text}");
        }
    });
}
