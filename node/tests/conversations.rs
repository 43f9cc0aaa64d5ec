//! Conversations by the command line and the client library, over two gateways.

mod support;

use std::time::Instant;

use carillon_client::{Client, Event, Target};
use carillon_proto::{
    Position, TimelineId, UserId,
    pb::client::{Audience, Conversation, ConversationSettings, Envelope, SetPrivacy, recipient::To},
};
use support::{
    cluster::Cluster,
    device::{Device, PATIENCE, said},
};
use tokio::runtime::Runtime;

/// Runs `carillon conversation` as this user at this gateway. Gives its output.
fn conversation(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> String {
    cluster.as_user(gateway, user, "conversation", args).unwrap_or_else(|why| panic!("{args:?}: {why}"))
}

impl Device {
    /// The place of a message in this device's inbox.
    async fn gets(&mut self, text: &str) -> (Position, Envelope) {
        self.hears(text, |event| match event {
            Event::Delivered { timeline: TimelineId::Inbox(_), position, envelope } if said(&envelope) == text => {
                Some((position, envelope))
            }
            _ => None,
        })
        .await
    }

    /// Waits until the device is told, without asking, of so many unread messages with this user.
    async fn is_told_unread(&mut self, with: &str, unread: u64) {
        self.hears(&format!("{unread} unread with {with}"), |event| match event {
            Event::Conversations(changed) => {
                changed.conversations.iter().any(|of| is_with(of, with) && of.unread == unread).then_some(())
            }
            _ => None,
        })
        .await;
    }

    async fn unread(&self, with: &str) -> Option<u64> {
        let list = self.client.read_conversations(None).await.expect("read");
        list.conversations.iter().find(|of| is_with(of, with)).map(|of| of.unread)
    }
}

/// Waits until the shard of this user's inbox is at the level of conversations, as each shard rises by itself.
async fn are_counted(cluster: &Cluster, of: &Device, user: &str) {
    let probe = Device::enter(cluster, &[0], "probe", "phone").await;
    let until = Instant::now() + PATIENCE;
    while of.unread("probe").await.unwrap_or(0) == 0 {
        assert!(Instant::now() < until, "nothing is counted for {user}");
        probe.client.send(Client::user(user), Client::text("?")).await.expect("accepted");
    }
    probe.client.close().await;
}

fn is_with(conversation: &Conversation, with: &str) -> bool {
    match conversation.with.as_ref().and_then(|with| with.to.as_ref()) {
        Some(To::User(user)) => user == with,
        Some(To::Group(group)) => group == with,
        None => false,
    }
}

#[test]
fn two_devices_at_two_gateways_see_the_same_counts_and_the_writer_hears_what_became_of_it() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let mut alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut phone = Device::enter(&cluster, &[0], "bob", "phone").await;
        let mut web = Device::enter(&cluster, &[1], "bob", "web").await;
        are_counted(&cluster, &alice, "alice").await;
        are_counted(&cluster, &phone, "bob").await;
        for device in [&alice, &phone, &web] {
            device.client.read_conversations(None).await.expect("read");
        }
        for text in ["one", "two", "three"] {
            alice.client.send(Client::user("bob"), Client::text(text)).await.expect("accepted");
        }
        let (_, one) = phone.gets("one").await;
        let (at_two, two) = phone.gets("two").await;
        let (_, three) = phone.gets("three").await;
        web.gets("three").await;
        web.events.done();
        let delivered = |event| match event {
            Event::Marks(marks) => marks.marks.iter().any(|mark| mark.delivered_id == three.id).then_some(()),
            _ => None,
        };
        alice.hears("the last one is delivered", delivered).await;
        assert_eq!((phone.unread("alice").await, web.unread("alice").await), (Some(3), Some(3)));
        assert_eq!(alice.unread("bob").await, Some(0), "her own");

        let moved = phone.client.move_marks(vec![(Client::user("alice"), at_two)]).await.expect("moved");
        assert_eq!(moved[0].unread, 1);
        web.is_told_unread("alice", 1).await;
        let read = |event| match event {
            Event::Marks(marks) => {
                marks.marks.iter().any(|mark| mark.user == "bob" && mark.read_id == two.id).then_some(())
            }
            _ => None,
        };
        alice.hears("two was read", read).await;
        // An older mark changes nothing.
        let seq = at_two.seq - 1;
        let again =
            web.client.move_marks(vec![(Client::user("alice"), Position { seq, ..at_two })]).await.expect("moved");
        assert_eq!((again[0].unread, again[0].read.map(|read| read.seq)), (1, Some(at_two.seq)));
        let marks = alice.client.read_marks(None, vec!["bob".into(), "nobody".into()]).await.expect("read");
        let ids: Vec<_> = marks.iter().map(|mark| (&*mark.read_id, &*mark.delivered_id)).collect();
        assert_eq!(ids, [(&*two.id, &*three.id), ("", "")]);
        assert_ne!(one.id, two.id);

        // A device that was away learns only of changes since then.
        let known = web.client.read_conversations(None).await.expect("read").version;
        web.client.close().await;
        conversation(&cluster, 0, "bob", &["set", "alice", "--pinned", "true", "--draft", "well"]);
        let read = conversation(&cluster, 1, "bob", &["read", "--all"]);
        assert!(read.lines().any(|line| line == "with alice: 0 unread"), "{read}");
        let web = Device::enter(&cluster, &[0], "bob", "web").await;
        let changed = web.client.read_conversations(Some(known)).await.expect("read");
        assert!(changed.changes);
        let of_alice = changed.conversations.iter().find(|of| is_with(of, "alice")).expect("has changed");
        let settings = of_alice.settings.clone().expect("settings");
        assert_eq!((of_alice.unread, settings.pinned(), settings.draft()), (0, true, "well"));
        let listed = conversation(&cluster, 1, "bob", &["list"]);
        assert!(
            listed.lines().any(|line| line.contains("with alice") && line.contains("pinned, draft: well")),
            "{listed}"
        );
    });
}

