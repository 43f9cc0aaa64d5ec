//! Scenes in which a client breaks one rule after the other.

use super::*;
use crate::{World, build};
use carillon_proto::pb::client::{Bye, Code};
use serde_json::{Value, json};

/// A scene in which time passes only where the test says so.
struct Scene {
    rules: Rules,
    world: World,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { rules: Rules::new(), world: World::new("alice", "phone"), now: Instant::now() }
    }

    fn signed_in() -> Self {
        let mut scene = Self::new();
        scene.signs_in(1, json!({}));
        scene
    }

    fn signs_in(&mut self, attempt: u32, more: Value) {
        self.rules.connected(self.now).expect("may connect");
        self.says(sign_in(attempt)).expect("signs in");
        self.hears(json!({"signedIn": more}));
    }

    fn says(&mut self, frame: Value) -> Result<(), Broken> {
        let frame: ClientFrame = serde_json::from_value(frame).expect("a frame");
        self.world.heard(&frame);
        self.rules.heard(&frame, 100, self.now)
    }

    fn hears(&mut self, mut frame: Value) {
        self.world.complete(&mut frame, 0);
        self.rules.told(&build(&frame, false).expect("a frame").frame, self.now);
    }

    fn breaks(&mut self, frame: Value, section: &str, why: &str) {
        let broken = self.says(frame).expect_err(why);
        assert!(broken.section == section && broken.why.contains(why), "{broken}");
    }
}

fn sign_in(attempt: u32) -> Value {
    json!({"signIn": {"device": "phone", "token": "t", "instance": "5", "attempt": attempt}})
}

fn send(id: &str, body: &str) -> Value {
    json!({"send": {"clientId": id, "to": {"user": "bob"}, "content": {"text": {"body": body}}}})
}

fn ack(epoch: &str, seq: &str) -> Value {
    json!({"ack": {"timeline": {"inbox": "alice"}, "position": {"epoch": epoch, "seq": seq}}})
}

fn refused(id: &str, retry: bool, after: u32) -> Value {
    json!({"refused": {"clientId": id, "code": "CODE_UNAVAILABLE", "retry": retry, "retryAfterMs": after}})
}

fn deliver(seq: &str) -> Value {
    json!({"deliver": {"position": {"seq": seq}, "envelope": {"content": {"text": {"body": "hi"}}}}})
}

#[test]
fn a_connection_begins_with_one_sign_in() {
    Scene::new().breaks(send("1", "hi"), "What ends in what", "first frame");
    Scene::new().breaks(json!({"signIn": {"token": "t"}}), "Names", "device");
    Scene::new().breaks(json!({"signIn": {"device": "d"}}), "Signing in", "credential");
    Scene::new().breaks(json!({"signIn": {"device": "d", "token": "t", "attempt": 1}}), "Signing in", "only one of");
    Scene::new().breaks(sign_in(2), "Signing in", "not 1");
    Scene::signed_in().breaks(sign_in(2), "What ends in what", "second SignIn");
    let mut scene = Scene::signed_in();
    scene.rules.connected(scene.now).expect("again");
    scene.breaks(sign_in(1), "Signing in", "comes after attempt 1");
    let frame = ClientFrame::default();
    Scene::new().rules.heard(&frame, 1, Instant::now()).expect_err("no body");
    let long: ClientFrame = serde_json::from_value(sign_in(1)).expect("a frame");
    Scene::new().rules.heard(&long, 8193, Instant::now()).expect_err("too long");
}

#[test]
fn nothing_follows_a_ticket_before_its_answer() {
    let ticket =
        |attempt: u32| json!({"signIn": {"device": "phone", "ticket": "AAAA", "instance": "5", "attempt": attempt}});
    let mut scene = Scene::new();
    scene.says(ticket(1)).expect("signs in");
    scene.breaks(send("1", "hi"), "Signing in", "follows a SignIn with a ticket");
    let mut scene = Scene::new();
    scene.says(ticket(1)).expect("signs in");
    scene.hears(json!({"refused": {"code": "CODE_UNAUTHENTICATED"}}));
    scene.breaks(ticket(2), "Signing in", "second ticket");
    scene.says(sign_in(1)).expect("with the same number");
    scene.says(send("1", "hi")).expect("waits for the answer at the gateway");
}

