//! Reports: which messages are read, which are kept, and which are no reason for one.

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, MediaReference,
    limits::REPORT_BYTES,
    pb::{
        client::{Code, Content, Edit, Envelope, Media, MessageState, Recipient, Text, content, recipient::To},
        link::{Report, router_reply::Result as Reply},
        store::{Person, ReportPlace, ReportPut, ReportReason, StoredEntry, TimelineKey, TimelineRead},
    },
};

use super::play::*;

fn report(conversation: TimelineKey, seqs: &[u64]) -> Report {
    Report {
        user: "alice".into(),
        incarnation: 0,
        generation: 3,
        device: "phone".into(),
        client_id: "r".into(),
        conversation: Some(conversation),
        seqs: seqs.to_vec(),
        reason: ReportReason::Abuse.into(),
        text: "look".into(),
    }
}

fn key(kind: Kind, owner: &str) -> TimelineKey {
    TimelineKey { kind: kind.into(), owner: owner.to_owned().into() }
}

fn of_bob(seqs: &[u64]) -> Op {
    Op::Report(Box::new(report(key(Kind::Inbox, "bob"), seqs)))
}

fn play() -> Play {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play
}

fn envelope(sender: &str, to: To, text: &str) -> Envelope {
    Envelope {
        sender: sender.into(),
        to: Some(Recipient { to: Some(to) }),
        content: Some(Content { body: Some(content::Body::Text(Text { body: text.into() })), ..Content::default() }),
        ..Envelope::default()
    }
}

/// A message between these users.
fn entry(seq: u64, sender: &str, to: &str, text: &str) -> StoredEntry {
    let envelope = envelope(sender, To::User(to.into()), text).encode_to_vec().into();
    StoredEntry { seq, envelope, state: Bytes::from_static(b"state") }
}

fn read(entries: Vec<StoredEntry>) -> StoreAnswer {
    StoreAnswer::TimelineRead(TimelineRead { entries, ..TimelineRead::default() })
}

/// The read that comes of it.
fn asks(effects: &[Did]) -> (u64, ShardId, &store::ReadTimeline) {
    match effects {
        [Did::ReadReported(token, shard, read)] => (*token, *shard, read),
        other => panic!("{other:?}"),
    }
}

fn puts(effects: &[Did]) -> (u64, &store::PutReport) {
    match effects {
        [Did::PutReport(token, _, put)] => (*token, put),
        other => panic!("{other:?}"),
    }
}

fn seqs(put: &store::PutReport) -> Vec<(u64, bool, bool)> {
    let messages = &put.evidence.as_ref().expect("some").messages;
    messages.iter().map(|message| (message.seq, message.reported, message.cut)).collect()
}

#[test]
fn messages_are_read_from_the_inbox_of_their_reporter_and_kept_with_those_around_them() {
    let mut play = play();
    let inbox = TimelineId::Inbox(UserId::new("alice").expect("valid"));
    let shard = play.owner.topology.shards.timeline_of(&inbox);
    let effects = play.request(of_bob(&[200, 50, 50]));
    let (token, at, first) = asks(&effects);
    assert_eq!((at, first.timeline.as_ref(), first.reader.as_ref()), (shard, Some(&inbox.to_key()), None));
    assert_eq!((first.from_seq, first.limit, first.incarnation), (10, 81, 0));
    // Bob and alice take turns; others write to her, too.
    let near = (10..=90).map(|seq| match seq % 3 {
        0 => entry(seq, "alice", "bob", "mine"),
        2 => entry(seq, "bob", "alice", "his"),
        _ => entry(seq, "carol", "alice", "hers"),
    });
    let effects = play.answer(token, read(near.collect()));
    let (token, _, next) = asks(&effects);
    assert_eq!((next.from_seq, next.limit), (200, 1));
    let effects = play.answer(token, read(vec![entry(200, "bob", "alice", "his")]));
    let (token, put) = puts(&effects);
    let around: Vec<_> =
        [42, 44, 45, 47, 48, 50, 51, 53, 54, 56, 57, 200].map(|seq| (seq, seq == 50 || seq == 200, false)).to_vec();
    assert_eq!(seqs(put), around);
    assert_eq!(
        (put.timeline.as_ref(), put.conversation.as_ref()),
        (Some(&inbox.to_key()), Some(&key(Kind::Inbox, "bob")))
    );
    assert_eq!((put.incarnation, put.sender_generation, put.time_ms), (0, 3, 1_000));
    assert_eq!((put.reason(), &*put.text, &put.authors[..]), (ReportReason::Abuse, "look", &["bob".to_owned()][..]));
    let (device, id) = (DeviceId::new("phone").expect("valid"), ClientId::new("r").expect("valid"));
    assert_eq!(put.key, DuplicateKey::new(&UserId::new("alice").expect("valid"), &device, &id).0.to_vec());
    let message = put.evidence.as_ref().expect("some").messages[5].clone();
    assert_eq!((&message.envelope, &message.state[..]), (&entry(50, "bob", "alice", "his").envelope, &b"state"[..]));
    let done = StoreAnswer::ReportPut(ReportPut { place: Some(ReportPlace::default()), changed: true });
    let answer = play.answer(token, done);
    assert!(matches!(&answer[..], [Did::Answer(1, Reply::Done(_))]), "nobody else hears of it: {answer:?}");
}

