//! One worker; the test is the store.

mod play;

use bytes::Bytes;
use carillon_proto::{
    DuplicateKey, GroupId, MediaId, ShardMap, TimelineId, UserId,
    pb::{
        client::{self, Envelope, group_change::What as Changed, members_change::Kind},
        store::{
            Appended, FindMediaHolders, LeaveGroups, MediaReleased, Member, MembersRead, OutboxRead, OutboxRow, Person,
            RemoveObjects, Role, ScheduledRow, SendScheduled, change_group, member::Standing, members_read,
            outbox_read, outbox_row::Task, scheduled_row::State, settle_outbox::Verdict,
        },
    },
};
use prost::Message as _;
use tokio::time::Duration;

use self::play::{
    Ask, NOW_MS, Play, SHARD, appended, done, full, gone, group, joins, late, not_found, person, repeated, tell,
    user_of,
};
use super::{collection::AboutHolders, removals::Removed};
use crate::store::{StoreAnswer, StoreFailure};

#[test]
fn what_a_crash_left_out_is_done_told_and_settled() {
    let mut play = Play::new();
    play.rows(vec![tell(4, &[("bob", Standing::Member), ("carol", Standing::Banned)], false)]);
    assert_eq!((play.worker.lag_ms, play.worker.dead_letters), (700, 2));
    assert_eq!((play.worker.open_reports, play.worker.oldest_report_ms), (3, 9000));
    let (_, shard, _) = play.asked[0];
    let bob = TimelineId::Inbox(UserId::new("bob").expect("valid"));
    assert_eq!(shard, ShardMap { directory: 4, timeline: 8 }.timeline_of(&bob));
    let Ask::Tell(set) = play.answer(appended(30)) else { panic!("bob is told") };
    let append = set.append.expect("set");
    let membership = set.membership.expect("set");
    let friends = GroupId::new("friends").expect("valid");
    assert_eq!(*append.duplicate_key, DuplicateKey::of_membership(&friends, 5, 4).0);
    assert_eq!((append.incarnation, &*append.envelope, append.time_ms), (9, &b"envelope"[..], NOW_MS - 700));
    assert_eq!((&*append.sender, append.sender_generation), (&b""[..], 3), "of the session that has changed the group");
    assert_eq!((membership.incarnation, membership.seq), (5, 4));
    assert_eq!((membership.standing(), membership.role()), (Standing::Member, Role::Member));
    let [delivery] = &play.told[..] else { panic!("{:?}", play.told) };
    assert_eq!((&delivery.timeline, delivery.incarnation, delivery.position.seq), (&bob, 9, 30));
    // Carol was told by the router that carried out the change.
    assert_eq!(user_of(&play.answer(repeated())), "carol");
    assert_eq!(play.told.len(), 1);
    assert_eq!(play.settles(), [(4, Verdict::Done)]);
    assert_eq!((play.asks(), play.pause()), (vec![], Duration::from_secs(5)));
    play.next_pass();
    play.rows(vec![]);
    assert_eq!(play.worker.lag_ms, 0);
}

#[test]
fn users_are_told_side_by_side_and_each_in_order() {
    let mut play = Play::new();
    play.rows(vec![joins(4, "bob"), joins(5, "carol"), tell(6, &[("bob", Standing::Left)], false)]);
    let users: Vec<_> = play.asks().iter().map(user_of).map(str::to_owned).collect();
    assert_eq!(users, ["bob", "carol"]);
    assert_eq!(user_of(&play.answer(appended(1))), "bob");
    let Some(Ask::Tell(left)) = play.asks().pop() else { panic!("bob is told of the other") };
    assert_eq!(left.membership.expect("set").seq, 6);
    play.answer(appended(1));
    // A later change is there already.
    play.answer(done());
    assert_eq!(play.settles(), [(4, Verdict::Done), (5, Verdict::Done), (6, Verdict::Done)]);
}

