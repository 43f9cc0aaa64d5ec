//! Contacts and presence by the command line and the client library, over two gateways and two routers.

mod support;

use std::{collections::BTreeMap, time::Duration};

use carillon_client::{Client, ClientConfig, ContactChange, Credential, Event, Events};
use carillon_proto::{
    UserId,
    pb::client::{Contact, Show},
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `carillon contact` as this user at this gateway. Ok: its output; an error: its complaint.
fn contact(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> Result<String, String> {
    cluster.as_user(gateway, user, "contact", args)
}

struct Person {
    client: Client,
    events: Events,
    /// The presence of each contact.
    shown: BTreeMap<String, (Show, String)>,
    contacts: BTreeMap<String, Contact>,
    missed: bool,
    _tasks: Tasks,
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

impl Person {
    async fn enter(cluster: &Cluster, gateways: &[usize], name: &str) -> Self {
        let credential = Credential::Token(cluster.token(name));
        let addresses = gateways.iter().map(|gateway| cluster.addresses[*gateway].clone()).collect();
        let config = ClientConfig::new(addresses, name, "phone", credential);
        let tasks = Tasks::new();
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        let contacts =
            client.contacts().await.expect("reads").into_iter().map(|contact| (contact.user.clone(), contact));
        let contacts = contacts.collect();
        client.show(Show::Online, "", 0).await.expect("shows");
        Self { client, events, shown: BTreeMap::new(), contacts, missed: false, _tasks: tasks }
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waits = async {
            while !is_so(self) {
                match self.events.next().await.expect("it goes on") {
                    Event::Presence(presence) => {
                        let shown = (presence.show(), presence.status);
                        self.shown.insert(presence.user, shown);
                    }
                    Event::Contact(contact) => {
                        self.contacts.insert(contact.user.clone(), contact);
                    }
                    Event::ContactsMissed => self.missed = true,
                    _ => {}
                }
                if std::mem::take(&mut self.missed) {
                    let read = self.client.contacts().await.expect("reads");
                    self.contacts = read.into_iter().map(|contact| (contact.user.clone(), contact)).collect();
                }
            }
        };
        let in_time = timeout(PATIENCE, waits).await;
        assert!(in_time.is_ok(), "{what}: {:?}, {:?}", self.shown, self.contacts);
    }

    async fn sees(&mut self, name: &str, show: Show, status: &str) {
        let what = format!("{name} shows {show:?} {status:?}");
        self.until(&what, |me| me.shown.get(name) == Some(&(show, status.to_owned()))).await;
    }

    async fn has(&mut self, name: &str, what: &str, is_so: impl Fn(&Contact) -> bool) {
        let what = format!("{name} {what}");
        self.until(&what, |me| me.contacts.get(name).is_some_and(&is_so)).await;
    }

    async fn changes(&self, name: &str, change: ContactChange) {
        self.client.change_contact(&user(name), change).await.expect("changed");
    }

    /// Both see each other.
    async fn befriends(&mut self, own: &str, other: &mut Self, name: &str) {
        self.changes(name, ContactChange::Subscribe("it's me".to_owned())).await;
        other.has(own, "asks", |contact| contact.asks && contact.text == "it's me").await;
        other.changes(own, ContactChange::Accept).await;
        other.changes(own, ContactChange::Subscribe(String::new())).await;
        self.has(name, "is seen and asks", |contact| contact.to && contact.asks).await;
        self.changes(name, ContactChange::Accept).await;
        other.has(own, "sees and is seen", |contact| contact.to && contact.from).await;
    }
}

#[test]
fn contacts_see_each_other_over_two_gateways_and_nobody_else_does() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, &[0], "alice").await;
        let mut bob = Person::enter(&cluster, &[1], "bob").await;
        let mut carol = Person::enter(&cluster, &[1], "carol").await;
        alice.befriends("alice", &mut bob, "bob").await;
        alice.sees("bob", Show::Online, "").await;
        bob.sees("alice", Show::Online, "").await;
        // Carol knows alice, and is not let in.
        carol.changes("alice", ContactChange::Subscribe(String::new())).await;
        alice.has("carol", "asks", |contact| contact.asks).await;

        alice.client.show(Show::Away, "at lunch", 0).await.expect("shows");
        bob.sees("alice", Show::Away, "at lunch").await;
        assert_eq!(carol.shown.get("alice"), None);

        let listed = contact(&cluster, 1, "alice", &["list"]).expect("listed");
        assert!(listed.lines().any(|line| line.starts_with("bob") && line.contains("both")), "{listed}");
        assert!(listed.lines().any(|line| line.starts_with("carol") && line.contains("asks")), "{listed}");
        contact(&cluster, 1, "alice", &["refuse", "carol"]).expect("refused");
        carol.has("alice", "has refused", |contact| !contact.asked && !contact.to).await;
        let nobody = contact(&cluster, 0, "alice", &["add", "nobody"]).expect_err("there is none");
        assert!(nobody.contains("there is no user"), "{nobody}");
        contact(&cluster, 0, "alice", &["set", "bob", "--name", "Bobby", "--label", "friends"]).expect("set");
        alice.has("bob", "has a name", |contact| contact.name == "Bobby").await;

        // A user who comes back is told what has become of the others meanwhile.
        bob.client.close().await;
        alice.sees("bob", Show::Unspecified, "").await;
        let mut bob = Person::enter(&cluster, &[0], "bob").await;
        bob.sees("alice", Show::Away, "at lunch").await;
        alice.sees("bob", Show::Online, "").await;

        contact(&cluster, 0, "bob", &["remove", "alice"]).expect("removed");
        alice.has("bob", "is seen no more", |contact| !contact.to && !contact.from).await;
        alice.sees("bob", Show::Unspecified, "").await;
        assert_eq!(carol.shown, BTreeMap::new(), "nobody was shown to her");
    });
}