#[test]
fn a_message_is_sent_again_as_it_was_at_its_time_and_only_then() {
    let mut scene = Scene::signed_in();
    scene.says(send("1", "hi")).expect("sent");
    scene.breaks(send("1", "hi"), "Sending again", "waits for its answer");
    scene.hears(refused("1", true, 100));
    scene.now += Duration::from_millis(97);
    scene.breaks(send("1", "hi"), "Sending again", "3 ms before its time");
    let mut scene = Scene::signed_in();
    scene.says(send("1", "hi")).expect("sent");
    scene.hears(refused("1", true, 100));
    scene.now += Duration::from_millis(100);
    scene.breaks(send("1", "hello"), "Sending", "another message");
    scene.says(send("1", "hi")).expect("the same");
    scene.hears(refused("1", false, 0));
    scene.breaks(send("1", "hi"), "Sending again", "refused for good");
    let after =
        json!({"send": {"clientId": "2", "to": {"user": "bob"}, "content": {"text": {"body": "x"}}, "after": "1"}});
    scene.breaks(after, "Sending again", "refused for good");
    scene.breaks(send("", "x"), "Names", "client_id");
    scene.breaks(send("3", ""), "Contents", "is empty");
}

#[test]
fn no_more_messages_wait_than_may() {
    let mut scene = Scene::new();
    scene.signs_in(1, json!({"limits": {"maxPendingSends": 2}}));
    scene.says(send("1", "a")).expect("sent");
    scene.says(send("2", "b")).expect("sent");
    scene.breaks(send("3", "c"), "Sending again", "3 messages wait");
    scene.signs_in(2, json!({}));
    scene.says(send("1", "a")).expect("nothing waits on a new connection");
}

#[test]
fn only_what_was_delivered_is_acknowledged() {
    let mut scene = Scene::signed_in();
    scene.breaks(ack("7", "1"), "Timelines and positions", "has delivered 0");
    scene.hears(deliver("1"));
    scene.hears(deliver("3"));
    scene.says(ack("7", "1")).expect("has it");
    scene.breaks(ack("7", "3"), "Timelines and positions", "has delivered 1");
    scene.breaks(ack("8", "1"), "Timelines and positions", "epoch 7");
    scene.hears(json!({"trimmed": {"first": {"seq": "6"}}}));
    scene.says(ack("7", "5")).expect("counts as delivered");
    scene.hears(json!({"accepted": {"clientId": "1", "position": {"seq": "6"}}}));
    scene.says(ack("7", "6")).expect("its own message");
}

#[test]
fn a_bye_says_whether_and_when_the_client_connects_again() {
    let bye = |reconnect, reconnect_after_ms| {
        let code = Code::ShuttingDown.into();
        let bye = Bye { code, reconnect, reconnect_after_ms, ..Bye::default() };
        ServerFrame { body: Some(Told::Bye(bye)) }
    };
    let mut scene = Scene::signed_in();
    scene.rules.told(&bye(true, 50), scene.now);
    scene.rules.connected(scene.now).expect_err("too early");
    scene.rules.connected(scene.now + Duration::from_millis(50)).expect("in time");
    scene.rules.told(&bye(false, 0), scene.now);
    scene.rules.connected(scene.now + Duration::from_secs(9)).expect_err("never");
    scene.rules.started();
    scene.rules.connected(scene.now).expect("the user wants it");
    let mut scene = Scene::signed_in();
    scene.says(json!({"signOut": {}})).expect("ends");
    scene.breaks(json!({"ping": {}}), "Keeping and ending", "follows SignOut");
}

#[test]
fn a_frame_needs_its_feature() {
    let typing = json!({"setChatState": {"request": 1, "to": "bob", "state": "CHAT_STATE_COMPOSING"}});
    Scene::signed_in().breaks(typing.clone(), "What ends in what", "chat-states");
    let mut scene = Scene::new();
    scene.signs_in(1, json!({"features": ["chat-states"]}));
    scene.says(typing).expect("is offered");
    let group = json!({"send": {"clientId": "1", "to": {"group": "club"}, "content": {"text": {"body": "x"}}}});
    scene.breaks(group, "What ends in what", "groups");
    let recall = json!({"send": {"clientId": "1", "to": {"user": "bob"}, "content": {"recall": {}}}});
    scene.breaks(recall, "What ends in what", "references");
}

#[test]
fn fetches_have_numbers_of_their_own_and_a_bound() {
    let fetch = |request: u32| json!({"fetch": {"request": request, "timeline": {"inbox": "alice"}}});
    let mut scene = Scene::signed_in();
    scene.says(fetch(1)).expect("asked");
    scene.breaks(fetch(1), "Timelines and positions", "of that number");
    (2..=4).for_each(|request| scene.says(fetch(request)).expect("asked"));
    scene.breaks(fetch(5), "Timelines and positions", "more than four");
}
