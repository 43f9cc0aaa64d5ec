//! Groups by the command line and the client library, over two gateways.

mod support;

use std::{collections::BTreeMap, time::Duration};

use carillon_client::{Client, ClientConfig, Credential, Event, Events};
use carillon_proto::{
    GroupId, TimelineId,
    pb::client::{Envelope, group_change::What},
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `carillon group` as this user at this gateway. Ok: its output; an error: its complaint.
fn group(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> Result<String, String> {
    cluster.as_user(gateway, user, "group", args)
}

struct Person {
    client: Client,
    events: Events,
    /// Texts of messages and kinds of changes that came, by the name of the group.
    heard: BTreeMap<String, Vec<String>>,
    _tasks: Tasks,
}

impl Person {
    async fn enter(cluster: &Cluster, gateway: usize, user: &str) -> Self {
        let credential = Credential::Token(cluster.token(user));
        let config = ClientConfig::new(vec![cluster.addresses[gateway].clone()], user, "phone", credential);
        let tasks = Tasks::new();
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        Self { client, events, heard: BTreeMap::new(), _tasks: tasks }
    }

    /// Waits until the last thing that came in the group is this.
    async fn hears(&mut self, group: &str, last: &str) {
        let hears = async {
            while self.heard.get(group).and_then(|heard| heard.last()).is_none_or(|heard| heard != last) {
                match self.events.next().await.expect("it goes on") {
                    Event::Delivered { timeline: TimelineId::Group(name), envelope, .. } => {
                        self.heard.entry(name.to_string()).or_default().push(told(&envelope));
                    }
                    Event::Sent { timeline: TimelineId::Group(name), client_id, .. } => {
                        self.heard.entry(name.to_string()).or_default().push(client_id);
                    }
                    _ => {}
                }
            }
        };
        let in_time = timeout(PATIENCE, hears).await;
        assert!(in_time.is_ok(), "{last:?} did not come in {group}: {:?}", self.heard);
    }
}

fn told(envelope: &Envelope) -> String {
    match envelope.change.as_ref().and_then(|change| change.what.as_ref()) {
        Some(What::Created(_)) => "created".to_owned(),
        Some(What::Set(_)) => "set".to_owned(),
        Some(What::Members(members)) => format!("{:?} {}", members.kind(), members.users.join(",")),
        Some(What::Deleted(_)) => "deleted".to_owned(),
        None => match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
            Some(carillon_proto::pb::client::content::Body::Text(text)) => text.body.clone(),
            other => panic!("{other:?}"),
        },
    }
}

#[test]
fn a_group_lives_over_two_gateways_and_ends_for_who_is_banned() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        let made = group(&cluster, 0, "alice", &["create", "club", "--name", "Chess", "--member", "bob"]);
        assert_eq!(made.expect("made").trim(), "group club was made");
        let again = group(&cluster, 0, "alice", &["create", "club"]).expect_err("it is there");
        assert!(again.contains("there is such a group"), "{again}");
        alice.hears("club", "created").await;
        bob.hears("club", "created").await;

        let club = GroupId::new("club").expect("valid");
        let sent = bob.client.send(Client::group("club"), Client::text("hello")).await.expect("accepted");
        assert_eq!(sent.position.expect("a position").seq, 2);
        alice.hears("club", "hello").await;
        let read = alice.client.read_group(&club).await.expect("read");
        assert_eq!((read.members, read.last, read.settings.expect("settings").name.as_deref()), (2, 2, Some("Chess")));

        let listed = group(&cluster, 1, "alice", &["members", "club"]).expect("listed");
        assert!(listed.lines().any(|line| line.starts_with("bob") && line.contains("member")), "{listed}");
        let listed = group(&cluster, 1, "bob", &["list", "--json"]).expect("listed");
        assert!(listed.contains("\"group\":\"club\""), "{listed}");
        let hidden = group(&cluster, 1, "carol", &["show", "club"]).expect_err("it does not show itself");
        assert!(hidden.contains("refused"), "{hidden}");

        group(&cluster, 1, "alice", &["ban", "club", "bob"]).expect("banned");
        alice.hears("club", "Banned bob").await;
        alice.client.send(Client::group("club"), Client::text("without bob")).await.expect("accepted");
        let refused = group(&cluster, 0, "bob", &["send", "club", "me too"]).expect_err("he is banned");
        assert!(refused.contains("message to group club"), "{refused}");
        group(&cluster, 0, "alice", &["pardon", "club", "bob"]).expect("pardoned");
        group(&cluster, 0, "alice", &["add", "club", "bob"]).expect("added");
        alice.client.send(Client::group("club"), Client::text("welcome back")).await.expect("accepted");
        bob.hears("club", "welcome back").await;
        let heard = &bob.heard["club"];
        assert!(!heard.iter().any(|what| what == "without bob" || what.starts_with("Pardoned")), "{heard:?}");

        group(&cluster, 1, "bob", &["leave", "club"]).expect("left");
        alice.hears("club", "Left bob").await;
        group(&cluster, 0, "alice", &["delete", "club"]).expect("deleted");
        alice.hears("club", "deleted").await;
        assert!(alice.client.read_group(&club).await.is_err());
    });
}

#[test]
fn who_comes_by_another_gateway_gets_what_was_missed_in_a_group() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        // An account, to begin with.
        Person::enter(&cluster, 1, "bob").await.client.close().await;
        let made = group(&cluster, 1, "alice", &["create", "--member", "bob"]).expect("made");
        let name = made.trim().trim_start_matches("group ").trim_end_matches(" was made").to_owned();
        alice.hears(&name, "created").await;
        for text in ["one", "two"] {
            alice.client.send(Client::group(&name), Client::text(text)).await.expect("accepted");
        }
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        bob.hears(&name, "two").await;
        assert_eq!(bob.heard[&name], ["created", "one", "two"]);
        bob.client.close().await;
        let mut bob = Person::enter(&cluster, 0, "bob").await;
        alice.client.send(Client::group(&name), Client::text("three")).await.expect("accepted");
        bob.hears(&name, "three").await;
    });
}
