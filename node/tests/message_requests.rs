//! Messages of strangers as requests, by the command line and the client library, over two gateways and two routers.

mod support;

use std::time::Duration;

use carillon_client::{Client, ClientConfig, ContactChange, Credential, Event, Events, SendError};
use carillon_proto::{
    TimelineId, UserId,
    pb::client::{Audience, Code, Conversation, Envelope, MessageRequest, SetPrivacy, content::Body},
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{runtime::Runtime, time::timeout};

const PATIENCE: Duration = Duration::from_secs(30);

struct Device {
    client: Client,
    events: Events,
    /// Texts of messages of others, in order.
    said: Vec<String>,
    /// Users of whom marks were told.
    marks: Vec<String>,
    _tasks: Tasks,
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

fn text(envelope: &Envelope) -> &str {
    match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
        Some(Body::Text(text)) => &text.body,
        _ => "",
    }
}

/// Runs `carillon conversation` as alice. Ok: its output; an error: its complaint.
fn conversation(cluster: &Cluster, gateway: usize, args: &[&str]) -> Result<String, String> {
    cluster.as_user(gateway, "alice", "conversation", args)
}

impl Device {
    async fn enter(cluster: &Cluster, gateway: usize, name: &str) -> Self {
        let addresses = vec![cluster.addresses[gateway].clone()];
        let tasks = Tasks::new();
        let config = ClientConfig::new(addresses, name, "phone", Credential::Token(cluster.token(name)));
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        client.read_conversations(None).await.expect("reads");
        Self { client, events, said: Vec::new(), marks: Vec::new(), _tasks: tasks }
    }

    async fn hears(&mut self, what: &str, is: impl Fn(&Event) -> bool) {
        let Self { events, said, marks, .. } = self;
        let hears = async {
            loop {
                let event = events.next().await.expect("it goes on");
                match &event {
                    Event::Delivered { timeline: TimelineId::Inbox(of), envelope, .. }
                        if envelope.sender != of.as_str() =>
                    {
                        said.push(text(envelope).to_owned());
                    }
                    Event::Marks(told) => marks.extend(told.marks.iter().map(|mark| mark.user.clone())),
                    _ => {}
                }
                if is(&event) {
                    return;
                }
            }
        };
        let heard = timeout(PATIENCE, hears).await;
        assert!(heard.is_ok(), "{what} did not come, but {:?}", self.said);
    }

    async fn gets(&mut self, expected: &str) {
        self.hears(expected, |event| match event {
            Event::Delivered { envelope, .. } => text(envelope) == expected,
            _ => false,
        })
        .await;
        self.events.done();
    }

    /// Waits until the device is told of this state of the conversation with this user.
    async fn is_told(&mut self, with: &str, request: MessageRequest) {
        let with = Some(Client::user(with));
        let is = |told: &Conversation| told.with == with && told.request() == request;
        self.hears(&format!("{with:?} {request:?}"), |event| match event {
            Event::Conversations(changes) => changes.conversations.iter().any(is),
            _ => false,
        })
        .await;
    }

    async fn says(&self, to: &str, text: &str) {
        self.client.send(Client::user(to), Client::text(text)).await.expect("accepted");
    }

    async fn requests(&self) -> Vec<String> {
        let requests = self.client.message_requests().await.expect("reads");
        requests.into_iter().map(|request| format!("{:?}", request.with)).collect()
    }
}

#[test]
fn strangers_wait_until_they_are_accepted_and_hear_nothing_of_it() {
    let mut cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Device::enter(&cluster, 0, "alice").await;
        let mut bob = Device::enter(&cluster, 1, "bob").await;
        let carol = Device::enter(&cluster, 1, "carol").await;
        let dave = Device::enter(&cluster, 0, "dave").await;
        let set = SetPrivacy { write: Some(Audience::Requests.into()), ..SetPrivacy::default() };
        alice.client.set_privacy(set).await.expect("set");

        bob.says("alice", "hello?").await;
        alice.gets("hello?").await;
        let listed = conversation(&cluster, 1, &["requests"]).expect("listed");
        assert!(listed.contains("with bob"), "{listed}");
        assert!(!conversation(&cluster, 0, &["list"]).expect("listed").contains("bob"));
        // She reads it on all of her devices, and he does not hear of that.
        conversation(&cluster, 1, &["read", "bob"]).expect("read");
        let marks = bob.client.read_marks(None, vec!["alice".to_owned()]).await.expect("read");
        assert!(marks.iter().all(|mark| mark.read_id.is_empty() && mark.delivered_id.is_empty()), "{marks:?}");
        // Routers come and go.
        for router in 0..2 {
            cluster.routers[router].kill();
            bob.says("alice", "are you there?").await;
            cluster.routers[router].start_again();
            cluster.routers[router].wait_ready();
        }
        alice.gets("are you there?").await;
        assert_eq!(alice.requests().await.len(), 1);
        assert_eq!(bob.marks, Vec::<String>::new());

        // Accepted: from now on he hears it.
        assert!(conversation(&cluster, 1, &["accept", "bob"]).expect("accepted").contains("is accepted"));
        alice.is_told("bob", MessageRequest::Unspecified).await;
        assert!(alice.requests().await.is_empty());
        bob.says("alice", "thanks").await;
        alice.gets("thanks").await;
        bob.hears(
            "that it is delivered",
            |event| matches!(event, Event::Marks(told) if told.marks.iter().any(|mark| mark.user == "alice")),
        )
        .await;

        // Declined: nothing more comes, and the sender is answered as before.
        carol.says("alice", "buy this").await;
        alice.gets("buy this").await;
        conversation(&cluster, 0, &["decline", "carol"]).expect("declined");
        alice.is_told("carol", MessageRequest::Declined).await;
        carol.says("alice", "and that").await;
        let refused = conversation(&cluster, 0, &["decline", "bob"]).expect_err("it is no request");
        assert!(refused.contains("is no request"), "{refused}");
        let nobody = conversation(&cluster, 0, &["accept", "erin"]).expect_err("there is none");
        assert!(nobody.contains("there is no such conversation"), "{nobody}");

        // A user who is made a contact, or is written to, is accepted by that.
        dave.says("alice", "it's me").await;
        alice.gets("it's me").await;
        alice.client.change_contact(&user("dave"), ContactChange::Set(Default::default())).await.expect("listed");
        alice.is_told("dave", MessageRequest::Unspecified).await;
        alice.says("carol", "no, thanks").await;
        carol.says("alice", "sorry").await;
        alice.gets("sorry").await;
        assert!(alice.requests().await.is_empty());
        assert!(!alice.said.contains(&"and that".to_owned()), "{:?}", alice.said);

        let nobody = SetPrivacy { write: Some(Audience::Contacts.into()), ..SetPrivacy::default() };
        alice.client.set_privacy(nobody).await.expect("set");
        let erin = Device::enter(&cluster, 1, "erin").await;
        match erin.client.send(Client::user("alice"), Client::text("let me in")).await {
            Err(SendError::Refused(refusal)) => assert_eq!(refusal.code, Code::Forbidden),
            other => panic!("not refused: {other:?}"),
        }
    });
}