#[test]
fn a_report_names_the_files_of_its_messages_and_of_their_edits_each_once() {
    let mut play = play();
    let reference = |number: u8| MediaReference::from_bytes(&[number; MediaReference::BYTES]).expect("valid");
    let file = |number: u8| {
        let media = Media { id: reference(number).to_bytes().to_vec().into(), ..Media::default() };
        Content { body: Some(content::Body::File(media)), ..Content::default() }
    };
    let entry = |seq, number, edited: Option<u8>| {
        let said = Envelope { content: Some(file(number)), ..envelope("bob", To::User("alice".into()), "") };
        let edit = edited.map(|number| {
            let edit = Edit { content: Some(Box::new(file(number))), ..Edit::default() };
            let content = Content { body: Some(content::Body::Edit(Box::new(edit))), ..Content::default() };
            Envelope { content: Some(content), ..Envelope::default() }
        });
        let state = MessageState { edits: edit.is_some().into(), edit, ..MessageState::default() };
        StoredEntry { seq, envelope: said.encode_to_vec().into(), state: state.encode_to_vec().into() }
    };
    let effects = play.request(of_bob(&[2]));
    let (token, ..) = asks(&effects);
    let effects = play.answer(token, read(vec![entry(1, 9, None), entry(2, 4, Some(7)), entry(3, 9, Some(4))]));
    let (_, put) = puts(&effects);
    let mut ids = [4, 7, 9].map(|number| reference(number).id().as_bytes().to_vec());
    ids.sort_unstable();
    assert_eq!(put.media, ids);
}

#[test]
fn messages_of_a_group_are_read_as_this_member_reads_them() {
    let mut play = play();
    let group = TimelineId::Group(GroupId::new("g").expect("valid"));
    let mut report = report(group.to_key(), &[3]);
    report.incarnation = 64;
    let effects = play.request(Op::Report(Box::new(report.clone())));
    let (token, shard, asked) = asks(&effects);
    assert_eq!(shard, play.owner.topology.shards.timeline_of(&group));
    assert_eq!((asked.timeline.as_ref(), asked.from_seq, asked.limit), (Some(&group.to_key()), 1, 11));
    assert_eq!(asked.reader, Some(Person { user: "alice".into(), incarnation: 64 }));
    let said = |seq, sender: &str| {
        let envelope = envelope(sender, To::Group("g".into()), "hello").encode_to_vec().into();
        StoredEntry { seq, envelope, state: Bytes::new() }
    };
    let effects = play.answer(token, read(vec![said(1, "alice"), said(2, "carol"), said(3, "bob"), said(4, "alice")]));
    let (_, put) = puts(&effects);
    assert_eq!(seqs(put), [(1, false, false), (2, false, false), (3, true, false), (4, false, false)]);
    assert_eq!(put.authors, ["bob"], "who stands by has not written what is reported");

    // The store refuses who is no member, or was banned.
    for (failure, code) in [
        (StoreFailure::Forbidden { detail: "banned".into() }, Code::Forbidden),
        (StoreFailure::NotFound { detail: "no such group".into() }, Code::NotFound),
    ] {
        let effects = play.request(Op::Report(Box::new(report.clone())));
        let effects = play.fails(asks(&effects).0, failure);
        assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (code, false));
    }
}

/// The first words were harmless, and so are the last ones.
#[test]
fn what_a_message_said_between_its_edits_is_kept() {
    let mut play = play();
    let effects = play.request(of_bob(&[7]));
    let state = client::MessageState { edits: 2, ..Default::default() }.encode_to_vec().into();
    let edited = StoredEntry { state, ..entry(7, "bob", "alice", "hello") };
    let others = [entry(8, "alice", "bob", "what?"), entry(9, "bob", "alice", "the worst")];
    let all = [vec![edited.clone()], others.to_vec()].concat();
    let effects = play.answer(asks(&effects).0, read(all));
    let (token, _, asked) = asks(&effects);
    assert_eq!(asked.edits_of, 7);
    let edits = [entry(9, "bob", "alice", "the worst"), entry(12, "bob", "alice", "hello")];
    let effects = play.answer(token, read([vec![edited], edits.to_vec()].concat()));
    let (_, put) = puts(&effects);
    assert_eq!(seqs(put), [(7, true, false), (8, false, false), (9, false, false), (12, false, false)]);
    let said = &put.evidence.as_ref().expect("some").messages[2].envelope;
    assert_eq!(*said, entry(9, "bob", "alice", "the worst").envelope);
}

