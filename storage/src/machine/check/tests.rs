//! Malformed commands, and those of other shards, are refused.

mod groups;

use carillon_proto::{
    MediaId,
    pb::store::{
        AdvanceLeaseClock, Append, CollectGarbage, CompleteMedia, CreateMedia, EndSender, EndTimeline, Header,
        Mentions, MoveMarks, Person, PollRules, PutAccount, Reference, RemoveMedia, RequestAnswer, RevokeTokens,
        ScramCredentials, SetConversation, SetCursor, SweepConversations, Trim, header::Kind as HeaderKind,
        move_cursors::Moved, move_marks::Mark, remove_media, sweep_conversations::Seen as SeenConversation,
        timeline_key::Kind,
    },
};

use super::*;
use crate::machine::REMOVED_MEDIA;

const MAP: ShardMap = ShardMap { directory: 8, timeline: 16 };

fn alices(kind: ShardKind) -> ShardId {
    // As the golden test of the shard map has it.
    ShardId { kind, index: 1 }
}

fn key(kind: Kind, owner: &str) -> Option<TimelineKey> {
    Some(TimelineKey { kind: kind.into(), owner: owner.to_owned().into() })
}

fn timeline(op: TimelineOp) -> Result<(), (Reason, String)> {
    check_timeline(alices(ShardKind::Timeline), MAP, &TimelineCommand { op: Some(op) })
        .map_err(|rejected| (rejected.reason(), rejected.detail))
}

fn directory(shard: ShardId, op: DirectoryOp) -> Result<(), (Reason, String)> {
    check_directory(shard, MAP, &DirectoryCommand { op: Some(op) })
        .map_err(|rejected| (rejected.reason(), rejected.detail))
}

fn append() -> Append {
    Append {
        timeline: key(Kind::Inbox, "alice"),
        duplicate_key: vec![1; 16].into(),
        time_ms: 1,
        envelope: vec![1].into(),
        new_epoch: 1,
        after_key: Default::default(),
        incarnation: 0,
        ..Append::default()
    }
}

#[test]
fn malformed_appends_are_refused() {
    assert_eq!(timeline(TimelineOp::Append(append())), Ok(()));
    type Change = fn(&mut Append);
    let wrong: [(&str, Change); 11] = [
        ("missing", |op| op.timeline = None),
        ("kind", |op| op.timeline = key(Kind::Unspecified, "alice")),
        ("normal form is \"alice\"", |op| op.timeline = key(Kind::Inbox, "Alice")),
        ("not valid", |op| op.timeline = key(Kind::Inbox, "a b")),
        ("not 16", |op| op.duplicate_key = vec![1; 15].into()),
        ("before has 3", |op| op.after_key = vec![1; 3].into()),
        ("epoch", |op| op.new_epoch = 0),
        ("envelope", |op| op.envelope = vec![0; MAX_ENVELOPE_BYTES + 1].into()),
        ("normal form is \"bob\"", |op| op.sender = "Bob".into()),
        ("not valid", |op| op.sender = "a b".into()),
        ("sender is not UTF-8", |op| op.sender = vec![0xff].into()),
    ];
    for (why, change) in wrong {
        let mut op = append();
        change(&mut op);
        let (reason, detail) = timeline(TimelineOp::Append(op)).expect_err(why);
        assert!(reason == Reason::Invalid && detail.contains(why), "{why}: {detail}");
    }
    let op = Append { timeline: key(Kind::Inbox, "bob"), ..append() };
    assert_eq!(timeline(TimelineOp::Append(op)).expect_err("bob's shard").0, Reason::WrongShard);
}

