//! Files: where their rows are, and what callers hear.

use carillon_proto::{
    MediaId,
    pb::{
        link::{CompleteMedia, CreateMedia, ReadMedia, router_reply::Result as Reply},
        store::{Domain, MediaRead, MediaRow, Person},
    },
};

use super::play::*;

fn create(tail: &[u8]) -> Op {
    Op::CreateMedia(Box::new(CreateMedia {
        user: "alice".to_owned(),
        incarnation: 64,
        generation: 3,
        tail: Bytes::copy_from_slice(tail),
        size_bytes: 10,
        media_type: "image/png".to_owned(),
        name: "cat.png".to_owned(),
        most_bytes: 100,
        most_files: 5,
    }))
}

fn play() -> Play {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play
}

#[test]
fn a_file_is_in_the_shard_of_its_owners_inbox_which_its_id_names() {
    let mut play = play();
    let alice = TimelineId::Inbox(UserId::new("alice").expect("valid"));
    let effects = play.request(create(&[7; 14]));
    let [Did::Media(token, shard, op)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*shard, play.owner.topology.shards.timeline_of(&alice));
    let timeline_command::Op::CreateMedia(op) = &**op else { panic!("{op:?}") };
    let id = MediaId::new(shard.index, [7; 14]);
    assert_eq!(&op.id[..], id.as_bytes());
    assert_eq!((op.incarnation, op.sender_generation, op.most_bytes, op.most_files), (64, 3, 100, 5));
    let answer = play.answer(*token, StoreAnswer::Done(Done {}));
    let [Did::Answer(1, Reply::MediaCreated(created))] = &answer[..] else { panic!("{answer:?}") };
    assert_eq!(created.shard, u32::from(shard.index));

    let id = Bytes::copy_from_slice(id.as_bytes());
    let complete = CompleteMedia {
        user: "alice".into(),
        incarnation: 64,
        id: id.clone(),
        media_type: "image/gif".into(),
        sha256: vec![5; 32].into(),
        size_bytes: 9,
    };
    let effects = play.request(Op::CompleteMedia(complete));
    let [Did::Media(token, at, op)] = &effects[..] else { panic!("{effects:?}") };
    let timeline_command::Op::CompleteMedia(op) = &**op else { panic!("{op:?}") };
    assert_eq!((at, op.owner.as_ref().map(|owner| owner.incarnation), &*op.media_type), (shard, Some(64), "image/gif"));
    assert_eq!((&op.sha256[..], op.size_bytes), (&[5; 32][..], 9));
    assert!(matches!(play.answer(*token, StoreAnswer::Done(Done {}))[..], [Did::Answer(2, Reply::Done(_))]));

    let effects = play.request(Op::ReadMedia(ReadMedia { user: "alice".into(), id }));
    let [Did::ReadMedia(token, at, _)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(at, shard);
    let owner = Some(Person { user: "alice".to_owned(), incarnation: 64 });
    let row = Some(MediaRow { owner, size_bytes: 10, ..MediaRow::default() });
    let answer = play.answer(*token, StoreAnswer::MediaRead(MediaRead { row }));
    let [Did::Answer(3, Reply::MediaRead(read))] = &answer[..] else { panic!("{answer:?}") };
    assert_eq!(read.row.as_ref().map(|row| row.size_bytes), Some(10));
}

#[test]
fn a_file_stays_in_the_domains_that_its_owners_domain_talks_to_whoever_knows_its_reference() {
    let mut play = play();
    let crosses_to = vec!["b.example".to_owned()];
    play.decides(vec![Domain { name: "a.example".to_owned(), crosses_to, ..Domain::default() }]);
    let mut read = |user: &str| {
        let id = Bytes::copy_from_slice(MediaId::new(0, [1; 14]).as_bytes());
        let effects = play.request(Op::ReadMedia(ReadMedia { user: user.into(), id }));
        let [Did::ReadMedia(token, ..)] = effects[..] else { panic!("{effects:?}") };
        let owner = Some(Person { user: "ann@a.example".to_owned(), incarnation: 64 });
        let mut answer = play
            .answer(token, StoreAnswer::MediaRead(MediaRead { row: Some(MediaRow { owner, ..MediaRow::default() }) }));
        answer.remove(0)
    };
    for user in ["bob@a.example", "bob@b.example"] {
        assert!(matches!(read(user), Did::Answer(_, Reply::MediaRead(_))), "{user}");
    }
    for user in ["bob", "bob@c.example"] {
        assert_eq!(refusal(&read(user)).code(), client::Code::NotFound, "{user}");
    }
}

#[test]
fn what_names_no_file_is_refused_and_asks_no_shard() {
    let mut play = play();
    let elsewhere = Bytes::copy_from_slice(MediaId::new(u16::MAX, [1; 14]).as_bytes());
    for op in [
        create(&[7; 13]),
        Op::ReadMedia(ReadMedia { user: "alice".into(), id: elsewhere.clone() }),
        Op::ReadMedia(ReadMedia { user: "alice".into(), id: Bytes::from_static(&[0; 15]) }),
        Op::CompleteMedia(CompleteMedia { user: "alice".into(), id: elsewhere, ..CompleteMedia::default() }),
    ] {
        let effects = play.request(op);
        assert_eq!(effects.len(), 1, "{effects:?}");
        assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid);
    }
}

#[test]
fn below_level_7_there_are_no_files() {
    let effects = Play::new().request(create(&[7; 14]));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Unsupported);
}

#[test]
fn while_too_much_waits_to_be_removed_a_file_is_made_whole_later() {
    let mut play = play();
    let id = Bytes::copy_from_slice(MediaId::new(0, [1; 14]).as_bytes());
    let complete = CompleteMedia { user: "alice".into(), id, ..CompleteMedia::default() };
    let effects = play.request(Op::CompleteMedia(complete));
    let [Did::Media(token, ..)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(token, StoreFailure::NoRoom { detail: "too many files wait".to_owned() });
    let refusal = refusal(&effects[0]);
    assert_eq!((refusal.code(), refusal.retry), (client::Code::Overloaded, true));
}

#[test]
fn a_user_who_has_too_much_is_told_so() {
    let mut play = play();
    let effects = play.request(create(&[7; 14]));
    let [Did::Media(token, ..)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(token, StoreFailure::NoRoom { detail: "the user has 5 files".to_owned() });
    let refusal = refusal(&effects[0]);
    assert_eq!((refusal.code(), refusal.retry), (client::Code::TooLarge, false));
    assert!(refusal.reason.contains("5 files"), "{refusal:?}");
}