#[test]
fn what_can_not_be_done_now_waits_with_all_that_comes_later_for_the_same_user() {
    let mut play = Play::new();
    let rows = || vec![joins(4, "bob"), joins(5, "carol"), tell(6, &[("bob", Standing::Left)], false)];
    play.rows(rows());
    play.answer(late());
    play.answer(appended(1));
    assert_eq!(play.settles(), [(5, Verdict::Done)]);
    assert!(play.pause() <= Duration::from_secs(1), "{:?}", play.pause());
    // News come before that.
    play.worker.nudge(play.now);
    play.go_on();
    play.rows(vec![rows().remove(0), rows().remove(2), joins(7, "dave"), joins(8, "bob")]);
    let [ask] = &play.asks()[..] else { panic!("{:?}", play.asks()) };
    assert_eq!(user_of(ask), "dave");
    play.answer(appended(1));
    assert_eq!(play.settles(), [(7, Verdict::Done)]);
    play.now += Duration::from_secs(3);
    play.go_on();
    play.rows(rows());
    assert_eq!(user_of(&play.asks()[0]), "bob", "the time has come");
}

#[test]
fn a_refusal_is_told_and_is_not_asked_for_again_at_once() {
    let mut play = Play::new();
    play.rows(vec![joins(4, "bob")]);
    play.answer(full());
    let Ask::Settle(rows) = play.answer(done()) else { panic!("it is settled") };
    assert_eq!((rows[0].verdict(), &*rows[0].why), (Verdict::Refused, "the user is in many groups"));
    play.worker.nudge(play.now);
    play.go_on();
    play.rows(vec![joins(4, "bob")]);
    assert_eq!(play.asks(), []);
    // Its envelope is gone.
    play.now += Duration::from_secs(60);
    play.go_on();
    play.rows(vec![outbox_read::Row { envelope: Bytes::new(), ..joins(5, "bob") }]);
    assert_eq!(play.settles(), [(5, Verdict::Refused)]);
}

#[test]
fn who_does_not_exist_any_more_leaves_the_group() {
    let mut play = Play::new();
    play.rows(vec![tell(4, &[("bob", Standing::Member), ("carol", Standing::Left)], false)]);
    assert_eq!(user_of(&play.answer(gone())), "bob");
    assert_eq!(user_of(&play.answer(gone())), "carol");
    play.time_ms += 40;
    let Ask::Change(leave) = play.answer(appended(12)) else { panic!("bob leaves") };
    let append = leave.append.expect("set");
    assert!(leave.by_operator && append.sender.is_empty());
    let (friends, bob) = (GroupId::new("friends").expect("valid"), UserId::new("bob").expect("valid"));
    assert_eq!(*append.duplicate_key, DuplicateKey::of_leaving(&friends, &bob, 9, 4).0);
    let Some(change_group::Change::Members(members)) = leave.change else { panic!("not members") };
    assert_eq!(members.users, [person("bob")]);
    let envelope = Envelope::decode(&*append.envelope).expect("decodes");
    let (kind, users) = (Kind::Left.into(), vec!["bob".into()]);
    let told = client::MembersChange { kind, users, account_ended: true, ..Default::default() };
    assert_eq!(envelope.change.and_then(|change| change.what), Some(Changed::Members(told)));
    assert_eq!((&*envelope.sender, envelope.time_ms), ("bob", NOW_MS));
    let [delivery] = &play.told[..] else { panic!("{:?}", play.told) };
    assert_eq!((&delivery.timeline, delivery.position.seq), (&TimelineId::Group(friends), 12));
    assert_eq!(delivery.envelope, append.envelope, "as it was sent, and not with a later time");
    assert_eq!(play.settles(), [(4, Verdict::Done)]);
}

