//! Answers to operators about messages and users of a running cluster.

mod support;

use std::{path::Path, time::Duration};

use carillon_client::Credential;
use carillon_proto::pb::client::{Ack, Deliver, Position, Timeline, client_frame::Body, server_frame, timeline::Owner};
use serde_json::Value;
use support::{
    cluster::Cluster,
    node::{Node, until},
    people::{Device, enter},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn sign_in(cluster: &Cluster, gateway: usize, user: &str, device: &str) -> Device {
    let token = Credential::Token(cluster.token(user));
    enter(&cluster.addresses[gateway], user, device, &token).await.expect("signs in")
}

/// Waits until the message at this position is delivered.
async fn delivered(device: &mut Device, seq: u64) -> Position {
    loop {
        match device.frame().await.expect("a frame") {
            server_frame::Body::Deliver(Deliver { position: Some(position), .. }) if position.seq == seq => {
                return position;
            }
            _ => {}
        }
    }
}

async fn acknowledge(device: &mut Device, position: Position) {
    let timeline = Timeline { owner: Some(Owner::Inbox(device.user.clone())) };
    let ack = Ack { timeline: Some(timeline), position: Some(position) };
    assert!(device.say(Body::Ack(ack)).await, "the connection is over");
}

fn trace(node: &Node, message: &str) -> Result<Value, String> {
    node.command(&["trace", message, "--json"]).map(|text| serde_json::from_str(&text).expect("JSON"))
}

/// Waits until this is so of a message's story.
fn told(node: &Node, message: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    until(what, PATIENCE, || match trace(node, message) {
        Ok(told) => {
            last = told;
            is_so(&last)
        }
        Err(why) => {
            assert!(why.contains("no router answered"), "{why}");
            false
        }
    });
    last
}

/// The device in the story's inbox of this user.
fn device<'a>(story: &'a Value, user: &str, device: &str) -> &'a Value {
    let inboxes = story["inboxes"].as_array().expect("inboxes");
    let inbox = inboxes.iter().find(|inbox| inbox["user"] == user).unwrap_or_else(|| panic!("{user} in {story:#}"));
    let devices = inbox["devices"].as_array().expect("devices");
    devices.iter().find(|known| known["device"] == device).unwrap_or(&Value::Null)
}

#[test]
fn a_message_is_followed_to_each_device_also_when_its_gateway_and_its_router_have_died() {
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (alice, mut phone, accepted, second) = runtime.block_on(async {
        let mut alice = sign_in(&cluster, 0, "alice", "laptop").await;
        // This device is known and away.
        let mut tablet = sign_in(&cluster, 1, "bob", "tablet").await;
        alice.send("bob", "m0", "the first secret").await.expect("accepted");
        let first = delivered(&mut tablet, 1).await;
        acknowledge(&mut tablet, first).await;
        tablet.say(Body::SignOut(Default::default())).await;
        tablet.bye().await;
        let mut guest = sign_in(&cluster, 1, "bob", "guest").await;
        let mut phone = sign_in(&cluster, 0, "bob", "phone").await;
        let accepted = alice.send("bob", "m1", "the second secret").await.expect("accepted");
        let second = delivered(&mut phone, 2).await;
        // The store keeps nothing of a device that leaves without an acknowledgement.
        delivered(&mut guest, 2).await;
        guest.say(Body::SignOut(Default::default())).await;
        guest.bye().await;
        (alice, phone, accepted, second)
    });
    // The first and the last stage that the sender's gateway sees.
    for stage in ["receive", "send"] {
        let count = format!("carillon_gateway_{stage}_latency_seconds_count");
        assert_eq!(cluster.gateways[0].metric(&count), 2.0, "{stage}");
    }
    let asker = &cluster.gateways[1];
    let on_three = |story: &Value| {
        let inboxes = story["inboxes"].as_array().expect("inboxes");
        inboxes.len() == 2
            && inboxes.iter().all(|inbox| inbox["replicas_have"] == 3 && inbox["replicas_told"] == 3)
            && device(story, "bob", "guest").is_null()
    };
    let story = told(asker, "alice/laptop/m1", "all replicas to have it, and the guest to be forgotten", on_three);
    assert_eq!(story["message"]["id"], accepted.message_id);
    assert_eq!((&story["message"]["to"], &story["inboxes"][0]["position"]), (&"bob".into(), &2.into()));
    assert!(story["accepted"].as_str().expect("text").starts_with("yes"), "{story:#}");
    let at = device(&story, "bob", "phone");
    assert_eq!((&at["state"], &at["pushed"]), (&"pushed".into(), &2.into()), "{story:#}");
    let away = device(&story, "bob", "tablet");
    assert_eq!((&away["state"], &away["acknowledged"]), (&"waits".into(), &1.into()), "{story:#}");
    assert!(away["why"].as_str().expect("text").contains("it is not signed in"), "{story:#}");
    assert_eq!(device(&story, "alice", "laptop")["state"], "sender");
    assert!(!story.to_string().contains("secret"), "what it says is not told");

    runtime.block_on(acknowledge(&mut phone, second));
    let acknowledged = |story: &Value| device(story, "bob", "phone")["state"] == "acknowledged";
    told(asker, "bob/2", "the acknowledgement to be stored", |story| {
        acknowledged(story) && device(story, "bob", "phone")["acknowledged"] == 2
    });

    // The message that waits: its gateway and the recipient's router die with it on the way.
    let owner = story["inboxes"][0]["router"].as_str().expect("a router").to_owned();
    let router = cluster.router_addresses().iter().position(|address| *address == owner).expect("one of them");
    cluster.gateways[0].kill();
    cluster.routers[router].kill();
    drop((alice, phone));
    let asker = &cluster.gateways[1];
    for name in ["alice/laptop/m1".to_owned(), format!("bob/{}", accepted.message_id), "alice/2".to_owned()] {
        let story = told(asker, &name, "the story to be told without them", |_| true);
        assert!(on_three(&story) && acknowledged(&story), "{name}: {story:#}");
        assert_eq!(story["message"]["client_id"], "m1", "{name}");
    }
    let ended = told(asker, "bob/2", "the other session to end with its gateway", |story| {
        device(story, "alice", "laptop")["gateway"].is_null()
    });
    assert!(acknowledged(&ended), "{ended:#}");
    let text = asker.command(&["trace", "bob/2"]).expect("told");
    for line in [
        "received     2",
        "on 3 of 3 replicas",
        "accepted     yes",
        "acknowledged bob/phone: ",
        "waits        bob/tablet: ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    for (name, why) in [
        ("alice/laptop/never", "was not found"),
        ("bob/3", "was not found"),
        ("nobody/1", "there never was a user nobody"),
        ("17", "SENDER/DEVICE/CLIENT_ID"),
    ] {
        let refused = asker.command(&["trace", name]).expect_err(name);
        assert!(refused.contains(why), "{name}: {refused}");
    }
}