/// Routers remember who sees a user, and ask with each change whether these are still the same.
#[test]
fn each_change_reaches_those_who_see_the_user_then_and_nobody_else() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, &[0], "alice").await;
        let mut bob = Person::enter(&cluster, &[1], "bob").await;
        let mut carol = Person::enter(&cluster, &[1], "carol").await;
        let mut dave = Person::enter(&cluster, &[0], "dave").await;
        alice.befriends("alice", &mut bob, "bob").await;
        alice.befriends("alice", &mut carol, "carol").await;
        dave.befriends("dave", &mut carol, "carol").await;
        for status in ["one", "two", "three"] {
            alice.client.show(Show::Away, status, 0).await.expect("shows");
            bob.sees("alice", Show::Away, status).await;
            carol.sees("alice", Show::Away, status).await;
        }
        alice.changes("carol", ContactChange::Refuse).await;
        carol.sees("alice", Show::Unspecified, "").await;
        alice.client.show(Show::DoNotDisturb, "four", 0).await.expect("shows");
        bob.sees("alice", Show::DoNotDisturb, "four").await;
        dave.client.show(Show::Away, "later", 0).await.expect("shows");
        carol.sees("dave", Show::Away, "later").await;
        assert_eq!(carol.shown["alice"], (Show::Unspecified, String::new()));
        dave.changes("alice", ContactChange::Subscribe("me too".to_owned())).await;
        alice.has("dave", "asks", |contact| contact.asks).await;
        alice.changes("dave", ContactChange::Accept).await;
        alice.client.show(Show::Online, "five", 0).await.expect("shows");
        dave.sees("alice", Show::Online, "five").await;
        bob.sees("alice", Show::Online, "five").await;
    });
}

#[test]
fn nobody_stays_online_whose_gateway_was_killed_nor_when_a_router_goes_with_it() {
    let mut cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, &[0], "alice").await;
        let mut friends = Vec::new();
        for name in ["bob", "carol", "dave", "erin"] {
            let mut friend = Person::enter(&cluster, &[1], name).await;
            alice.befriends("alice", &mut friend, name).await;
            alice.sees(name, Show::Online, "").await;
            friends.push((name, friend));
        }
        cluster.gateways[1].kill();
        for (name, _) in &friends {
            alice.sees(name, Show::Unspecified, "").await;
        }
        cluster.gateways[1].start_again();
        cluster.gateways[1].wait_ready();
        for (name, friend) in &mut friends {
            friend.sees("alice", Show::Online, "").await;
            alice.sees(name, Show::Online, "").await;
        }
        cluster.routers[0].kill();
        cluster.gateways[1].kill();
        for (name, _) in &friends {
            alice.sees(name, Show::Unspecified, "").await;
        }
    });
}