#[test]
fn the_group_hears_who_is_its_owner_now_also_from_a_worker_that_repeats() {
    let mut play = Play::new();
    let leave = LeaveGroups { person: Some(person("bob")), groups: ["a", "b"].map(group).to_vec() };
    let row = OutboxRow { task: Some(Task::Leave(leave)), ..OutboxRow::default() };
    play.rows(vec![outbox_read::Row { index: 4, number: 1, row: Some(row), envelope: Bytes::new(), scheduled: None }]);
    let (first_envelope, heir_envelope) = (Bytes::from_static(b"bob left"), Bytes::from_static(b"role: carol"));
    let answer = |first_envelope: &Bytes| {
        let (heir_envelope, first_envelope) = (heir_envelope.clone(), first_envelope.clone());
        let appended = Appended { epoch: 7, seq: 12, first_envelope, heir_envelope, ..Appended::default() };
        Ok(StoreAnswer::Appended(appended))
    };
    play.answer(answer(&Bytes::new()));
    play.answer(answer(&first_envelope));
    let told: Vec<_> = play.told.iter().map(|told| (told.timeline.clone(), told.position.seq)).collect();
    let [a, b] = ["a", "b"].map(|group| TimelineId::Group(GroupId::new(group).expect("valid")));
    assert_eq!(told, [(a.clone(), 12), (a, 13), (b.clone(), 12), (b, 13)]);
    assert_eq!((&play.told[1].envelope, &play.told[3].envelope), (&heir_envelope, &heir_envelope));
    assert_eq!(play.told[2].envelope, first_envelope, "as it stands, and not as this worker would have said it");
    assert_eq!(play.settles(), [(4, Verdict::Done)]);
}

#[test]
fn an_ended_account_leaves_all_groups_at_once() {
    let mut play = Play::new();
    let leave = LeaveGroups { person: Some(person("bob")), groups: ["a", "b", "c"].map(group).to_vec() };
    let row = OutboxRow { task: Some(Task::Leave(leave)), ..OutboxRow::default() };
    play.rows(vec![outbox_read::Row { index: 4, number: 1, row: Some(row), envelope: Bytes::new(), scheduled: None }]);
    assert_eq!(play.asks().len(), 3);
    play.answer(appended(8));
    // It is no member any more, or there is no such group.
    play.answer(not_found());
    // The shard can't do it now.
    play.answer(late());
    assert_eq!(play.asks(), [], "nothing is settled");
    assert_eq!(play.told.len(), 1);
}

#[test]
fn everybody_in_a_deleted_group_is_told_in_pages_and_then_it_ends() {
    let mut play = Play::new();
    play.rows(vec![joins(4, "bob"), tell(5, &[("zoe", Standing::Left)], true), joins(6, "carol")]);
    assert_eq!(user_of(&play.answer(appended(1))), "bob");
    assert_eq!(play.settles(), [(4, Verdict::Done)]);
    assert_eq!(user_of(&play.answer(appended(1))), "zoe");
    let page = |users: &[(&str, Standing)], complete| {
        let row = |(user, standing): &(&str, Standing)| members_read::Row {
            user: (*user).to_owned(),
            member: Some(Member { incarnation: 9, standing: (*standing).into(), ..Member::default() }),
        };
        Ok(StoreAnswer::MembersRead(MembersRead { members: users.iter().map(row).collect(), complete }))
    };
    let first = [("a", Standing::Member), ("b", Standing::Banned), ("c", Standing::Invited)];
    let Ask::Members(read) = play.answer(page(&first, false)) else { panic!("members are read") };
    assert_eq!((read.deleted, read.others, &*read.after_user), (Some(5), true, ""));
    let told: Vec<_> = play.asks().iter().map(user_of).map(str::to_owned).collect();
    assert_eq!(told, ["a", "c"]);
    let Ask::Tell(set) = play.answer(appended(1)) else { panic!("a is told") };
    assert_eq!(set.membership.map(|row| (row.seq, row.standing())), Some((5, Standing::Left)));
    play.answer(gone());
    let Ask::Members(read) = play.answer(page(&[], true)) else { panic!("members are read") };
    assert_eq!(read.after_user, "c");
    let Ask::End(end) = play.answer(done()) else { panic!("it ends") };
    assert_eq!((end.timeline, end.incarnation), (Some(group("friends")), 6));
    assert_eq!(play.settles(), [(5, Verdict::Done)]);
    assert_eq!(user_of(&play.answer(appended(1))), "carol");
    assert_eq!(play.settles(), [(6, Verdict::Done)]);
}