#[test]
fn malformed_headers_are_refused() {
    let id = "0".repeat(26);
    let reference = || Reference { id: id.clone(), key: vec![1; 16].into(), by_sender: true, seq: 0 };
    let about = |kind: HeaderKind| Header { kind: kind.into(), refers_to: Some(reference()), ..Header::default() };
    let with = |header: Header| {
        let append = Append { header: Some(Box::new(header)), envelope: vec![0x0a, 1, b'x'].into(), ..append() };
        timeline(TimelineOp::Append(append))
    };
    let poll = |options| Some(PollRules { options, multiple: false, until_ms: 0 });
    let mentions = |users: Vec<String>| Some(Mentions { users, all: true, here: false });
    let message =
        Header { countable: true, poll: poll(2), mentions: mentions(vec!["bob".into()]), ..Header::default() };
    let reactions = |reactions: Vec<String>| Header { reactions, ..about(HeaderKind::Reaction) };
    let right = [
        message.clone(),
        Header { edit_window_ms: 7, media: vec![vec![1; 16].into()], ..about(HeaderKind::Edit) },
        Header { countable: true, media: (0..16).map(|at| vec![at; 16].into()).collect(), ..Header::default() },
        Header { erase: true, ..about(HeaderKind::Recall) },
        reactions((0..20).map(|at| at.to_string()).collect()),
        reactions(Vec::new()),
        Header { votes: vec![0, 31], ..about(HeaderKind::Vote) },
    ];
    right.into_iter().for_each(|header| assert_eq!(with(header.clone()), Ok(()), "{header:?}"));
    let refers = |change: fn(&mut Reference)| {
        let mut reference = reference();
        change(&mut reference);
        Header { refers_to: Some(reference), ..about(HeaderKind::Pin) }
    };
    let wrong = [
        ("kind of a message is unknown", Header { kind: 9, ..Header::default() }),
        ("does not belong", Header { target_seq: 1, ..about(HeaderKind::Pin) }),
        ("does not belong", Header { countable: true, ..about(HeaderKind::Pin) }),
        ("does not belong", Header { erase: true, ..about(HeaderKind::Edit) }),
        ("does not belong", Header { expires_at_ms: 7_000, ..about(HeaderKind::Pin) }),
        ("does not belong", Header { edit_window_ms: 1, ..about(HeaderKind::Pin) }),
        ("does not belong", Header { votes: vec![1], ..about(HeaderKind::Reaction) }),
        ("does not belong", Header { reactions: vec!["x".into()], ..about(HeaderKind::Vote) }),
        ("does not belong", Header { poll: poll(2), ..about(HeaderKind::Edit) }),
        ("does not belong", Header { media: vec![vec![1; 16].into()], ..about(HeaderKind::Pin) }),
        ("17 files", Header { media: (0..17).map(|at| vec![at; 16].into()).collect(), ..message.clone() }),
        ("has 15 bytes", Header { media: vec![vec![1; 15].into()], ..message.clone() }),
        ("file is there twice", Header { media: vec![vec![1; 16].into(); 2], ..message.clone() }),
        ("exactly if", Header { refers_to: None, ..about(HeaderKind::Pin) }),
        ("exactly if", Header { refers_to: Some(reference()), ..message.clone() }),
        ("not a message id", refers(|reference| reference.id = "x".into())),
        ("names neither", refers(|reference| reference.key = Default::default())),
        ("names neither", refers(|reference| reference.seq = 1)),
        ("65 mentioned users", Header { mentions: mentions(vec!["bob".into(); 65]), ..message.clone() }),
        ("not valid", Header { mentions: mentions(vec!["b b".into()]), ..message.clone() }),
        ("poll of 1 options", Header { poll: poll(1), ..message.clone() }),
        ("21 reactions", reactions((0..21).map(|at| at.to_string()).collect())),
        ("reaction has 0 bytes", reactions(vec![String::new()])),
        ("reaction has 65 bytes", reactions(vec!["x".repeat(65)])),
        ("there twice", reactions(vec!["x".into(), "x".into()])),
        ("not in order", Header { votes: vec![1, 1], ..about(HeaderKind::Vote) }),
    ];
    for (why, header) in wrong {
        let (reason, detail) = with(header).expect_err(why);
        assert!(reason == Reason::Invalid && detail.contains(why), "{why}: {detail}");
    }
    let expiring = |expires_at_ms, envelope: Vec<u8>| {
        let header = Some(Box::new(Header { expires_at_ms, ..message.clone() }));
        timeline(TimelineOp::Append(Append { header, envelope: envelope.into(), time_ms: 1_000, ..append() }))
    };
    let (readable, year_ms) = (|| vec![0x0a, 1, b'x'], *carillon_proto::limits::EXPIRES_AFTER_MS.end());
    assert_eq!(expiring(1_000 + year_ms, readable()), Ok(()));
    assert_eq!(expiring(1, readable()), Ok(()), "it has come late");
    assert!(expiring(1_001 + year_ms, readable()).is_err(), "for too long");
    // The content could not be taken out of it.
    assert!(expiring(7_000, vec![0x3a, 2, 0x0a, 9]).is_err());
    let of_edit = Header { expires_at_ms: 7_000, ..about(HeaderKind::Edit) };
    assert_eq!(with(of_edit), Ok(()));
    let unreadable = Append { header: Some(Box::new(about(HeaderKind::Pin))), ..append() };
    let (_, detail) = timeline(TimelineOp::Append(unreadable)).expect_err("refused");
    assert!(detail.contains("can't be read"), "{detail}");
    let in_group = |change: fn(&mut Reference)| {
        let mut header = refers(change);
        header.kind = HeaderKind::Recall.into();
        let timeline = key(Kind::Group, "alice");
        let append =
            Append { timeline, header: Some(Box::new(header)), envelope: vec![0x0a, 1, b'x'].into(), ..append() };
        self::timeline(TimelineOp::Append(append))
    };
    assert_eq!(in_group(|reference| reference.seq = 1), Ok(()));
    in_group(|_| {}).expect_err("no position");
    in_group(|reference| (reference.seq, reference.by_sender) = (1, false)).expect_err("the key of somebody else");
}

