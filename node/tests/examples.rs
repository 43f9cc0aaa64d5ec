//! Against a whole service: the examples of the client library, and whether the frames of the scenes of docs/examples are like the real ones.

#![expect(clippy::duplicate_mod, reason = "each example is a program of its own")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use carillon_client::{Address, ConnectOptions, Connection};
use carillon_conformance::{Act, World, own};
use serde_json::{Value, json};
use support::{
    people::{done, shared},
    service::{Carrier, Service},
};

#[path = "../../client/examples/files.rs"]
mod files;
#[path = "../../client/examples/groups.rs"]
mod groups;
#[path = "../../client/examples/messages.rs"]
mod messages;
#[path = "../../client/examples/people.rs"]
mod people;

/// Runs the tour of an example with two users of its own.
macro_rules! tours {
    ($service:expr, $example:ident) => {{
        let service: &Service = $service;
        service.block_on(async {
            use $example::common::User;
            let address: Address = service.address(Carrier::WebSocketProto);
            let [alice, bob] = ["alice", "bob"].map(|name| format!("{name}-{}", stringify!($example)));
            let mut alice = User::sign_in(&address, &alice, &service.token(&alice)).await.expect("signs in");
            let mut bob = User::sign_in(&address, &bob, &service.token(&bob)).await.expect("signs in");
            $example::tour(&mut alice, &mut bob).await.expect("the tour");
        });
    }};
}

#[test]
fn messages_are_sent_and_talked_about() {
    tours!(shared(), messages);
}

#[test]
fn a_group_lives_and_ends() {
    tours!(shared(), groups);
}

#[test]
fn people_get_to_know_each_other_and_part() {
    tours!(shared(), people);
}

#[test]
fn a_file_is_uploaded_and_downloaded() {
    tours!(shared(), files);
}

/// The kinds of frames that the service sends when it is asked as below, and for each the fields of all and of each frame.
#[derive(Default)]
struct Real {
    any: BTreeMap<String, BTreeSet<String>>,
    each: BTreeMap<String, BTreeSet<String>>,
}

impl Real {
    fn add(&mut self, frame: &Value) {
        let (kind, found) = fields_of(frame);
        self.each
            .entry(kind.clone())
            .and_modify(|each| each.retain(|field| found.contains(field)))
            .or_insert(found.clone());
        self.any.entry(kind).or_default().extend(found);
    }
}

/// The kind of a frame, and the paths of its fields that are no messages.
fn fields_of(frame: &Value) -> (String, BTreeSet<String>) {
    fn collect(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| collect(value, &format!("{path}.{name}"), found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, &format!("{path}[]"), found)),
            // Canonical JSON leaves it out.
            Value::Null | Value::Bool(false) => {}
            Value::Number(number) if number.as_u64() == Some(0) => {}
            Value::String(text) if text.is_empty() || text == "0" => {}
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let (kind, body) = frame.as_object().and_then(|frame| frame.iter().next()).expect("a body");
    let mut found = BTreeSet::new();
    collect(body, kind, &mut found);
    (kind.clone(), found)
}

struct Asker {
    connection: Connection,
}

impl Asker {
    async fn connect(service: &Service) -> Self {
        let address = service.address(Carrier::Tcp);
        Self { connection: Connection::connect(&address, &ConnectOptions::default()).await.expect("connects") }
    }

    async fn signed_in(service: &Service, user: &str, real: &mut Real) -> Self {
        let mut asker = Self::connect(service).await;
        let sign_in = json!({"signIn": {"device": "phone", "token": service.token(user)}});
        asker.asks(sign_in, "signedIn", real).await;
        asker
    }

    /// Sends a frame, and takes what comes until a frame of this kind.
    async fn asks(&mut self, frame: Value, answer: &str, real: &mut Real) -> Value {
        let frame: carillon_proto::pb::client::ClientFrame = serde_json::from_value(frame).expect("a frame");
        self.connection.send_frame(frame.body.expect("a body")).await.expect("sent");
        self.hears(answer, real).await
    }

    async fn hears(&mut self, kind: &str, real: &mut Real) -> Value {
        loop {
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), self.connection.next_frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("no {kind}")).expect("a frame").expect("not the end");
            let frame = serde_json::to_value(&frame).expect("JSON");
            real.add(&frame);
            if frame.get(kind).is_some() {
                return frame;
            }
        }
    }
}

/// Fields of scenes that the questions below do not bring.
const ALSO: [&str; 12] = [
    "bye.reconnect",
    "bye.reconnectAfterMs",
    "refused.retry",
    "refused.retryAfterMs",
    "deliver.envelope.erased",
    "deliver.envelope.content.file.",
    "deliver.envelope.content.recall.target.",
    "page.entries[].envelope.",
    "conversations.changes",
    "conversations.before",
    "contacts.contacts[].",
    "privacyNews.",
];
/// Fields that scenes leave out: they belong to the questions below, or a client may be without them.
const NOT: [&str; 6] = [
    "signedIn.features[]",
    "signedIn.ticket",
    "deliver.envelope.content.",
    "page.",
    "conversations.conversations[].",
    "contactNews.",
];

fn is_in(list: &[&str], field: &str) -> bool {
    list.iter().any(|known| field.starts_with(known))
}