#[test]
fn a_group_that_another_worker_has_ended_is_done_and_one_whose_members_are_not_told_does_not_end() {
    let mut play = Play::new();
    play.rows(vec![tell(5, &[], true)]);
    play.answer(not_found());
    assert_eq!(play.settles(), [(5, Verdict::Done)]);
    play.next_pass();
    play.rows(vec![tell(6, &[("zoe", Standing::Left)], true)]);
    play.answer(late());
    assert_eq!(play.asks(), []);
    play.next_pass();
    play.rows(vec![tell(6, &[], true)]);
    assert!(matches!(play.answer(late()), Ask::Members(_)));
    assert_eq!(play.asks(), []);
}

fn removes(index: u64, file: u8) -> outbox_read::Row {
    let ids = vec![MediaId::new(3, [file; 14]).as_bytes().to_vec().into()];
    let row =
        OutboxRow { task: Some(Task::RemoveObjects(RemoveObjects { ids, uploaded: false })), ..OutboxRow::default() };
    outbox_read::Row { index, row: Some(row), ..outbox_read::Row::default() }
}

#[test]
fn files_are_removed_beside_everything_else_and_their_row_is_settled_when_they_are_gone() {
    let mut play = Play::new();
    play.rows(vec![removes(5, 1), joins(6, "bob")]);
    let file = |number| vec![MediaId::new(3, [number; 14])];
    assert_eq!(play.removals, [((5, 0), file(1), Removed::All)]);
    // Nobody waits for the place where files are kept.
    play.answer(appended(1));
    assert_eq!(play.settles(), [(6, Verdict::Done)]);
    play.next_pass();
    play.rows(vec![removes(5, 1)]);
    assert_eq!(play.removals.len(), 1, "it is under way");
    play.worker.removed((5, 0), Ok(()), play.now);
    play.next_pass();
    play.rows(vec![removes(5, 1)]);
    assert_eq!(play.settles(), [(5, Verdict::Done)]);
    assert_eq!(play.removals.len(), 1);
}

#[test]
fn of_a_file_that_is_another_only_what_was_uploaded_is_removed() {
    let mut play = Play::new();
    let mut row = removes(5, 1);
    if let Some(Task::RemoveObjects(remove)) = row.row.as_mut().and_then(|row| row.task.as_mut()) {
        remove.uploaded = true;
    }
    play.rows(vec![row]);
    assert_eq!(play.removals, [((5, 0), vec![MediaId::new(3, [1; 14])], Removed::Uploaded)]);
}

#[test]
fn while_the_place_for_files_is_away_removals_are_tried_again_and_never_given_up() {
    let mut play = Play::new();
    play.rows(vec![removes(5, 1)]);
    for attempt in 1..20 {
        play.worker.removed((5, 0), Err("away".to_owned()), play.now);
        assert_eq!(play.removals.len(), attempt);
        while play.removals.len() == attempt {
            play.next_pass();
            play.rows(vec![removes(5, 1)]);
            assert_eq!(play.asks(), [], "nothing is settled");
        }
    }
}

#[test]
fn a_few_rows_have_their_files_removed_at_once() {
    let mut play = Play::new();
    let rows = || (1..=9).map(|index| removes(index, index as u8)).collect::<Vec<_>>();
    play.rows(rows());
    assert_eq!(play.removals.len(), 4);
    play.worker.removed((1, 0), Ok(()), play.now);
    play.next_pass();
    play.rows(rows());
    assert_eq!(play.settles(), [(1, Verdict::Done)]);
    assert_eq!(play.removals.len(), 5);
}

fn about_holders(index: u64, task: Task) -> outbox_read::Row {
    let row = OutboxRow { task: Some(task), ..OutboxRow::default() };
    outbox_read::Row { index, row: Some(row), ..outbox_read::Row::default() }
}