#[test]
fn malformed_files_are_refused() {
    let id = || MediaId::new(1, [7; 14]).as_bytes().to_vec();
    let create = || CreateMedia {
        timeline: key(Kind::Inbox, "alice"),
        id: id().into(),
        size_bytes: 1,
        media_type: "t".repeat(256),
        name: "n".repeat(256),
        ..CreateMedia::default()
    };
    let created = |op| timeline(TimelineOp::CreateMedia(op));
    assert_eq!(created(create()), Ok(()));
    let elsewhere = MediaId::new(2, [7; 14]).as_bytes().to_vec();
    for wrong in [
        CreateMedia { timeline: None, ..create() },
        CreateMedia { timeline: key(Kind::Group, "friends"), ..create() },
        CreateMedia { id: vec![1; 15].into(), ..create() },
        CreateMedia { id: elsewhere.clone().into(), ..create() },
        CreateMedia { size_bytes: 0, ..create() },
        CreateMedia { size_bytes: u64::MAX, ..create() },
        CreateMedia { media_type: "t".repeat(257), ..create() },
        CreateMedia { name: "n\r\nX: 1".to_owned(), ..create() },
    ] {
        assert!(created(wrong.clone()).is_err(), "{wrong:?}");
    }
    let owner = || Some(Person { user: "alice".to_owned(), incarnation: 1 });
    let completed = |owner, id: Vec<u8>| {
        timeline(TimelineOp::CompleteMedia(CompleteMedia { owner, id: id.into(), ..CompleteMedia::default() }))
    };
    assert_eq!(completed(owner(), id()), Ok(()));
    assert!(completed(None, id()).is_err() && completed(owner(), elsewhere).is_err());
    let removed =
        |count| timeline(TimelineOp::RemoveMedia(RemoveMedia { files: vec![remove_media::Seen::default(); count] }));
    assert_eq!(removed(REMOVED_MEDIA), Ok(()));
    assert!(removed(0).is_err() && removed(REMOVED_MEDIA + 1).is_err());
}

#[test]
fn malformed_cursors_and_trims_are_refused() {
    let cursor = |kind, device: &str| {
        let timeline = key(kind, "alice");
        TimelineOp::SetCursor(SetCursor { timeline, device: device.into(), epoch: 1, seq: 1 })
    };
    assert_eq!(timeline(cursor(Kind::Inbox, "phone")), Ok(()));
    for (kind, device) in [(Kind::Inbox, ""), (Kind::Inbox, "\u{0}"), (Kind::Group, "phone")] {
        assert!(timeline(cursor(kind, device)).is_err(), "{device:?}");
    }
    let trim = |limit| TimelineOp::Trim(Trim { timeline: key(Kind::Inbox, "alice"), before_seq: 2, limit, epoch: 0 });
    assert_eq!(timeline(trim(TRIM_ENVELOPES)), Ok(()));
    assert!(timeline(trim(0)).is_err() && timeline(trim(TRIM_ENVELOPES + 1)).is_err());
}

