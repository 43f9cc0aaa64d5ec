//! Blocking and settings of privacy by the command line and the client library, over two gateways and two routers.

mod support;

use std::{collections::BTreeMap, time::Duration};

use carillon_client::{Change, Client, ClientConfig, ContactChange, Credential, Event, Events, SendError};
use carillon_proto::{
    GroupId, TimelineId, UserId,
    pb::client::{
        ChangeMembers, ChatState, Code, CreateGroup, Envelope, Show, content::Body, members_change::Kind,
        privacy_news::What,
    },
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `carillon privacy` as this user at this gateway. Ok: its output; an error: its complaint.
fn privacy(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> Result<String, String> {
    cluster.as_user(gateway, user, "privacy", args)
}

struct Device {
    client: Client,
    events: Events,
    /// Texts of messages of others, in order.
    said: Vec<String>,
    /// Users who were said to be writing or recording.
    states: Vec<String>,
    /// The presence of each contact.
    shown: BTreeMap<String, Show>,
    _tasks: Tasks,
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

fn said(envelope: &Envelope) -> &str {
    match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
        Some(Body::Text(text)) => &text.body,
        _ => "",
    }
}

impl Device {
    async fn enter(cluster: &Cluster, gateways: &[usize], name: &str, device: &str) -> Self {
        let credential = Credential::Token(cluster.token(name));
        let addresses = gateways.iter().map(|gateway| cluster.addresses[*gateway].clone()).collect();
        let tasks = Tasks::new();
        let (client, events) =
            Client::open(ClientConfig::new(addresses, name, device, credential), &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        Self { client, events, said: Vec::new(), states: Vec::new(), shown: BTreeMap::new(), _tasks: tasks }
    }

    /// Waits for something. Messages that come meanwhile are noted.
    async fn hears<T>(&mut self, what: &str, is: impl Fn(&Event) -> Option<T>) -> T {
        let Self { events, said: noted, states, shown, .. } = self;
        let hears = async {
            loop {
                let event = events.next().await.expect("it goes on");
                if let Event::Delivered { timeline: TimelineId::Inbox(_), envelope, .. } = &event {
                    noted.push(said(envelope).to_owned());
                }
                if let Event::Presence(presence) = &event {
                    shown.insert(presence.user.clone(), presence.show());
                }
                if let Event::ChatState(told) = &event {
                    states.push(told.from.clone());
                }
                if let Some(heard) = is(&event) {
                    return heard;
                }
            }
        };
        let heard = timeout(PATIENCE, hears).await;
        heard.unwrap_or_else(|_| panic!("{what} did not come, but {:?}", self.said))
    }

    async fn gets(&mut self, text: &str) {
        self.hears(text, |event| match event {
            Event::Delivered { envelope, .. } if said(envelope) == text => Some(()),
            _ => None,
        })
        .await;
    }

    async fn sees(&mut self, name: &str, show: Show) {
        if self.shown.get(name) == Some(&show) {
            return;
        }
        self.hears(&format!("{name} {show:?}"), |event| match event {
            Event::Presence(presence) if presence.user == name && presence.show() == show => Some(()),
            _ => None,
        })
        .await;
    }

    async fn has_contact(&mut self, name: &str, what: &str, is_so: fn(&carillon_proto::pb::client::Contact) -> bool) {
        self.hears(&format!("{name} {what}"), |event| match event {
            Event::Contact(contact) if contact.user == name && is_so(contact) => Some(()),
            _ => None,
        })
        .await;
    }

    async fn says(&self, to: &str, text: &str) {
        self.client.send(Client::user(to), Client::text(text)).await.expect("accepted");
    }

    async fn is_refused(&self, to: &str) -> Code {
        match self.client.send(Client::user(to), Client::text("let me in")).await {
            Err(SendError::Refused(refusal)) => refusal.code,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// `other` sees `device` from now on.
async fn is_seen_by(device: &mut Device, name: &str, other: &mut Device, other_name: &str) {
    other.client.change_contact(&user(name), ContactChange::Subscribe(String::new())).await.expect("asked");
    device.has_contact(other_name, "asks", |contact| contact.asks).await;
    device.client.change_contact(&user(other_name), ContactChange::Accept).await.expect("accepted");
    other.has_contact(name, "is seen", |contact| contact.to).await;
}

#[test]
fn who_is_blocked_gets_through_on_no_way_and_does_not_notice() {
    let mut cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut web = Device::enter(&cluster, &[1], "alice", "web").await;
        let mut bob = Device::enter(&cluster, &[1], "bob", "phone").await;
        let carol = Device::enter(&cluster, &[0], "carol", "phone").await;
        for device in [&alice, &bob] {
            device.client.contacts().await.expect("reads");
            device.client.show(Show::Online, "", 0).await.expect("shows");
        }
        assert!(web.client.privacy().await.expect("reads").blocked.is_empty());
        is_seen_by(&mut alice, "alice", &mut bob, "bob").await;
        bob.sees("alice", Show::Online).await;
        alice.client.read_conversations(None).await.expect("reads");
        bob.client.set_chat_state(&user("alice"), ChatState::Composing).await.expect("told");
        alice
            .hears("bob is writing", |event| match event {
                Event::ChatState(told) if told.from == "bob" => {
                    assert_eq!(told.state(), ChatState::Composing);
                    Some(())
                }
                _ => None,
            })
            .await;
        bob.says("alice", "before").await;
        alice.gets("before").await;

        alice.states.clear();
        privacy(&cluster, 1, "alice", &["block", "bob"]).expect("blocked");
        web.hears("bob is blocked", |event| match event {
            Event::Privacy(What::Blocked(name)) if name == "bob" => Some(()),
            _ => None,
        })
        .await;
        bob.sees("alice", Show::Unspecified).await;
        bob.client.set_chat_state(&user("alice"), ChatState::Recording).await.expect("answered as usual");
        bob.says("alice", "one").await;
        let group = GroupId::new("bobs").expect("valid");
        bob.client.create_group(Some(&group), CreateGroup::default()).await.expect("made");
        let members = |kind: Kind| {
            let users = vec!["alice".to_owned()];
            Change::Members(ChangeMembers { kind: kind.into(), users, ..ChangeMembers::default() })
        };
        bob.client.change_group(&group, members(Kind::Invited)).await.expect("accepted as usual");
        let added = bob.client.change_group(&group, members(Kind::Added)).await;
        assert!(matches!(added, Err(SendError::Refused(refusal)) if refusal.code == Code::Forbidden));
        bob.client.change_contact(&user("alice"), ContactChange::Unsubscribe).await.expect("changed");
        bob.client.change_contact(&user("alice"), ContactChange::Subscribe("it's me".into())).await.expect("asked");

        // Also with another router in the place of the owner of alice.
        for (router, text) in [(0, "two"), (1, "three")] {
            cluster.routers[router].kill();
            bob.says("alice", text).await;
            cluster.routers[router].start_again();
            cluster.routers[router].wait_ready();
        }
        carol.client.set_chat_state(&user("alice"), ChatState::Composing).await.expect("told");
        carol.says("alice", "hello").await;
        alice.gets("hello").await;
        assert!(alice.states.iter().all(|from| from != "bob"), "{:?}", alice.states);
        assert_eq!(alice.said, ["before", "hello"], "nothing of bob since then, and no invitation");
        assert!(alice.client.read_groups(None, 100).await.expect("reads").groups.is_empty());
        let contacts = alice.client.contacts().await.expect("reads");
        assert!(contacts.iter().all(|contact| !contact.asks), "{contacts:?}");
        let shown = privacy(&cluster, 0, "alice", &["show"]).expect("shown");
        assert!(shown.lines().any(|line| line.starts_with("blocked") && line.ends_with("bob")), "{shown}");

        alice.client.unblock(&user("bob")).await.expect("unblocked");
        bob.says("alice", "four").await;
        alice.gets("four").await;
        assert_eq!(alice.said, ["before", "hello", "four"], "what was withheld does not come");
    });
}

#[test]
fn who_may_write_is_what_the_user_has_set() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Device::enter(&cluster, &[0], "alice", "phone").await;
        let mut dave = Device::enter(&cluster, &[1], "dave", "phone").await;
        let erin = Device::enter(&cluster, &[1], "erin", "phone").await;
        privacy(&cluster, 1, "alice", &["set", "--write", "contacts", "--read-marks", "nobody"]).expect("set");
        assert_eq!(dave.is_refused("alice").await, Code::Forbidden);
        // A user who is written to may answer; a contact may write.
        alice.says("dave", "it's me").await;
        dave.gets("it's me").await;
        dave.says("alice", "an answer").await;
        alice.gets("an answer").await;
        assert_eq!(erin.is_refused("alice").await, Code::Forbidden);
        alice.client.change_contact(&user("erin"), ContactChange::Set(Default::default())).await.expect("listed");
        erin.says("alice", "a contact").await;
        alice.gets("a contact").await;
        privacy(&cluster, 0, "alice", &["set", "--write", "nobody"]).expect("set");
        assert_eq!(erin.is_refused("alice").await, Code::Forbidden);
        privacy(&cluster, 0, "alice", &["set", "--write", "everyone"]).expect("set");
        dave.says("alice", "again").await;
        alice.gets("again").await;
        let shown = privacy(&cluster, 0, "alice", &["show", "--json"]).expect("shown");
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["settings"]["read_marks"], "nobody", "{shown}");
        assert_eq!(shown["settings"]["write"], "everyone", "{shown}");
        let wrong = privacy(&cluster, 0, "alice", &["block", "nobody"]).expect_err("there is none");
        assert!(wrong.contains("there is no user"), "{wrong}");
    });
}
