//! Scheduled messages by the client library and the command line, over two gateways.

mod support;

use std::time::{Duration, Instant};

use carillon_client::{Client, Event, FetchError, ScheduledChange};
use carillon_proto::{
    GroupId, now_ms,
    pb::client::{
        ChangeMembers, CreateGroup, Envelope, ScheduledMessage, content::Body, members_change::Kind,
        scheduled_message::State,
    },
};
use support::{
    cluster::Cluster,
    device::{Device, PATIENCE, said},
};
use tokio::runtime::Runtime;

const HOUR_MS: u64 = 3_600_000;

/// Runs `carillon scheduled` as this user at this gateway. Gives its output.
fn scheduled(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> String {
    cluster.as_user(gateway, user, "scheduled", args).unwrap_or_else(|why| panic!("{args:?}: {why}"))
}

impl Device {
    async fn gets(&mut self, text: &str) -> Envelope {
        self.hears(text, |event| match event {
            Event::Delivered { envelope, .. } if said(&envelope) == text => Some(envelope),
            _ => None,
        })
        .await
    }

    /// Texts that come in the device's inbox, up to this one.
    async fn hears_until(&mut self, text: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != text) {
            let next = |event| match event {
                Event::Delivered { envelope, .. } => Some(said(&envelope).to_owned()),
                _ => None,
            };
            heard.push(self.hears(text, next).await);
        }
        heard
    }

    async fn list(&self) -> Vec<ScheduledMessage> {
        self.client.scheduled().await.expect("read").messages
    }

    /// Schedules, as soon as the shard of this user's inbox is at the level for it: each shard rises by itself.
    async fn schedules(&self, to: &str, text: &str, at_ms: u64) -> u64 {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.schedule(Client::user(to), Client::text(text), at_ms).await {
                Ok(id) => return id,
                Err(FetchError::Refused(refusal)) if refusal.retry => assert!(Instant::now() < until, "{refusal}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits until it is told that scheduled messages have changed, and these are left.
    async fn sees(&mut self, what: &str, is: impl Fn(&[ScheduledMessage]) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let list = self.list().await;
            if is(&list) {
                return;
            }
            assert!(Instant::now() < until, "{what}: {list:?}");
            self.hears(what, |event| matches!(event, Event::Scheduled(_)).then_some(())).await;
        }
    }
}

fn texts(list: &[ScheduledMessage]) -> Vec<(u64, String)> {
    let of = |message: &ScheduledMessage| match message.content.as_ref().and_then(|content| content.body.as_ref()) {
        Some(Body::Text(text)) => (message.id, text.body.clone()),
        _ => panic!("{message:?}"),
    };
    list.iter().map(of).collect()
}

#[test]
fn a_scheduled_message_is_sent_when_its_time_comes_and_all_devices_see_the_list() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let phone = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut web = Device::enter(&cluster, &[1], "alice", "web").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        assert_eq!(web.list().await, []);
        let kept = phone.schedules("bob", "much later", now_ms() + HOUR_MS).await;
        let at_ms = now_ms() + 2000;
        let soon = phone.schedules("bob", "soon", at_ms).await;
        web.sees("two messages", |list| texts(list) == [(kept, "much later".to_owned()), (soon, "soon".to_owned())])
            .await;
        let node = &cluster.storage_addresses()[0];
        let exported = cluster.storage[0].command(&["user", "export", "alice", "--to", "-", "--node", node]);
        let exported = exported.expect("is exported");
        let kept_line = format!("\"id\":{kept},");
        let is_kept = |line: &&str| line.contains("\"kind\":\"scheduled\"") && line.contains(&kept_line);
        let line = exported.lines().find(is_kept).unwrap_or_else(|| panic!("not in {exported}"));
        assert!(line.contains("much later") && line.contains("user/bob") && line.contains("waiting"), "{line}");
        // The device that has scheduled it need not be there.
        phone.client.close().await;
        let envelope = bob.gets("soon").await;
        assert!(envelope.time_ms >= at_ms, "{} is before {at_ms}", envelope.time_ms);
        assert_eq!((&*envelope.sender, &*envelope.sender_device), ("alice", "phone"));
        assert_eq!(web.gets("soon").await.id, envelope.id, "the sender's own copy");
        web.sees("one message", |list| texts(list) == [(kept, "much later".to_owned())]).await;

        // Changed by one device, sent at once by another one.
        let other = ScheduledChange::Set { content: Some(Client::text("now")), at_ms: None };
        web.client.change_scheduled(kept, other).await.expect("changed");
        let listed = scheduled(&cluster, 0, "alice", &["list"]);
        assert!(listed.lines().any(|line| line.contains("waiting") && line.contains("now")), "{listed}");
        scheduled(&cluster, 0, "alice", &["send", &kept.to_string()]);
        bob.gets("now").await;
        web.sees("nothing", <[_]>::is_empty).await;

        let added = scheduled(&cluster, 0, "alice", &["add", "--to", "bob", "never", "--in", "3"]);
        let id: u64 = added.split_whitespace().nth(2).and_then(|id| id.parse().ok()).expect("an id");
        web.client.change_scheduled(id, ScheduledChange::Cancel).await.expect("cancelled");
        let again = web.client.change_scheduled(id, ScheduledChange::Cancel).await;
        assert!(matches!(&again, Err(FetchError::Refused(why)) if why.reason.contains("no such")), "{again:?}");
        web.schedules("bob", "last", now_ms() + 4000).await;
        assert_eq!(bob.hears_until("last").await, ["last"], "what was cancelled is not sent");
    });
}