#[test]
fn malformed_moves_are_refused() {
    let moved = |kind, owner: &str| Moved { timeline: key(kind, owner), epoch: 1, seq: 1 };
    let good = MoveCursors {
        timeline: key(Kind::Inbox, "alice"),
        device: "phone".into(),
        // Wherever the group's own shard is.
        moved: [moved(Kind::Inbox, "alice")]
            .into_iter()
            .chain((1..MOVED_CURSORS).map(|n| moved(Kind::Group, &format!("group{n}"))))
            .collect(),
        incarnation: 0,
    };
    assert_eq!(timeline(TimelineOp::MoveCursors(good.clone())), Ok(()));
    type Change = fn(&mut MoveCursors);
    let wrong: [(&str, Change); 9] = [
        ("and not in that of a group", |op| op.timeline = key(Kind::Group, "alice")),
        ("device", |op| op.device = String::new()),
        ("moves of 0 cursors", |op| op.moved.clear()),
        ("moves of 257 cursors", |op| op.moved.push(op.moved[1].clone())),
        ("timeline is missing", |op| op.moved[1].timeline = None),
        ("timeline has no kind", |op| op.moved[1].timeline = key(Kind::Unspecified, "group")),
        ("normal form is \"group\"", |op| op.moved[1].timeline = key(Kind::Group, "Group")),
        ("somebody else's inbox", |op| op.moved[1].timeline = key(Kind::Inbox, "bob")),
        ("epoch 0", |op| op.moved[0].epoch = 0),
    ];
    for (why, change) in wrong {
        let mut op = good.clone();
        change(&mut op);
        let (reason, detail) = timeline(TimelineOp::MoveCursors(op)).expect_err(why);
        assert!(reason == Reason::Invalid && detail.contains(why), "{why}: {detail}");
    }
    let bobs = MoveCursors { timeline: key(Kind::Inbox, "bob"), ..good };
    assert_eq!(timeline(TimelineOp::MoveCursors(bobs)).expect_err("bob's shard").0, Reason::WrongShard);
}

#[test]
fn malformed_words_about_conversations_are_refused() {
    let sent = |peer: &str, sender: &str| {
        timeline(TimelineOp::Append(Append {
            peer: peer.to_owned().into(),
            sender: sender.to_owned().into(),
            ..append()
        }))
    };
    assert_eq!(sent("bob", ""), Ok(()));
    assert_eq!(sent("bob", "alice"), Ok(()), "the sender's own inbox decides");
    for (peer, sender) in [("Bob", ""), ("b b", ""), ("bob", "carol")] {
        sent(peer, sender).expect_err("malformed");
    }
    let in_group = Append { timeline: key(Kind::Group, "alice"), peer_incarnation: 1, ..append() };
    timeline(TimelineOp::Append(in_group)).expect_err("a group has no peers");

    let mark = |conversation, epoch| Mark { conversation, epoch, seq: 1 };
    let moves = |kind, marks| {
        timeline(TimelineOp::MoveMarks(MoveMarks { timeline: key(kind, "alice"), marks, ..MoveMarks::default() }))
    };
    let good = || mark(key(Kind::Inbox, "bob"), 1);
    assert_eq!(moves(Kind::Inbox, vec![good(); 256]), Ok(()));
    moves(Kind::Group, vec![good()]).expect_err("a group has no marks");
    for marks in [vec![], vec![good(); 257], vec![mark(None, 1)], vec![mark(key(Kind::Group, "g"), 0)]] {
        moves(Kind::Inbox, marks).expect_err("malformed");
    }
    let good = SetConversation {
        timeline: key(Kind::Inbox, "alice"),
        conversation: key(Kind::Group, "g"),
        draft: Some("x".repeat(4096)),
        notify: Some(3),
        new_epoch: 1,
        ..SetConversation::default()
    };
    let set = |op| timeline(TimelineOp::SetConversation(op));
    assert_eq!(set(good.clone()), Ok(()));
    let wrong = [
        SetConversation { timeline: key(Kind::Group, "alice"), ..good.clone() },
        SetConversation { conversation: None, ..good.clone() },
        SetConversation { draft: Some("x".repeat(4097)), ..good.clone() },
        SetConversation { notify: Some(4), ..good.clone() },
        SetConversation { new_epoch: 0, ..good.clone() },
        SetConversation { draft: None, notify: None, ..good.clone() },
        SetConversation { answer: 3, ..good.clone() },
        SetConversation { answer: RequestAnswer::Accept.into(), ..good.clone() },
    ];
    wrong.into_iter().for_each(|op| drop(set(op).expect_err("malformed")));
    let with_bob = SetConversation { conversation: key(Kind::Inbox, "bob"), draft: None, notify: None, ..good.clone() };
    set(with_bob.clone()).expect_err("nothing is to be set");
    assert_eq!(set(SetConversation { answer: RequestAnswer::Decline.into(), ..with_bob }), Ok(()));
    let bobs = SetConversation { timeline: key(Kind::Inbox, "bob"), ..good };
    assert_eq!(set(bobs).expect_err("bob's shard").0, Reason::WrongShard);
    let seen = SeenConversation { conversation: key(Kind::Inbox, "bob"), ..SeenConversation::default() };
    let sweep = |rows| timeline(TimelineOp::SweepConversations(SweepConversations { rows }));
    assert_eq!(sweep(vec![seen.clone(); 256]), Ok(()));
    sweep(vec![seen; 257]).expect_err("too many");
}