#[test]
fn shards_are_asked_and_told_about_files_beside_everything_else_and_as_long_as_it_takes() {
    let mut play = Play::new();
    let ids = vec![Bytes::from_static(&[1; 16])];
    let find = FindMediaHolders { ids: ids.clone(), check: 5 };
    let released = MediaReleased { ids };
    let (finds, tells) = (Task::FindMediaHolders(find.clone()), Task::MediaReleased(released.clone()));
    let rows = || vec![about_holders(5, finds.clone()), about_holders(6, tells.clone())];
    play.rows(rows().into_iter().chain([joins(7, "bob")]).collect());
    let expected = [((5, 0), AboutHolders::Find(find)), ((6, 0), AboutHolders::Released(released))];
    assert_eq!(play.collections, expected);
    play.answer(appended(1));
    assert_eq!(play.settles(), [(7, Verdict::Done)]);
    play.worker.collected((6, 0), Ok(()), play.now);
    play.next_pass();
    play.rows(rows());
    assert_eq!(play.settles(), [(6, Verdict::Done)]);
    for attempt in 2..20 {
        play.worker.collected((5, 0), Err(StoreFailure::Expired { shard: SHARD }), play.now);
        while play.collections.len() == attempt {
            play.next_pass();
            play.rows(vec![about_holders(5, finds.clone())]);
            assert_eq!(play.asks(), [], "nothing is settled");
        }
    }
    play.worker.collected((5, 0), Ok(()), play.now);
    play.next_pass();
    play.rows(vec![about_holders(5, finds)]);
    assert_eq!(play.settles(), [(5, Verdict::Done)]);
}

/// A message of this user in the given state; `None`: there is none any more.
fn sends(index: u64, user: &str, state: Option<State>) -> outbox_read::Row {
    let sender = Some(Person { user: user.to_owned(), incarnation: 3 });
    let send = SendScheduled { sender: sender.clone(), number: 1, id: index * 10 };
    let row = OutboxRow { task: Some(Task::SendScheduled(send)), ..OutboxRow::default() };
    let scheduled = state.map(|state| ScheduledRow { sender, state: state.into(), ..ScheduledRow::default() });
    outbox_read::Row { index, row: Some(row), scheduled, ..outbox_read::Row::default() }
}

#[test]
fn scheduled_messages_of_a_user_are_sent_one_after_another_and_hold_nobody_up() {
    let mut play = Play::new();
    let sending = Some(State::Sending);
    play.rows(vec![sends(5, "ann", sending), sends(6, "ann", sending), sends(7, "bob", sending), joins(8, "bob")]);
    assert_eq!(play.sendings, [((5, 0), 50), ((7, 0), 70)]);
    play.answer(appended(1));
    assert_eq!(play.settles(), [(8, Verdict::Done)]);
    play.worker.sent((5, 0), Ok(()), play.now);
    assert_eq!(play.pause(), Duration::ZERO, "what becomes of it is looked at soon");
    play.next_pass();
    play.rows(vec![sends(5, "ann", None), sends(6, "ann", sending), sends(7, "bob", sending)]);
    assert_eq!(play.sendings[2..], [((6, 0), 60)], "the other one of bob is still under way");
    assert_eq!(play.settles(), [(5, Verdict::Done)]);
    for place in [(6, 0), (7, 0)] {
        play.worker.sent(place, Ok(()), play.now);
    }
    play.next_pass();
    play.rows(vec![sends(6, "ann", Some(State::Failed)), sends(7, "bob", None)]);
    assert_eq!(play.settles(), [(6, Verdict::Done), (7, Verdict::Done)]);
    assert_eq!(play.sendings.len(), 3);
}

#[test]
fn a_scheduled_message_is_tried_again_as_long_as_it_takes() {
    let mut play = Play::new();
    let rows = || vec![sends(5, "ann", Some(State::Sending))];
    play.rows(rows());
    for attempt in 1..20 {
        play.worker.sent((5, 0), Err("not now".to_owned()), play.now);
        assert_eq!(play.sendings.len(), attempt);
        while play.sendings.len() == attempt {
            play.next_pass();
            play.rows(rows());
            assert_eq!(play.asks(), [], "nothing is settled");
        }
    }
}

