use carillon_proto::{
    ShardKind,
    pb::{admin::SessionInfo, link::TimelineProgress, store::ReplicaProgress},
};

use super::*;

fn replica(node: u64, seq: u64, applied: u64) -> ReplicaTrace {
    let progress =
        ReplicaProgress { votes: true, leads: node == 1, applied, committed: 9, ..ReplicaProgress::default() };
    ReplicaTrace { node, address: format!("s{node}:1"), progress: Some(progress), seq, ..ReplicaTrace::default() }
}

fn inbox(user: &str, seq: u64, replicas: Vec<ReplicaTrace>) -> InboxTrace {
    let shard = Some(ShardId { kind: ShardKind::Timeline, index: 3 }.to_pb());
    let (user, router) = (user.to_owned(), "r:1".to_owned());
    InboxTrace { user, router, shard, seq, epoch: 7, first: 1, last: 20, replicas, ..InboxTrace::default() }
}

fn message() -> TracedMessage {
    TracedMessage {
        id: "01HX".into(),
        sender: "alice".into(),
        device: "phone".into(),
        to: "bob".into(),
        client_id: "c1".into(),
        time_ms: 1_700_000_000_123,
        content_bytes: 12,
    }
}

fn told(inboxes: Vec<InboxTrace>) -> TraceMessageReply {
    TraceMessageReply { message: Some(message()), inboxes, now_ms: 0 }
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn the_story_says_where_it_is_and_what_each_replica_lacks() {
    let silent =
        ReplicaTrace { node: 3, address: "s3:1".into(), not_told: "it does not answer".into(), ..Default::default() };
    let bob = inbox("bob", 17, vec![replica(1, 17, 9), replica(2, 0, 4), silent]);
    let all = (1..=3).map(|node| replica(node, 5, 9)).collect();
    let told = told(vec![bob, inbox("alice", 5, all)]);
    let text = Story::of(&told).to_text();
    has(
        &text,
        &[
            "from         alice/phone, client id c1",
            "received     2023-11-14T22:13:20.123Z",
            "in the inbox of bob at position 17 (timeline-3), on 1 of 2 replicas",
            "storage node 1 (s1:1) has it, and leads",
            "storage node 2 (s2:1) does not have it: it has applied entry 4 of 9",
            "storage node 3 (s3:1) has not told: it does not answer",
            "in the inbox of alice at position 5 (timeline-3), on 3 of 3 replicas",
            "accepted     not yet: a majority",
        ],
    );
    let json = Story::of(&told).to_json();
    assert_eq!((&json["inboxes"][0]["replicas_have"], &json["inboxes"][1]["position"]), (&json!(1), &json!(5)));
}

#[test]
fn what_is_in_the_recipients_inbox_alone_is_not_accepted() {
    let three = |seq| (1..=3).map(|node| replica(node, seq, 9)).collect();
    let alone = told(vec![inbox("bob", 17, three(17)), inbox("alice", 0, three(0))]);
    has(&Story::of(&alone).to_text(), &["accepted     not yet: the sender's own inbox does not have it"]);
    let both = told(vec![inbox("bob", 17, three(17)), inbox("alice", 5, three(5))]);
    has(&Story::of(&both).to_text(), &["accepted     yes"]);
}

#[test]
fn each_device_is_told_how_far_it_is_and_why_no_further() {
    let session = SessionInfo { handle: "64-1".into(), protocol: "tcp".into(), ..SessionInfo::default() };
    let signed_in =
        DeviceTrace { session: Some(session), gateway: 64, gateway_address: "g:1".into(), ..Default::default() };
    let at = |pushed, acknowledged| Some(TimelineProgress { pushed, acknowledged, head: 18, ..Default::default() });
    for (device, expected, why) in [
        (DeviceTrace { acknowledged: 17, ..Default::default() }, State::Acknowledged, "up to position 17"),
        (
            DeviceTrace { acknowledged: 16, age_ms: Some(9_000_000), ..Default::default() },
            State::Waits,
            "16, at least 2 h ago",
        ),
        (DeviceTrace::default(), State::Waits, "not signed in; it has acknowledged nothing"),
        (DeviceTrace { progress: at(17, 3), ..signed_in.clone() }, State::Pushed, "64-1 (tcp, since"),
        (
            DeviceTrace { progress: at(17, 17), ..signed_in.clone() },
            State::Acknowledged,
            "does not have the acknowledgement",
        ),
        (
            DeviceTrace { progress: at(12, 3), queued_bytes: 70, ..signed_in.clone() },
            State::Waits,
            "70 bytes wait until the client reads: the connection has got up to position 12 of 18",
        ),
        (DeviceTrace { gateway_ended: true, ..signed_in.clone() }, State::Waits, "has ended with gateway g:1"),
        (
            DeviceTrace { not_told: "release 0.1.0 does not know the question".into(), ..signed_in },
            State::Unknown,
            "release 0.1.0",
        ),
    ] {
        let (state, told) = state(&device, 17);
        assert_eq!(state, expected, "{told}");
        assert!(told.contains(why), "{told}");
    }
}

#[test]
fn devices_that_left_without_a_trace_are_not_called_absent_for_ever() {
    let told = told(vec![inbox("bob", 17, vec![replica(1, 17, 9)])]);
    has(&Story::of(&told).to_text(), &["waits        bob has no device that is signed in", "not known any more"]);
}

#[test]
fn a_message_that_is_not_found_is_told_with_where_it_was_looked_for() {
    let told = TraceMessageReply { message: None, ..told(vec![inbox("alice", 0, vec![replica(1, 0, 9)])]) };
    let text = Story::of(&told).to_text();
    has(&text, &["not in       the inbox of alice (timeline-3), which keeps positions 1 to 20", "never accepted"]);
    let deleted = TraceMessageReply {
        message: None,
        inboxes: vec![InboxTrace { deleted: true, ..inbox("alice", 0, Vec::new()) }],
        now_ms: 0,
    };
    has(&Story::of(&deleted).to_text(), &["the user was deleted"]);
}