#[test]
fn what_is_not_of_the_conversation_is_not_there() {
    // Of somebody else; before the own beginning; nothing at all.
    for found in [
        vec![entry(7, "carol", "alice", "hers")],
        vec![entry(9, "bob", "alice", "a later one")],
        vec![StoredEntry { seq: 7, envelope: Bytes::from_static(b"\xff"), state: Bytes::new() }],
        vec![],
    ] {
        let mut play = play();
        let effects = play.request(of_bob(&[7]));
        let effects = play.answer(asks(&effects).0, read(found.clone()));
        let (token, _, asked) = asks(&effects);
        assert_eq!((asked.from_seq, asked.limit), (7, 1));
        let effects = play.answer(token, read(found));
        assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (Code::NotFound, false));
    }
}

#[test]
fn nobody_reports_itself() {
    let mut play = play();
    let effects = play.request(of_bob(&[7]));
    let effects = play.answer(asks(&effects).0, read(vec![entry(7, "alice", "bob", "mine")]));
    assert_eq!(refusal(&effects[0]).code(), Code::Invalid);
}

#[test]
fn what_is_no_report_is_refused_before_anything_is_read() {
    let good = report(key(Kind::Inbox, "bob"), &[7]);
    for wrong in [
        Report { conversation: None, ..good.clone() },
        Report { conversation: Some(key(Kind::Unspecified, "bob")), ..good.clone() },
        Report { seqs: vec![], ..good.clone() },
        Report { seqs: vec![0], ..good.clone() },
        Report { seqs: (1..12).collect(), ..good.clone() },
        Report { reason: 0, ..good.clone() },
        Report { reason: 9, ..good.clone() },
        Report { text: "x".repeat(1001), ..good.clone() },
        Report { client_id: String::new(), ..good.clone() },
        Report { device: String::new(), ..good.clone() },
    ] {
        let effects = play().request(Op::Report(Box::new(wrong.clone())));
        assert_eq!(refusal(&effects[0]).code(), Code::Invalid, "{wrong:?}");
    }
    let effects = Play::new().request(Op::Report(Box::new(good)));
    assert_eq!(refusal(&effects[0]).code(), Code::Unsupported, "below the level of groups");
}

#[test]
fn a_large_report_loses_what_stands_around_it_and_then_what_its_last_messages_say() {
    let long = "x".repeat(100 * 1024);
    let mut play = play();
    let effects = play.request(of_bob(&[2, 3, 4]));
    let entries = [
        entry(1, "bob", "alice", &long),
        entry(2, "bob", "alice", &long),
        entry(3, "bob", "alice", &long),
        entry(4, "bob", "alice", &long),
        entry(5, "bob", "alice", "short"),
    ];
    let effects = play.answer(asks(&effects).0, read(entries.to_vec()));
    let (_, put) = puts(&effects);
    assert_eq!(seqs(put), [(2, true, false), (3, true, false), (4, true, true), (5, false, false)]);
    let messages = &put.evidence.as_ref().expect("some").messages;
    let bytes: usize = messages.iter().map(|message| message.envelope.len() + message.state.len()).sum();
    assert!(bytes <= REPORT_BYTES);
    let last = Envelope::decode(messages[2].envelope.clone()).expect("an envelope");
    assert_eq!((&*last.sender, last.content), ("bob", None));

    // However long they are, there is an answer.
    let huge = "x".repeat(1024 * 1024);
    let effects = play.request(of_bob(&(1..=10).collect::<Vec<_>>()));
    let entries = (1..=10).map(|seq| entry(seq, "bob", "alice", &huge)).collect();
    let effects = play.answer(asks(&effects).0, read(entries));
    let (_, put) = puts(&effects);
    assert!(seqs(put).iter().all(|(_, reported, cut)| *reported && *cut));
}

#[test]
fn too_many_reports_are_refused_for_good() {
    let mut play = play();
    let effects = play.request(of_bob(&[7]));
    let effects = play.answer(asks(&effects).0, read(vec![entry(7, "bob", "alice", "his")]));
    let effects = play.fails(puts(&effects).0, StoreFailure::NoRoom { detail: "20 are open".into() });
    assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (Code::RateLimited, false));
}

#[test]
fn a_group_of_a_domain_that_does_not_talk_to_the_reporters_is_not_read_for_a_report() {
    let mut play = play();
    let of = |group: &str| Op::Report(Box::new(report(key(Kind::Group, group), &[3])));
    let effects = play.request(of("g@a.example"));
    assert_eq!(refusal(&effects[0]).code(), Code::Forbidden);
    let crosses_to = vec![String::new()];
    play.decides(vec![store::Domain { name: "a.example".to_owned(), crosses_to, ..store::Domain::default() }]);
    asks(&play.request(of("g@a.example")));
}
