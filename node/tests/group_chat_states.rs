//! Typing notices in groups, by the client library, over two gateways and two routers.

mod support;

use std::{collections::BTreeSet, time::Duration};

use carillon_client::{Change, Client, ClientConfig, Credential, Event, Events, FetchError};
use carillon_proto::{
    GroupId,
    pb::client::{
        ChangeMembers, ChatState, Code, CreateGroup, Envelope, content::Body, group_change::What, members_change::Kind,
    },
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

struct Person {
    client: Client,
    events: Events,
    /// The groups and the users who were said to be writing there.
    writing: BTreeSet<(String, String)>,
    _tasks: Tasks,
}

fn club() -> GroupId {
    GroupId::new("club").expect("valid")
}

fn text(envelope: &Envelope) -> &str {
    match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
        Some(Body::Text(text)) => &text.body,
        _ => "",
    }
}

fn is_member_change(envelope: &Envelope, kind: Kind) -> bool {
    match envelope.change.as_ref().and_then(|change| change.what.as_ref()) {
        Some(What::Members(members)) => members.kind() == kind,
        _ => false,
    }
}

impl Person {
    async fn enter(cluster: &Cluster, gateway: usize, name: &str) -> Self {
        let config = ClientConfig::new(
            vec![cluster.addresses[gateway].clone()],
            name,
            "phone",
            Credential::Token(cluster.token(name)),
        );
        let tasks = Tasks::new();
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        client.read_conversations(None).await.expect("reads");
        Self { client, events, writing: BTreeSet::new(), _tasks: tasks }
    }

    async fn hears(&mut self, what: &str, is: impl Fn(&Event) -> bool) {
        let hears = async {
            loop {
                let event = self.events.next().await.expect("it goes on");
                if let Event::ChatState(told) = &event {
                    self.writing.insert((told.from.clone(), told.group.clone()));
                }
                if is(&event) {
                    return;
                }
            }
        };
        let heard = timeout(PATIENCE, hears).await;
        assert!(heard.is_ok(), "{what} did not come; {:?}", self.writing);
    }

    async fn gets(&mut self, expected: &str) {
        self.hears(expected, |event| matches!(event, Event::Delivered { envelope, .. } if text(envelope) == expected))
            .await;
    }

    async fn says(&self, what: &str) {
        self.client.send(Client::group("club"), Client::text(what)).await.expect("accepted");
    }

    async fn composes(&self) {
        self.client.set_group_chat_state(&club(), ChatState::Composing).await.expect("answered");
    }

    /// The state is repeated, as clients do: what comes while a link opens is lost.
    async fn hears_composing(&mut self, other: &Self, name: &str) {
        let repeating = async {
            loop {
                other.composes().await;
                tokio::time::sleep(Duration::from_millis(1_100)).await;
            }
        };
        let hears = self.hears(name, |event| match event {
            Event::ChatState(told) => (&*told.from, &*told.group, told.state()) == (name, "club", ChatState::Composing),
            _ => false,
        });
        tokio::select! {
            () = hears => {}
            () = repeating => {}
        }
    }
}

fn members(kind: Kind, user: &str) -> Change {
    let (users, role) = (vec![user.to_owned()], 0);
    Change::Members(ChangeMembers { kind: kind.into(), users, role, muted_until_ms: u64::MAX, ..Default::default() })
}

#[test]
fn members_hear_who_is_writing_over_two_gateways_but_not_of_who_may_not_write() {
    let mut cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        let carol = Person::enter(&cluster, 1, "carol").await;
        let made = CreateGroup { members: vec!["bob".to_owned()], ..CreateGroup::default() };
        alice.client.create_group(Some(&club()), made).await.expect("made");
        alice.says("hello").await;
        bob.gets("hello").await;
        alice.hears_composing(&bob, "bob").await;
        bob.hears_composing(&alice, "alice").await;
        // Whichever router owns the group.
        for router in 0..2 {
            cluster.routers[router].kill();
            bob.writing.clear();
            bob.hears_composing(&alice, "alice").await;
            cluster.routers[router].start_again();
            cluster.routers[router].wait_ready();
        }

        // Strangers and muted members are not shown, and are answered like all others.
        carol.composes().await;
        alice.client.change_group(&club(), members(Kind::Muted, "bob")).await.expect("muted");
        bob.hears(
            "the change",
            |event| matches!(event, Event::Delivered { envelope, .. } if is_member_change(envelope, Kind::Muted)),
        )
        .await;
        alice
            .hears(
                "the change",
                |event| matches!(event, Event::Delivered { envelope, .. } if is_member_change(envelope, Kind::Muted)),
            )
            .await;
        assert!(alice.writing.iter().all(|(from, _)| from == "bob"), "{:?}", alice.writing);
        alice.writing.clear();
        // Otherwise the gateway keeps it back, as one state too many within a second.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        bob.composes().await;
        bob.client.send(Client::user("alice"), Client::text("after that")).await.expect("accepted");
        alice.gets("after that").await;
        assert_eq!(alice.writing, BTreeSet::new());
        assert!(bob.writing.iter().all(|(from, _)| from == "alice"), "{:?}", bob.writing);
    });
}

#[test]
fn in_a_large_group_nobody_is_told_and_the_client_hears_why_once() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut names: Vec<String> = (0..201).map(|number| format!("member{number}")).collect();
        for name in &names {
            // An account, to begin with.
            Person::enter(&cluster, 1, name).await.client.close().await;
        }
        let rest = names.split_off(100);
        let made = CreateGroup { members: names, ..CreateGroup::default() };
        alice.client.create_group(Some(&club()), made).await.expect("made");
        for users in rest.chunks(50) {
            let change = ChangeMembers { kind: Kind::Added.into(), users: users.to_vec(), ..ChangeMembers::default() };
            alice.client.change_group(&club(), Change::Members(change)).await.expect("added");
        }
        alice
            .hears(
                "the last change",
                |event| matches!(event, Event::Delivered { envelope, .. } if is_member_change(envelope, Kind::Added)),
            )
            .await;
        match alice.client.set_group_chat_state(&club(), ChatState::Composing).await {
            Err(FetchError::Refused(refusal)) => assert_eq!(refusal.code, Code::Unsupported, "{}", refusal.reason),
            other => panic!("not refused: {other:?}"),
        }
        alice.composes().await;
    });
}