/// The events of a watch so far.
fn events(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until these have come, in this order, after the first `skip` events; others may come between. Returns how many were looked at.
fn in_order(output: &Path, skip: usize, wanted: &[(&str, &str, &str)]) -> usize {
    let mut looked = 0;
    until("the events to be shown in their order", PATIENCE, || {
        let all = events(output);
        let mut left = all.iter().enumerate().skip(skip);
        let is = |event: &Value, (name, field, value): &(&str, &str, &str)| {
            let shown = match &event[*field] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            event["event"] == *name && shown == *value
        };
        let found: Vec<_> = wanted.iter().map_while(|wanted| left.find(|(_, event)| is(event, wanted))).collect();
        looked = found.last().map_or(0, |(at, _)| at + 1);
        found.len() == wanted.len()
    });
    looked
}

#[test]
fn each_step_of_two_users_talk_is_shown_and_goes_on_when_the_owner_is_drained() {
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (mut alice, mut bob) = runtime.block_on(async {
        let mut alice = sign_in(&cluster, 1, "alice", "laptop").await;
        // The account has to be there.
        let bob = sign_in(&cluster, 1, "bob", "tablet").await;
        alice.send("bob", "before", "secret").await.expect("accepted");
        (alice, bob)
    });
    let output = cluster.data("watch.json");
    let mut watch = cluster.gateways[0].start_command(&["watch", "bob", "--json"], &output);
    let both = |output: &Path| events(output).iter().filter(|event| event["event"] == "watching").count() == 2;
    until("both routers to be watched", PATIENCE, || both(&output));
    let seen = in_order(&output, 0, &[("signed in", "device", "tablet")]);

    runtime.block_on(async {
        let mut phone = sign_in(&cluster, 1, "bob", "phone").await;
        alice.send("bob", "m1", "secret").await.expect("accepted");
        let at = delivered(&mut phone, 2).await;
        acknowledge(&mut phone, at).await;
        bob.send("alice", "m2", "secret").await.expect("accepted");
        bob.send("nobody", "m3", "secret").await.expect_err("there is nobody");
        phone.say(Body::SignOut(Default::default())).await;
        phone.bye().await;
    });
    let seen_at = |wanted: &[_]| in_order(&output, seen, wanted);
    seen_at(&[
        ("signs in", "device", "phone"),
        ("sends", "client_id", "m1"),
        ("stored", "position", "2"),
        ("accepted", "client_id", "m1"),
    ]);
    seen_at(&[("sends", "client_id", "m1"), ("pushed", "position", "2"), ("acknowledges", "position", "2")]);
    seen_at(&[("sends", "client_id", "m2"), ("stored", "client_id", "m2"), ("accepted", "client_id", "m2")]);
    let seen = seen_at(&[("sends", "client_id", "m3"), ("refused", "code", "CODE_NOT_FOUND")]);
    seen_at(&[("acknowledges", "device", "phone"), ("signs out", "device", "phone")]);
    let accepted = events(&output).into_iter().find(|event| event["event"] == "accepted").expect("shown");
    assert_eq!((&accepted["user"], &accepted["to"], &accepted["bytes"]), (&"alice".into(), &"bob".into(), &10.into()));
    assert!(events(&output).iter().all(|event| !event.to_string().contains("secret")), "what is said is not shown");

    let owner = events(&output).into_iter().find(|event| event["owns"] == true).expect("one of them owns the user");
    let owner = owner["router"].as_str().expect("address").to_owned();
    let router = cluster.router_addresses().iter().position(|address| *address == owner).expect("one of them");
    cluster.routers[router].terminate();
    let seen = in_order(&output, seen, &[("gap", "router", &owner)]);
    // The other one owns the user by then, or is about to.
    in_order(&output, 0, &[("owner", "owns", "true")]);
    runtime.block_on(async { alice.send("bob", "m4", "secret").await }).expect("accepted");
    in_order(&output, seen, &[("sends", "client_id", "m4"), ("pushed", "client_id", "m4")]);
    cluster.routers[router].start_again();
    cluster.routers[router].wait_ready();
    in_order(&output, seen, &[("watching", "router", &owner)]);
    assert!(watch.goes_on());
}
