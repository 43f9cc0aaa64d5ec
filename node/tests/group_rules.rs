//! A group whose messages expire, over two gateways, while a router and a storage node die; and what is decided for the default domain.

mod support;

use std::time::{Duration, Instant};

use carillon_client::{Change, Client, Event, SendError};
use carillon_proto::{
    GroupId, TimelineId, now_ms,
    pb::client::{Accepted, Code, CreateGroup, Envelope, GroupSettings, group_change::What},
};
use support::{
    cluster::Cluster,
    device::{Device, PATIENCE, said},
};
use tokio::runtime::Runtime;

const RULE_MS: u64 = 5_000;
/// The clocks of the shards tick every second, and the rows of these tests are young.
const QUICK_CLOCKS: &str = "storage.retention.cursor_age_ms = 8000\n";

impl Device {
    async fn says(&self, group: &GroupId, text: &str, after: Duration) -> Accepted {
        let until = Instant::now() + PATIENCE;
        loop {
            let sent = if after.is_zero() {
                self.client.send(Client::group(group.as_str()), Client::text(text)).await
            } else {
                self.client.send_expiring(Client::group(group.as_str()), Client::text(text), after).await
            };
            match sent {
                Ok(accepted) => return accepted,
                Err(SendError::Refused(refusal)) if refusal.retry => assert!(Instant::now() < until, "{refusal}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next message of which this is true.
    async fn gets(&mut self, what: &str, is_it: impl Fn(&Envelope) -> bool) -> Envelope {
        let is_it = |event| match event {
            Event::Delivered { envelope, .. } if is_it(&envelope) => Some(envelope),
            _ => None,
        };
        self.hears(what, is_it).await
    }
}

fn rule(after_ms: u64) -> Change {
    Change::Set(GroupSettings { expire_after_ms: Some(after_ms), ..GroupSettings::default() })
}

/// The group's rule, if the envelope tells a change of it.
fn told(envelope: &Envelope) -> Option<u64> {
    match envelope.change.as_ref()?.what.as_ref()? {
        What::Set(set) => set.expire_after_ms,
        _ => None,
    }
}

fn expired(cluster: &Cluster, nodes: &[usize]) -> u64 {
    nodes.iter().map(|node| cluster.storage[*node].metric("carillon_storage_messages_expired_total") as u64).sum()
}

#[test]
fn messages_of_a_group_expire_by_its_rule_for_everybody_although_nodes_die() {
    let mut cluster = Cluster::start_with(QUICK_CLOCKS);
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        let members = vec!["bob".to_owned()];
        let club = alice.client.create_group(None, CreateGroup { settings: None, members }).await.expect("made");
        let before = alice.says(&club, "stays", Duration::ZERO).await;
        assert_eq!(before.expires_at_ms, 0);
        let wrong = alice.client.change_group(&club, rule(4_999)).await.expect_err("too short");
        assert!(wrong.to_string().contains("5 seconds to 366 days"), "{wrong}");
        let of_a_member = bob.client.change_group(&club, rule(RULE_MS)).await.expect_err("only admins");
        assert!(
            matches!(&of_a_member, SendError::Refused(refusal) if refusal.code == Code::Forbidden),
            "{of_a_member}"
        );
        alice.client.change_group(&club, rule(RULE_MS)).await.expect("set");
        // The log tells the members.
        let change = bob.gets("the rule", |envelope| told(envelope).is_some()).await;
        assert_eq!((told(&change), change.expires_at_ms), (Some(RULE_MS), 0));
        let read = bob.client.read_group(&club).await.expect("read").settings.expect("has some");
        assert_eq!(read.expire_after_ms, Some(RULE_MS));

        let passing = alice.says(&club, "the code is 4711", Duration::ZERO).await;
        assert_eq!(passing.expires_at_ms, passing.time_ms + RULE_MS, "its own device is told, too");
        // The own wish counts only as far as the rule lets it.
        let longer = alice.says(&club, "an hour", Duration::from_secs(3600)).await;
        assert_eq!(longer.expires_at_ms, longer.time_ms + RULE_MS);
        let heard = bob.gets("the message", |envelope| envelope.id == passing.message_id).await;
        assert_eq!((said(&heard), heard.expires_at_ms), ("the code is 4711", passing.expires_at_ms));
        cluster.routers[0].kill();
        cluster.storage[2].kill();
        loop {
            let before_ms = now_ms();
            let envelope = bob.reads(&TimelineId::Group(club.clone()), &passing.message_id).await;
            if envelope.erased {
                assert!(now_ms() >= envelope.expires_at_ms && said(&envelope).is_empty(), "too early: {envelope:?}");
                break;
            }
            assert_eq!(said(&envelope), "the code is 4711");
            assert!(before_ms < envelope.expires_at_ms, "too late");
        }
        assert_eq!(said(&bob.reads(&TimelineId::Group(club.clone()), &before.message_id).await), "stays");
        // A device that was away.
        let mut tablet = Device::enter(&cluster, &[0], "bob", "tablet").await;
        let left = tablet.gets("what is left", |envelope| envelope.id == passing.message_id).await;
        assert!(left.erased && said(&left).is_empty(), "{left:?}");
        let until = Instant::now() + PATIENCE;
        while expired(&cluster, &[0, 1]) < 2 {
            assert!(Instant::now() < until, "not all were removed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The rule ends, and later messages stay.
        let until = Instant::now() + PATIENCE;
        while let Err(error) = alice.client.change_group(&club, rule(0)).await {
            assert!(Instant::now() < until, "{error}");
        }
        assert_eq!(alice.says(&club, "for good", Duration::ZERO).await.expires_at_ms, 0);

        // With two nodes left, the operator decides something for the default domain, and both gateways keep to it.
        let router = cluster.router_addresses()[1].clone();
        let decides = ["domain", "set", "--default-domain", "--max-message-bytes", "30", "--router", &router];
        cluster.routers[1].command(&decides).expect("decided");
        let long = "x".repeat(60);
        for device in [&alice, &bob] {
            let until = Instant::now() + PATIENCE;
            loop {
                match device.client.send(Client::group(club.as_str()), Client::text(&long)).await {
                    Err(SendError::Refused(refusal)) if refusal.code == Code::TooLarge => {
                        assert!(refusal.reason.contains("at most 30 are allowed"), "{refusal}");
                        break;
                    }
                    other => assert!(Instant::now() < until, "{other:?}"),
                }
            }
        }
    });
}
