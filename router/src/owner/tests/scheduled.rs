//! Scheduled messages: where they are kept, and who is told.

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey,
    pb::{
        client::Code,
        link::{
            ChangeScheduled, ReadScheduled, Schedule, ScheduledNews, router_reply::Result as Reply, signaled::Notice,
        },
        store::{
            CancelScheduled, Person, ScheduledChanged, ScheduledRead, SendScheduledNow, TimelineKey,
            change_scheduled::Change, timeline_key::Kind,
        },
    },
};

use super::play::*;
use crate::said::Said;

fn schedule(to: &str) -> Op {
    let to = TimelineKey { kind: Kind::Inbox.into(), owner: to.to_owned().into() };
    let schedule = store::Schedule {
        incarnation: 0,
        sender_generation: 3,
        device: "phone".into(),
        client_id: "c".into(),
        to: Some(to),
        content: Bytes::from_static(b"content"),
        at_ms: 7,
        ..store::Schedule::default()
    };
    Op::Schedule(Box::new(Schedule { user: "alice".into(), schedule: Some(schedule) }))
}

fn change(change: Change) -> Op {
    let change = store::ChangeScheduled { incarnation: 0, id: 5, change: Some(change), ..Default::default() };
    Op::ChangeScheduled(ChangeScheduled { user: "alice".into(), change: Some(change) })
}

/// The effects when the recipient was read.
fn schedules(play: &mut Play, op: Op) -> Vec<Did> {
    let effects = play.request(op);
    let [Did::ReadUser(token, user)] = &effects[..] else { panic!("{effects:?}") };
    let found = found(user, &[]);
    play.answer(*token, found)
}

fn play() -> Play {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play
}

fn changed(changed: bool) -> StoreAnswer {
    StoreAnswer::ScheduledChanged(ScheduledChanged { version: 9, id: 5, changed, failed: false })
}

fn news(failed: bool) -> ScheduledNews {
    let user = Some(Person { user: "alice".into(), incarnation: 0 });
    ScheduledNews { user, version: 9, id: 5, failed }
}

#[test]
fn it_is_kept_in_the_shard_of_its_users_inbox_under_the_key_that_the_message_will_have() {
    let mut play = play();
    let inbox = TimelineId::Inbox(UserId::new("alice").expect("valid"));
    let effects = schedules(&mut play, schedule("bob"));
    let [Did::Scheduled(token, shard, op)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*shard, play.owner.topology.shards.timeline_of(&inbox));
    let timeline_command::Op::Schedule(op) = &**op else { panic!("{op:?}") };
    assert_eq!(op.timeline.as_ref(), Some(&inbox.to_key()));
    let (device, id) = (DeviceId::new("phone").expect("valid"), ClientId::new("c").expect("valid"));
    let key = DuplicateKey::new(&UserId::new("alice").expect("valid"), &device, &id);
    assert_eq!(op.duplicate_key, key.0.to_vec());
    assert!(op.new_epoch != 0);
    let answer = play.answer(*token, changed(true));
    assert!(matches!(&answer[..], [Did::Answer(1, Reply::ScheduledChanged(changed))] if changed.id == 5), "{answer:?}");
}

#[test]
fn all_devices_of_the_user_hear_of_a_change_and_nobody_of_a_repeat() {
    let mut play = play();
    play.knows("alice", &[session("alice", "phone", 10, 1)]);
    for (op, is_change) in
        [(schedule("alice"), true), (change(Change::Cancel(CancelScheduled {})), true), (schedule("alice"), false)]
    {
        let effects = play.request(op);
        let [Did::Scheduled(token, ..)] = &effects[..] else { panic!("{effects:?}") };
        let told = play.answer(*token, changed(is_change));
        let notices: Vec<_> = told.iter().filter(|did| matches!(did, Did::Notice(..))).collect();
        let expected = Did::Notice(10, vec![1], Notice::ScheduledNews(news(false)));
        assert_eq!(notices, if is_change { vec![&expected] } else { vec![] });
    }
    play.owner.said(Said::Scheduled(news(true)), play.now, 0);
    assert_eq!(play.effects(), [Did::Notice(10, vec![1], Notice::ScheduledNews(news(true)))]);
    // Of an earlier owner of the name.
    let user = Some(Person { user: "alice".into(), incarnation: 63 });
    play.owner.said(Said::Scheduled(ScheduledNews { user, ..news(true) }), play.now, 0);
    assert_eq!(play.effects(), []);
}