#[test]
fn malformed_accounts_are_refused() {
    let shard = alices(ShardKind::Directory);
    let put = |user: &str, scram| {
        let account = Some(Account { user: user.into(), scram, created_ms: 1, ..Account::default() });
        DirectoryOp::PutAccount(PutAccount { account, mode: Mode::Create.into(), ..PutAccount::default() })
    };
    let scram = ScramCredentials {
        salt: vec![1; 16].into(),
        iterations: 4096,
        stored_key: vec![2; 32].into(),
        server_key: vec![3; 32].into(),
    };
    assert_eq!(directory(shard, put("alice", None)), Ok(()));
    assert_eq!(directory(shard, put("alice", Some(scram.clone()))), Ok(()));
    let short = ScramCredentials { stored_key: vec![2; 31].into(), ..scram };
    assert!(directory(shard, put("alice", Some(short))).is_err());
    assert!(directory(shard, put("ALICE", None)).is_err());
    assert_eq!(directory(shard, put("bob", None)).expect_err("bob's shard").0, Reason::WrongShard);
}

#[test]
fn malformed_endings_are_refused() {
    let end = |incarnation| TimelineOp::EndTimeline(EndTimeline { timeline: key(Kind::Inbox, "alice"), incarnation });
    assert_eq!(timeline(end(1)), Ok(()));
    timeline(end(0)).expect_err("every timeline has at least incarnation 0");
    let end =
        |sender: &str, generation| timeline(TimelineOp::EndSender(EndSender { sender: sender.into(), generation }));
    assert_eq!(end("bob", 1), Ok(()), "in every shard");
    for (sender, generation) in [("bob", 0), ("Bob", 1), ("", 1)] {
        end(sender, generation).expect_err("malformed");
    }
    let collect = |limit| TimelineOp::CollectGarbage(CollectGarbage { number: 1, limit });
    assert_eq!(timeline(collect(COLLECTED_KEYS)), Ok(()));
    assert!(timeline(collect(0)).is_err() && timeline(collect(COLLECTED_KEYS + 1)).is_err());
}

#[test]
fn malformed_revocations_are_refused() {
    let revoke = |before_ms, id: &str, time_ms| {
        let (user, id) = ("alice".into(), id.into());
        let op = RevokeTokens { user, before_ms, id, expires_ms: 0, time_ms };
        directory(alices(ShardKind::Directory), DirectoryOp::RevokeTokens(op))
    };
    assert_eq!(revoke(1, "", 1), Ok(()));
    assert_eq!(revoke(0, &"x".repeat(MAX_TOKEN_ID_BYTES), 1), Ok(()));
    for (before_ms, id, time_ms) in [(0, "", 1), (1, "", 0), (0, &*"x".repeat(MAX_TOKEN_ID_BYTES + 1), 1)] {
        revoke(before_ms, id, time_ms).expect_err("malformed");
    }
}

#[test]
fn the_registry_is_in_the_first_directory_shard_only() {
    let advance = || DirectoryOp::AdvanceLeaseClock(AdvanceLeaseClock { elapsed_ms: 1 });
    assert_eq!(directory(ShardId::REGISTRY, advance()), Ok(()));
    let elsewhere = directory(alices(ShardKind::Directory), advance()).expect_err("refused");
    assert_eq!(elsewhere.0, Reason::WrongShard);
}

#[test]
fn malformed_registrations_are_refused() {
    let node = RegisterNode {
        kind: NodeKind::Router.into(),
        address: "router-0:7402".into(),
        ttl_ms: 3000,
        nonce: vec![1; 16].into(),
    };
    let check = |node: &RegisterNode| directory(ShardId::REGISTRY, DirectoryOp::RegisterNode(node.clone()));
    assert_eq!(check(&node), Ok(()));
    let wrong = [
        RegisterNode { kind: NodeKind::Storage.into(), ..node.clone() },
        RegisterNode { kind: 99, ..node.clone() },
        RegisterNode { address: String::new(), ..node.clone() },
        RegisterNode { address: "a b".into(), ..node.clone() },
        RegisterNode { ttl_ms: 0, ..node.clone() },
        RegisterNode { nonce: vec![1; 8].into(), ..node.clone() },
    ];
    for node in wrong {
        assert!(check(&node).is_err(), "{node:?}");
    }
}