#[test]
fn a_group_counts_what_others_write_and_saved_messages_are_a_conversation_with_oneself() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        for (device, user) in [(&alice, "alice"), (&bob, "bob")] {
            are_counted(&cluster, device, user).await;
        }
        let members = vec!["bob".to_owned()];
        let new = carillon_proto::pb::client::CreateGroup { settings: None, members };
        let club = alice.client.create_group(None, new).await.expect("made");
        let name = club.as_str();
        for text in ["one", "two"] {
            alice.client.send(Client::group(name), Client::text(text)).await.expect("accepted");
        }
        assert_eq!(
            (alice.unread(name).await, bob.unread(name).await),
            (Some(0), Some(2)),
            "a change counts for nobody"
        );
        let (epoch, one) = {
            let group = bob.client.read_group(&club).await.expect("read");
            (carillon_proto::Epoch(group.epoch), group.last - 1)
        };
        let mark = vec![(Client::group(name), Position { epoch, seq: one })];
        assert_eq!(bob.client.move_marks(mark).await.expect("moved")[0].unread, 1);
        bob.is_told_unread(name, 1).await;
        let marks = alice.client.read_marks(Some(&club), vec!["bob".into(), "carol".into()]).await.expect("read");
        assert_eq!(marks[0].read.map(|read| read.seq), Some(one));
        assert_eq!(marks[1].read, None, "no member");
        let stranger = Device::enter(&cluster, &[0], "carol", "phone").await;
        assert!(stranger.client.read_marks(Some(&club), vec!["bob".into()]).await.is_err(), "members alone may know");
        // The writer of a message has read everything before it.
        bob.client.send(Client::group(name), Client::text("three")).await.expect("accepted");
        assert_eq!((alice.unread(name).await, bob.unread(name).await), (Some(1), Some(0)));

        // Saved messages, and a setting that comes before anything else.
        let carol = stranger;
        let muted = ConversationSettings { muted_until_ms: Some(9), ..ConversationSettings::default() };
        carol.client.set_conversation(Client::user("dave"), muted).await.expect("set");
        let saved = carol.client.send(Client::user("carol"), Client::text("milk")).await.expect("accepted");
        assert_eq!(saved.position.expect("a position").seq, 1);
        let list = carol.client.read_conversations(None).await.expect("read").conversations;
        let of: Vec<_> = list.iter().map(|of| (of.unread, of.last_seq, of.settings.is_some())).collect();
        assert_eq!(of, [(0, 1, false), (0, 0, true)], "{list:?}");
    });
}