#[test]
fn scheduled_messages_are_released_when_their_time_has_come_and_not_before() {
    let mut play = Play::new();
    play.next_scheduled_ms = NOW_MS + 1000;
    play.rows(vec![]);
    assert_eq!(play.pause(), Duration::from_secs(1), "the worker looks when the next one is due");
    play.next_pass();
    play.time_ms = NOW_MS + 1000;
    play.rows(vec![]);
    assert_eq!(play.asks(), [Ask::Release(NOW_MS + 1000)]);
    play.answer(done());
    play.next_scheduled_ms = NOW_MS + 1_000_000;
    play.rows(vec![sends(5, "ann", Some(State::Sending))]);
    assert_eq!(play.sendings, [((5, 0), 50)]);
    assert_eq!(play.pause(), Duration::from_secs(5));
    // While the outbox has no room the store releases nothing: it is not asked without end.
    play.next_scheduled_ms = 1;
    play.next_pass();
    play.rows(vec![]);
    assert!(matches!(play.answer(done()), Ask::Release(_)));
    play.rows(vec![]);
    assert_eq!((play.asks(), play.pause()), (vec![], Duration::from_millis(500)));
    play.next_pass();
    play.rows(vec![]);
    assert!(matches!(play.answer(late()), Ask::Release(_)));
    assert!(play.pause() > Duration::ZERO);
}

#[test]
fn the_outbox_is_read_page_by_page_and_again_after_a_failure() {
    let mut play = Play::new();
    play.answer(late());
    assert!(play.pause() <= Duration::from_secs(1));
    play.worker.nudge(play.now);
    play.go_on();
    assert_eq!(play.asks(), [], "a store that fails is not hurried");
    play.next_pass();
    let rows = vec![joins(4, "bob")];
    play.answer(Ok(StoreAnswer::OutboxRead(OutboxRead { rows, complete: false, ..OutboxRead::default() })));
    play.answer(appended(1));
    play.worker.nudge(play.now);
    // The row is still there, and is done once more.
    play.answer(late());
    let [Ask::Rows(read)] = &play.asks()[..] else { panic!("{:?}", play.asks()) };
    assert_eq!((read.after_index, read.after_number), (4, 0));
    play.rows(vec![]);
    assert!(play.pause() > Duration::ZERO);
    play.next_pass();
    play.rows(vec![]);
    play.next_pass();
    play.worker.nudge(play.now);
    play.rows(vec![]);
    assert_eq!(play.pause(), Duration::ZERO, "what came during a pass is looked for at once");
}

#[test]
fn what_the_store_has_no_room_for_now_comes_after_what_is_under_way() {
    let mut play = Play::new();
    play.rows(vec![tell(4, &["bob", "carol", "dave", "erin"].map(|user| (user, Standing::Member)), false)]);
    let overloaded = || Err(StoreFailure::Overloaded { shard: SHARD, retry_after_ms: 100 });
    play.asked.rotate_left(2);
    assert_eq!(["dave", "erin"].map(|user| user_of(&play.answer(overloaded())) == user), [true, true]);
    assert_eq!(play.asks().iter().map(user_of).collect::<Vec<_>>(), ["bob", "carol"], "no more than there is room for");
    for user in ["bob", "carol", "dave"] {
        assert_eq!(user_of(&play.answer(appended(3))), user);
    }
    // Nobody else is under way: it has to wait for the next pass.
    assert_eq!(user_of(&play.answer(overloaded())), "erin");
    assert_eq!(play.told.len(), 3);
    play.next_pass();
    play.rows(vec![tell(4, &["bob", "carol", "dave", "erin"].map(|user| (user, Standing::Member)), false)]);
    assert_eq!(play.asks().len(), 4);
}