#[test]
fn it_is_for_the_account_that_has_the_name_when_it_is_scheduled() {
    let mut play = play();
    let kept_for = |effects: &[Did]| {
        let [Did::Scheduled(_, _, op)] = effects else { panic!("{effects:?}") };
        let timeline_command::Op::Schedule(op) = &**op else { panic!("{op:?}") };
        op.to_incarnation
    };
    // What this router has known of bob before is not asked.
    play.knows("bob", &[]);
    for (account, expected) in [
        (found_as(64, Account::default(), &[]), Some(64)),
        (found("bob", &[]), Some(0)),
        (StoreAnswer::User(store::User::default()), None),
    ] {
        let effects = play.request(schedule("bob"));
        let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
        let effects = play.answer(token, account);
        assert_eq!(kept_for(&effects), expected);
    }
    let effects = play.request(schedule("bob"));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, found_as(64, Account { deleted: true, ..Account::default() }, &[]));
    assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (Code::NotFound, false), "it has ended");

    assert_eq!(kept_for(&play.request(schedule("alice"))), Some(0), "to oneself");
    let Op::Schedule(mut to_group) = schedule("club") else { unreachable!("as above") };
    let club = TimelineKey { kind: Kind::Group.into(), owner: "club".to_owned().into() };
    to_group.schedule.as_mut().expect("set").to = Some(club);
    let effects = play.request(Op::Schedule(to_group.clone()));
    let [Did::ReadGroup(token, _)] = effects[..] else { panic!("{effects:?}") };
    let group = StoreAnswer::GroupRead(store::GroupRead { incarnation: 5, ..Default::default() });
    assert_eq!(kept_for(&play.answer(token, group)), Some(5));
    let effects = play.request(Op::Schedule(to_group));
    let [Did::ReadGroup(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(token, StoreFailure::NotFound { detail: "there is no such group".into() });
    assert_eq!(kept_for(&effects), None, "its time decides");
}

#[test]
fn it_does_not_reach_the_next_owner_of_the_name() {
    let mut play = play();
    let to_bob = |wanted, id: &str| {
        let Op::Send(send) = send("bob", id) else { unreachable!("a message") };
        Op::Send(Send { to_incarnation: Some(wanted), ..send })
    };
    // This router knows the former account still.
    play.knows("bob", &[]);
    let effects = play.request(to_bob(64, "1"));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, found_as(64, Account::default(), &[]));
    assert_eq!(one_append(effects).owner, "bob");
    // The account ends while another message is on its way, and the name has another owner.
    let appending = one_append(play.request(to_bob(64, "2")));
    let effects = gone(&mut play, appending.token);
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, found_as(128, Account::default(), &[]));
    let why = refusal(&effects[0]);
    assert_eq!((why.code(), why.retry), (Code::NotFound, false));
    assert_eq!(why.reason, "the account of bob for which the message was scheduled has ended");
    let effects = play.request(to_bob(64, "3"));
    assert_eq!(refusal(&effects[0]).code(), Code::NotFound);
    assert_eq!(one_append(play.request(to_bob(128, "4"))).owner, "bob");
    assert_eq!(one_append(play.request(send("bob", "5"))).owner, "bob", "what is said now is for whoever has the name");
}

#[test]
fn what_is_not_understood_or_has_no_room_is_refused() {
    let mut play = play();
    let nothing = Op::Schedule(Box::new(Schedule { user: "alice".into(), schedule: Some(store::Schedule::default()) }));
    let effects = play.request(nothing);
    assert_eq!(refusal(&effects[0]).code(), Code::Invalid);
    let effects = play.request(change(Change::Now(SendScheduledNow { time_ms: 7 })));
    let [Did::Scheduled(token, ..)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(*token, StoreFailure::NoRoom { detail: "full".into() });
    assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (Code::Overloaded, true));
    let effects = play.request(change(Change::Cancel(CancelScheduled {})));
    let [Did::Scheduled(token, ..)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(*token, StoreFailure::NotFound { detail: "it is being sent".into() });
    assert_eq!((refusal(&effects[0]).code(), refusal(&effects[0]).retry), (Code::NotFound, false));
}

#[test]
fn the_list_is_read_from_the_store() {
    let mut play = play();
    let read = store::ReadScheduled { incarnation: 64, after: 3, ..Default::default() };
    let effects = play.request(Op::ReadScheduled(ReadScheduled { user: "alice".into(), read: Some(read) }));
    let [Did::ReadScheduled(token, read)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((read.incarnation, read.after), (64, 3));
    let answer = play.answer(*token, StoreAnswer::ScheduledRead(ScheduledRead { version: 9, ..Default::default() }));
    assert!(matches!(&answer[..], [Did::Answer(1, Reply::ScheduledRead(read))] if read.version == 9), "{answer:?}");
}