#[test]
fn the_frames_of_scenes_have_the_fields_of_real_ones() {
    let service = shared();
    let mut real = Real::default();
    done(service, &["user", "add", "scene-password", "--password-stdin"], "correct horse\n");
    service.block_on(ask_everything(service, &mut real));
    let (mut compared, mut wrong) = (BTreeSet::new(), BTreeSet::new());
    for scene in own().expect("valid") {
        let mut world = World::new("alice", "phone");
        for step in &scene.steps {
            let frames = match &step.act {
                Act::Server(frames) => frames.clone(),
                Act::ServerLater(frame) | Act::ServerHalf(frame) => vec![frame.clone()],
                Act::SignsIn(more) => vec![json!({"signedIn": more})],
                _ => continue,
            };
            for mut frame in frames {
                world.complete(&mut frame, 1_795_000_000_000);
                let (kind, fields) = fields_of(&frame);
                let (Some(any), Some(each)) = (real.any.get(&kind), real.each.get(&kind)) else { continue };
                let more = fields.difference(any).filter(|field| !is_in(&ALSO, field));
                wrong.extend(more.map(|field| format!("{}: the service does not say {field}", scene.name)));
                let lacks = each.difference(&fields).filter(|field| !is_in(&NOT, field));
                wrong.extend(lacks.map(|field| format!("{}: the service says also {field}", scene.name)));
                compared.insert(kind);
            }
        }
    }
    let expected =
        ["accepted", "bye", "challenge", "chatState", "contactNews", "contacts", "conversations", "deliver", "done"];
    let expected = expected.into_iter().chain(["page", "privacy", "refused", "scheduledChanged", "signedIn"]);
    let not_compared: Vec<_> = expected.filter(|kind| !compared.contains(*kind)).collect();
    assert!(not_compared.is_empty(), "{not_compared:?}");
}

async fn ask_everything(service: &Service, real: &mut Real) {
    let mut bob = Asker::signed_in(service, "scene-bob", real).await;
    let mut alice = Asker::signed_in(service, "scene-alice", real).await;
    let send =
        |id: &str, to: &str, content: Value| json!({"send": {"clientId": id, "to": {"user": to}, "content": content}});
    bob.asks(json!({"readConversations": {"request": 1}}), "conversations", real).await;
    let text = json!({"text": {"body": "helo"}});
    alice.asks(send("1", "scene-bob", text.clone()), "accepted", real).await;
    let first = bob.hears("deliver", real).await;
    let id = first["deliver"]["envelope"]["id"].clone();
    let target = json!({"id": id, "sender": "scene-alice", "senderDevice": "phone", "clientId": "1"});
    alice.asks(send("2", "scene-bob", json!({"edit": {"target": target, "content": text}})), "accepted", real).await;
    bob.hears("deliver", real).await;
    let mut expiring = send("3", "scene-bob", text.clone());
    expiring["send"]["expiresAfterMs"] = json!("60000");
    alice.asks(expiring, "accepted", real).await;
    bob.hears("deliver", real).await;
    alice.asks(send("4", "nobody-at-all", text.clone()), "refused", real).await;
    let inbox = |user: &str| json!({"inbox": user});
    alice.asks(json!({"fetch": {"request": 1, "timeline": inbox("scene-alice")}}), "page", real).await;
    alice.asks(json!({"fetch": {"request": 2, "timeline": inbox("scene-bob")}}), "refused", real).await;
    alice.asks(json!({"ping": {"nonce": "7"}}), "pong", real).await;
    alice.asks(json!({"renew": {"request": 3, "token": service.token("scene-alice")}}), "renewed", real).await;
    alice.asks(json!({"readContacts": {"request": 4}}), "contacts", real).await;
    let subscribe = json!({"contact": {"request": 5, "contact": "scene-bob", "say": {"word": "WORD_SUBSCRIBE"}}});
    alice.asks(subscribe, "done", real).await;
    alice.asks(json!({"readPrivacy": {"request": 6}}), "privacy", real).await;
    alice.asks(json!({"setPresence": {"request": 7, "show": "SHOW_ONLINE"}}), "done", real).await;
    let composing = json!({"setChatState": {"request": 8, "to": "scene-bob", "state": "CHAT_STATE_COMPOSING"}});
    alice.asks(composing, "done", real).await;
    bob.hears("chatState", real).await;
    let later = json!({"schedule": {"request": 9, "clientId": "9", "to": {"user": "scene-bob"}, "content": text,
        "atMs": (carillon_proto::now_ms() + 3_600_000).to_string()}});
    alice.asks(later, "scheduledChanged", real).await;
    alice.asks(json!({"signOut": {}}), "bye", real).await;

    // An inbox in which there is something, and of which the device has a part.
    let position = json!({"epoch": first["deliver"]["position"]["epoch"], "seq": "1"});
    let positions = json!([{"timeline": inbox("scene-bob"), "position": position}]);
    let token = service.token("scene-bob");
    let sign_in = json!({"signIn": {"device": "laptop", "token": token, "positions": positions}});
    Asker::connect(service).await.asks(sign_in, "signedIn", real).await;

    let mut other = Asker::connect(service).await;
    other.asks(json!({"signIn": {"device": "phone", "ticket": "AAEC"}}), "refused", real).await;
    let mut other = Asker::connect(service).await;
    // "n,,n=scene-password,r=abcdefghij"
    let first = "biwsbj1zY2VuZS1wYXNzd29yZCxyPWFiY2RlZmdoaWo=";
    other
        .asks(json!({"signIn": {"user": "scene-password", "device": "phone", "scramFirst": first}}), "challenge", real)
        .await;
}