#[test]
fn what_is_read_in_secret_stays_so_and_what_is_recalled_is_not_unread() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut phone = Device::enter(&cluster, &[0], "bob", "phone").await;
        let mut web = Device::enter(&cluster, &[1], "bob", "web").await;
        are_counted(&cluster, &alice, "alice").await;
        are_counted(&cluster, &phone, "bob").await;
        web.client.read_conversations(None).await.expect("read");
        let mut sent = Vec::new();
        for text in ["one", "two", "three", "four"] {
            sent.push(alice.client.send(Client::user("bob"), Client::text(text)).await.expect("accepted").message_id);
        }
        let mut at = Vec::new();
        for text in ["one", "two", "three", "four"] {
            at.push(phone.gets(text).await);
        }
        let shows = async |audience: Audience| {
            let set = SetPrivacy { read_marks: Some(audience.into()), ..SetPrivacy::default() };
            phone.client.set_privacy(set).await.expect("set");
        };
        let reads = async |number: usize| {
            let marks = vec![(Client::user("alice"), at[number].0)];
            phone.client.move_marks(marks).await.expect("moved")[0].unread
        };
        let seen = async || {
            let marks = alice.client.read_marks(None, vec!["bob".into()]).await.expect("read");
            sent.iter().position(|id| *id == marks[0].read_id)
        };
        assert_eq!((reads(0).await, seen().await), (3, Some(0)));
        shows(Audience::Nobody).await;
        assert_eq!((reads(1).await, seen().await), (2, None));
        shows(Audience::Everyone).await;
        assert_eq!(seen().await, Some(0), "two was read in secret");
        assert_eq!((reads(1).await, seen().await), (2, Some(0)));

        // Both of bob's devices are told that one is left, and it is not the one that was recalled.
        let three = Target::of(&TimelineId::Inbox(UserId::new("alice").expect("valid")), 0, &at[2].1);
        alice.client.recall(&three.expect("a message"), false).await.expect("recalled");
        web.is_told_unread("alice", 1).await;
        assert_eq!((phone.unread("alice").await, web.unread("alice").await), (Some(1), Some(1)));
        assert_eq!((reads(3).await, seen().await), (0, Some(3)));
    });
}

#[test]
fn counts_survive_the_death_of_a_storage_leader_and_of_a_router() {
    let mut cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        are_counted(&cluster, &bob, "bob").await;
        for text in ["one", "two", "three"] {
            alice.client.send(Client::user("bob"), Client::text(text)).await.expect("accepted");
        }
        let (at_one, _) = bob.gets("one").await;
        bob.client.move_marks(vec![(Client::user("alice"), at_one)]).await.expect("moved");
        cluster.routers[0].kill();
        cluster.storage[2].kill();
        let until = Instant::now() + PATIENCE;
        // The mark was stored before it was answered.
        loop {
            match bob.client.read_conversations(None).await {
                Ok(list) => {
                    let of = list.conversations.iter().find(|of| is_with(of, "alice")).map(|of| of.unread);
                    assert_eq!(of, Some(2));
                    break;
                }
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        }
        alice.client.send(Client::user("bob"), Client::text("four")).await.expect("accepted");
        assert_eq!(bob.unread("alice").await, Some(3));
    });
}