#[test]
fn what_is_refused_when_its_time_comes_stays_in_the_list_with_the_reason() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        let members = vec!["bob".to_owned()];
        let club = alice.client.create_group(None, CreateGroup { settings: None, members }).await.expect("made");
        assert_eq!(bob.list().await, []);
        let probe = bob.schedules("alice", "probe", now_ms() + HOUR_MS).await;
        bob.client.change_scheduled(probe, ScheduledChange::Cancel).await.expect("cancelled");
        let to = Client::group(club.as_str());
        let id = bob.client.schedule(to, Client::text("hello"), now_ms() + 2000).await.expect("scheduled");
        let ban = ChangeMembers { kind: Kind::Banned.into(), users: vec!["bob".into()], ..ChangeMembers::default() };
        alice.client.change_group(&club, carillon_client::Change::Members(ban)).await.expect("banned");
        let failed = bob
            .hears("the failure", |event| match event {
                Event::Scheduled(changed) if changed.failed => Some(changed.id),
                _ => None,
            })
            .await;
        assert_eq!(failed, id);
        let list = bob.list().await;
        assert_eq!((list.len(), list[0].id, list[0].state()), (1, id, State::Failed), "{list:?}");
        assert!(!list[0].why.is_empty());
        bob.client.change_scheduled(id, ScheduledChange::Cancel).await.expect("cancelled");
        assert_eq!(bob.list().await, []);
    });
}

#[test]
fn a_scheduled_message_is_sent_once_although_nodes_die_when_its_time_comes() {
    let mut cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        let at_ms = now_ms() + 4000;
        let mut expected: Vec<String> = (0..20).map(|number| format!("m{number}")).collect();
        for text in &expected {
            alice.schedules("bob", text, at_ms).await;
        }
        alice.client.close().await;
        // While they are being sent.
        bob.hears("the first one", |event| match event {
            Event::Delivered { envelope, .. } if said(&envelope) == "m0" => Some(()),
            _ => None,
        })
        .await;
        cluster.routers[0].kill();
        cluster.storage[2].kill();
        let mut heard = vec!["m0".to_owned()];
        while heard.len() < expected.len() {
            let next = |event| match event {
                Event::Delivered { envelope, .. } => Some(said(&envelope).to_owned()),
                _ => None,
            };
            heard.push(bob.hears("the rest", next).await);
        }
        let alice = Device::enter(&cluster, &[0], "alice", "laptop").await;
        let until = Instant::now() + PATIENCE;
        while !alice.list().await.is_empty() {
            assert!(Instant::now() < until, "{:?}", alice.list().await);
        }
        alice.client.send(Client::user("bob"), Client::text("end")).await.expect("accepted");
        heard.extend(bob.hears_until("end").await);
        expected.push("end".to_owned());
        heard.sort();
        expected.sort();
        assert_eq!(heard, expected, "each once");
    });
}

/// Runs a command of the operator at the first router.
fn operator(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.routers[0].command(&[args, &["--router", &cluster.router_addresses()[0]]].concat());
    output.unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

#[test]
fn a_message_for_an_account_or_group_that_has_ended_reaches_no_later_one_of_the_name() {
    let cluster = Cluster::start();
    Runtime::new().expect("runtime").block_on(async {
        let mut alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        let club = GroupId::new("club").expect("valid");
        alice.client.create_group(Some(&club), CreateGroup::default()).await.expect("made");
        let to_user = alice.schedules("bob", "to the former bob", now_ms() + HOUR_MS).await;
        let to_group = Client::group(club.as_str());
        let to_group = alice
            .client
            .schedule(to_group, Client::text("to the former club"), now_ms() + HOUR_MS)
            .await
            .expect("kept");
        bob.client.close().await;
        operator(&cluster, &["user", "delete", "bob"]);
        alice.client.change_group(&club, carillon_client::Change::Delete).await.expect("deleted");
        operator(&cluster, &["user", "add", "bob", "--no-password"]);
        let until = Instant::now() + PATIENCE;
        // Tokens of the second in which the account was made do not count.
        let mut bob = loop {
            match Device::tries(&cluster, &[1], "bob", "tablet").await {
                Ok(bob) => break bob,
                Err(why) => assert!(Instant::now() < until, "{why}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        // The name is free when what is left of the group was removed.
        while let Err(error) = alice.client.create_group(Some(&club), CreateGroup::default()).await {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for id in [to_user, to_group] {
            alice.client.change_scheduled(id, ScheduledChange::SendNow).await.expect("goes");
        }
        let all_failed =
            |list: &[ScheduledMessage]| list.len() == 2 && list.iter().all(|message| message.state() == State::Failed);
        alice.sees("two failures", all_failed).await;
        let list = alice.list().await;
        let why = |id: u64| list.iter().find(|message| message.id == id).expect("is listed").why.clone();
        assert_eq!(why(to_user), "the account of bob for which the message was scheduled has ended");
        assert!(
            why(to_group).contains("the group for which the message was scheduled was deleted"),
            "{}",
            why(to_group)
        );
        alice.client.send(Client::user("bob"), Client::text("welcome")).await.expect("accepted");
        assert_eq!(bob.hears_until("welcome").await, ["welcome"], "nothing of before");
    });
}
