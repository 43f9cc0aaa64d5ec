//! The times at which users were last there, over two gateways and two routers that die.

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use carillon_client::{Client, ClientConfig, ContactChange, Credential, Event, Events};
use carillon_proto::{
    UserId,
    pb::client::{Audience, Contact, SetPrivacy, Show},
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE_MS: u64 = 60_000;

struct Person {
    client: Client,
    events: Events,
    /// The presence of each contact, and the time at which it was last there.
    shown: BTreeMap<String, (Show, u64)>,
    _tasks: Tasks,
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// The minute of a time that is told.
fn minute(ms: u64) -> u64 {
    ms - ms % MINUTE_MS
}

/// Runs `carillon` for this user at this gateway. Gives its output.
fn carillon(cluster: &Cluster, gateway: usize, what: &str, user: &str, args: &[&str]) -> String {
    cluster.as_user(gateway, user, what, args).unwrap_or_else(|why| panic!("{args:?}: {why}"))
}

impl Person {
    async fn enter(cluster: &Cluster, gateway: usize, name: &str) -> Self {
        let addresses = vec![cluster.addresses[gateway].clone()];
        let tasks = Tasks::new();
        let config = ClientConfig::new(addresses, name, "phone", Credential::Token(cluster.token(name)));
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        client.contacts().await.expect("reads");
        client.show(Show::Online, "", 0).await.expect("shows");
        Self { client, events, shown: BTreeMap::new(), _tasks: tasks }
    }

    async fn hears<T>(&mut self, what: &str, is: impl Fn(&Event) -> Option<T>) -> T {
        let hears = async {
            loop {
                let event = self.events.next().await.expect("it goes on");
                if let Event::Presence(presence) = &event {
                    self.shown.insert(presence.user.clone(), (presence.show(), presence.last_seen_ms));
                }
                if let Some(heard) = is(&event) {
                    return heard;
                }
            }
        };
        timeout(PATIENCE, hears).await.unwrap_or_else(|_| panic!("{what} did not come"))
    }

    async fn has_contact(&mut self, name: &str, is_so: fn(&Contact) -> bool) {
        let is = |event: &Event| match event {
            Event::Contact(contact) if contact.user == name && is_so(contact) => Some(()),
            _ => None,
        };
        self.hears(name, is).await;
    }

    /// Returns when the contact was last there, as it is told.
    async fn sees(&mut self, name: &str, show: Show) -> u64 {
        if let Some((_, seen_ms)) = self.shown.get(name).filter(|(shown, _)| *shown == show) {
            return *seen_ms;
        }
        let is = |event: &Event| match event {
            Event::Presence(presence) if presence.user == name && presence.show() == show => {
                Some(presence.last_seen_ms)
            }
            _ => None,
        };
        self.hears(name, is).await
    }

    /// Returns when the contact, which is offline, was last there. A presence that does not say so may come before.
    async fn is_told_of(&mut self, name: &str) -> u64 {
        let told = |(show, seen_ms): &(Show, u64)| *show == Show::Unspecified && *seen_ms != 0;
        if let Some((_, seen_ms)) = self.shown.get(name).filter(|shown| told(shown)) {
            return *seen_ms;
        }
        let is = |event: &Event| match event {
            Event::Presence(presence) if presence.user == name => {
                let seen_ms = presence.last_seen_ms;
                told(&(presence.show(), seen_ms)).then_some(seen_ms)
            }
            _ => None,
        };
        self.hears(name, is).await
    }

    async fn changes(&self, name: &str, change: ContactChange) {
        self.client.change_contact(&user(name), change).await.expect("changed");
    }
}

/// Both see each other.
async fn befriend(a: (&str, &mut Person), b: (&str, &mut Person)) {
    a.1.changes(b.0, ContactChange::Subscribe(String::new())).await;
    b.1.has_contact(a.0, |contact| contact.asks).await;
    b.1.changes(a.0, ContactChange::Accept).await;
    b.1.changes(a.0, ContactChange::Subscribe(String::new())).await;
    a.1.has_contact(b.0, |contact| contact.to && contact.asks).await;
    a.1.changes(b.0, ContactChange::Accept).await;
    b.1.has_contact(a.0, |contact| contact.to && contact.from).await;
}

#[test]
fn when_a_contact_was_last_there_is_told_as_it_leaves_and_later_whatever_dies() {
    let mut cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        befriend(("alice", &mut alice), ("bob", &mut bob)).await;
        alice.sees("bob", Show::Online).await;

        // Signed out.
        let before = minute(now_ms());
        bob.client.close().await;
        let after = minute(now_ms());
        let seen = alice.is_told_of("bob").await;
        assert!((before..=after).contains(&seen), "{before} {seen} {after}");

        // Nothing of it is forgotten when all routers and the gateways begin anew.
        for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
            node.kill();
        }
        for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
            node.start_again();
        }
        cluster.routers.iter_mut().chain(&mut cluster.gateways).for_each(|node| node.wait_ready());
        // The time is told again on the next connection.
        alice.shown.clear();
        assert_eq!(alice.is_told_of("bob").await, seen);
        let listed = carillon(&cluster, 1, "contact", "alice", &["list", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(listed.lines().next().expect("a line")).expect("JSON");
        assert_eq!((&listed["contact"], &listed["presence"]), (&"bob".into(), &"offline".into()), "{listed}");
        let time = listed["last_seen"].as_str().expect("a time");
        assert!(time.ends_with(":00Z"), "{time}");
        assert!(carillon(&cluster, 0, "contact", "alice", &["list"]).contains(&format!("last seen {time}")));

        // A gateway that dies says nothing, and those who were there are offline from then on.
        let mut carol = Person::enter(&cluster, 1, "carol").await;
        befriend(("alice", &mut alice), ("carol", &mut carol)).await;
        alice.sees("carol", Show::Online).await;
        let before = minute(now_ms());
        cluster.gateways[1].kill();
        let seen = alice.is_told_of("carol").await;
        assert!((before..=minute(now_ms())).contains(&seen), "{before} {seen}");
        // Also for who asks when the store has swept the session, the first one that has ended.
        let end = Instant::now() + PATIENCE;
        let seen = loop {
            alice.client.close().await;
            alice = Person::enter(&cluster, 0, "alice").await;
            match alice.sees("carol", Show::Unspecified).await {
                0 => assert!(Instant::now() < end, "the session of carol was not swept"),
                seen => break seen,
            }
        };
        assert!((before..=minute(now_ms())).contains(&seen), "{before} {seen}");
    });
}

#[test]
fn who_hides_when_it_was_last_there_sees_it_of_nobody() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        befriend(("alice", &mut alice), ("bob", &mut bob)).await;
        alice.sees("bob", Show::Online).await;
        carillon(&cluster, 1, "privacy", "bob", &["set", "--last-seen", "nobody"]);
        assert!(carillon(&cluster, 0, "privacy", "bob", &["show"]).contains("last seen   nobody"));
        bob.client.close().await;
        assert_eq!(alice.sees("bob", Show::Unspecified).await, 0);
        // Nor by the store.
        alice.client.close().await;
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        assert_eq!(alice.sees("bob", Show::Unspecified).await, 0);
        alice.client.close().await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        assert_eq!(bob.sees("alice", Show::Unspecified).await, 0);
        let open = SetPrivacy { last_seen: Some(Audience::Contacts.into()), ..SetPrivacy::default() };
        bob.client.set_privacy(open).await.expect("set");
        // The time is told as soon as the user shows its own.
        bob.hears("when alice was last there", |event| match event {
            Event::Presence(presence) if presence.user == "alice" && presence.last_seen_ms != 0 => Some(()),
            _ => None,
        })
        .await;
    });
}
