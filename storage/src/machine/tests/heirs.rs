//! Ends in a group: that of its last owner's account, those of memberships and of invitations.

use carillon_proto::{
    Level, ShardId, ShardKind,
    pb::{
        client::{self, Envelope, group_change::What, members_change::Kind},
        store::{
            Append, Appended, ChangeGroup, ChangeMembers, CreateGroup, Group, GroupSettings, OutboxRow, Person,
            ReadGroup, ReadMembers, ReadOutbox, ReadTimeline, Role, SetLevel, StoreError, TimelineCommand, TimelineKey,
            change_group::Change, change_members::Change as OfMembers, outbox_row::Task, rejected::Reason,
            store_error::Why, timeline_command::Op, timeline_key,
        },
    },
};

use super::*;
use crate::machine::{
    Outcome, TimelineMachine, TimelineReader, Unread, groups::MEMBERS, keys, timeline::outbox::WAITING,
};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const NOW_MS: u64 = 1_000;
/// In the keys of the only group.
const NUMBER: u64 = 1;

fn group() -> Option<TimelineKey> {
    Some(TimelineKey { kind: timeline_key::Kind::Group.into(), owner: "g".into() })
}

fn person(user: &str) -> Person {
    Person { user: user.to_owned(), incarnation: 1 }
}

fn change_of(kind: OfMembers, users: &[Person]) -> ChangeMembers {
    ChangeMembers { change: kind.into(), users: users.to_vec(), ..ChangeMembers::default() }
}

fn add(role: Role, user: &str) -> ChangeMembers {
    let role = if role == Role::Reader { role } else { Role::Unspecified };
    ChangeMembers { role: role.into(), ..change_of(OfMembers::Add, &[person(user)]) }
}

fn set_role(role: Role, user: &str) -> ChangeMembers {
    ChangeMembers { role: role.into(), ..change_of(OfMembers::Role, &[person(user)]) }
}

struct World {
    shard: OpenShard<TimelineMachine, TimelineReader>,
    index: u64,
    keys: u8,
}

impl World {
    /// With the owner `olga`.
    fn new() -> Self {
        let level = TimelineCommand { op: Some(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 })) };
        let shard = OpenShard::new(|engines| engines.timeline(SHARD).expect("shard"), &level);
        let mut world = Self { shard, index: 0, keys: 0 };
        let settings = Some(GroupSettings { open: true, ..GroupSettings::default() });
        let create = CreateGroup { settings, members: Vec::new(), owner: None };
        world.does(&person("olga"), Change::Create(create));
        world
    }

    fn command(by: &Person, key: u8, change: Change) -> TimelineCommand {
        let append = Append {
            timeline: group(),
            duplicate_key: vec![key; 16].into(),
            time_ms: NOW_MS,
            envelope: vec![key; 8].into(),
            new_epoch: 5,
            sender: by.user.clone().into(),
            sender_incarnation: by.incarnation,
            ..Append::default()
        };
        let by_operator = by.user.is_empty();
        let op = ChangeGroup { append: Some(append), by_operator, change: Some(change), most_members: 0 };
        TimelineCommand { op: Some(Op::ChangeGroup(op)) }
    }

    fn apply(&mut self, commands: &[TimelineCommand]) -> Vec<Outcome> {
        self.index += 1;
        self.shard.machine.apply(&[entry(self.index, commands)], &self.index.to_be_bytes()).expect("applies").remove(0)
    }

    /// `by`: without a name, the operator.
    fn tries(&mut self, by: &Person, change: Change) -> Outcome {
        self.keys += 1;
        let command = Self::command(by, self.keys, change);
        self.apply(&[command]).remove(0)
    }

    fn does(&mut self, by: &Person, change: Change) -> Appended {
        match self.tries(by, change) {
            Outcome::Appended(appended) => appended,
            other => panic!("{other:?}"),
        }
    }

    /// The account of this user has ended.
    fn ends(&mut self, user: &str) -> Appended {
        self.does(&Person::default(), Change::Members(change_of(OfMembers::Leave, &[person(user)])))
    }

    fn owners(&self) -> Vec<String> {
        let read = self.shard.reader.members(&ReadMembers { timeline: group(), ..ReadMembers::default() });
        let members = read.expect("reads").members.into_iter();
        members.filter(|row| row.member.expect("has one").role() == Role::Owner).map(|row| row.user).collect()
    }

    fn group(&self) -> Group {
        let read = self.shard.reader.group(&ReadGroup { timeline: group(), reader: None, writes_at_ms: 0 });
        read.expect("reads").group.expect("has one")
    }

    fn has_rows(self, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        Self { shard: self.shard.restored_with(rows), ..self }
    }

    fn log(&self) -> Vec<bytes::Bytes> {
        let read = self.shard.reader.read(&ReadTimeline { timeline: group(), ..ReadTimeline::default() });
        read.expect("reads").entries.into_iter().map(|entry| entry.envelope).collect()
    }
}

fn is_full(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Error(StoreError { why: Some(Why::Rejected(why)) }) if why.reason() == Reason::Full)
}

/// The users whom the envelope makes owners.
fn named(envelope: &[u8]) -> Vec<String> {
    match Envelope::decode(envelope).expect("decodes").change.and_then(|change| change.what) {
        Some(What::Members(members)) => {
            assert_eq!((members.kind(), members.role()), (Kind::Role, client::Role::Owner));
            members.users
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_longest_standing_admin_is_the_heir_then_who_may_write() {
    let olga = person("olga");
    let mut world = World::new();
    for (role, user) in [(Role::Reader, "anna"), (Role::Member, "mute"), (Role::Member, "zoe"), (Role::Member, "bob")] {
        world.does(&olga, Change::Members(add(role, user)));
    }
    for user in ["adam", "abel"] {
        world.does(&olga, Change::Members(add(Role::Member, user)));
    }
    world.does(&olga, Change::Members(set_role(Role::Admin, "abel")));
    world.does(&olga, Change::Members(set_role(Role::Admin, "adam")));
    let muted = ChangeMembers { muted_until_ms: NOW_MS + 1, ..change_of(OfMembers::Mute, &[person("mute")]) };
    world.does(&olga, Change::Members(muted));
    let mut owner = "olga";
    // Adam is a member for longer than Abel, though an admin for less long.
    for heir in ["adam", "abel", "zoe", "bob", "anna", "mute"] {
        let last = world.log().len() as u64;
        let left = world.ends(owner);
        assert_eq!((left.seq, named(&left.heir_envelope)), (last + 1, vec![heir.to_owned()]));
        assert_eq!(world.log()[last as usize + 1..], [left.heir_envelope], "members see it in the log");
        assert_eq!(world.owners(), [heir]);
        assert_eq!(world.group().owners, 1);
        owner = heir;
    }
    let last = world.ends(owner);
    assert!(last.heir_envelope.is_empty());
    let read = world.shard.reader.group(&ReadGroup { timeline: group(), reader: None, writes_at_ms: 0 });
    assert!(matches!(read, Err(Unread::Rejected(why)) if why.reason() == Reason::NotFound), "nobody is left");
}

#[test]
fn a_repeat_makes_no_second_heir_and_is_told_of_the_first() {
    let mut world = World::new();
    for user in ["bob", "carl"] {
        world.does(&person("olga"), Change::Members(add(Role::Member, user)));
    }
    let left = world.ends("olga");
    let leave = Change::Members(change_of(OfMembers::Leave, &[person("olga")]));
    let repeat = World::command(&Person::default(), world.keys, leave);
    world.shard = world.shard.reopened();
    // Bob, who owns it since, is gone as well.
    world.ends("bob");
    let log = world.log();
    let Outcome::Appended(again) = world.apply(&[repeat]).remove(0) else { panic!("it is a repeat") };
    assert_eq!((again.seq, &again.first_envelope), (left.seq, &log[left.seq as usize - 1]));
    assert_eq!(again.heir_envelope, left.heir_envelope);
    assert_eq!((world.log(), world.owners()), (log, vec!["carl".to_owned()]));
}

#[test]
fn who_stays_is_no_heir_while_another_owner_stays_and_leaving_needs_one() {
    let olga = person("olga");
    let mut world = World::new();
    for user in ["bob", "carl"] {
        world.does(&olga, Change::Members(add(Role::Member, user)));
    }
    let leave = |user: &str| Change::Members(change_of(OfMembers::Leave, &[person(user)]));
    let refused = world.tries(&olga, leave("olga"));
    let is_refused = matches!(&refused, Outcome::Error(StoreError { why: Some(Why::Rejected(why)) }) if why.reason() == Reason::Forbidden);
    assert!(is_refused, "her account goes on: {refused:?}");
    world.does(&olga, Change::Members(set_role(Role::Owner, "carl")));
    assert!(world.ends("olga").heir_envelope.is_empty());
    assert_eq!(world.owners(), ["carl"]);
}

#[test]
fn the_operator_takes_no_group_its_last_owner_while_members_stay() {
    let (operator, olga) = (Person::default(), person("olga"));
    let mut world = World::new();
    world.does(&olga, Change::Members(add(Role::Member, "bob")));
    let remove = |user: &str| Change::Members(change_of(OfMembers::Remove, &[person(user)]));
    for change in [Change::Members(set_role(Role::Member, "olga")), remove("olga")] {
        let outcome = world.tries(&operator, change);
        let Outcome::Error(StoreError { why: Some(Why::Rejected(why)) }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(why.reason(), Reason::Forbidden);
        assert!(why.detail.contains("give another member the role first"), "{}", why.detail);
    }
    world.does(&operator, Change::Members(set_role(Role::Owner, "bob")));
    assert!(world.does(&operator, remove("olga")).heir_envelope.is_empty());
    assert_eq!(world.owners(), ["bob"]);
    // Without members there is no group.
    world.does(&operator, remove("bob"));
    let read = world.shard.reader.group(&ReadGroup { timeline: group(), reader: None, writes_at_ms: 0 });
    assert!(matches!(read, Err(Unread::Rejected(why)) if why.reason() == Reason::NotFound), "nobody is left");
}

#[test]
fn the_end_of_an_invitation_is_told_to_whom_the_invitation_was_told() {
    let olga = person("olga");
    for invitation_is_told in [true, false] {
        for end in [OfMembers::Remove, OfMembers::Ban] {
            let mut world = World::new();
            let unwanted = vec!["bob".to_owned()];
            let of_bob = |kind, is_unwanted: bool| {
                let unwanted = if is_unwanted { unwanted.clone() } else { Vec::new() };
                Change::Members(ChangeMembers { unwanted, ..change_of(kind, &[person("bob")]) })
            };
            world.does(&olga, of_bob(OfMembers::Invite, !invitation_is_told));
            // By now bob wants the opposite.
            let end_seq = world.does(&olga, of_bob(end, invitation_is_told)).seq;
            let rows = world.shard.reader.outbox(&ReadOutbox::default()).expect("reads").rows;
            let is_told = rows.iter().any(|row| match row.row.as_ref().and_then(|row| row.task.as_ref()) {
                Some(Task::Tell(tell)) => tell.seq == end_seq && !tell.told.is_empty(),
                _ => false,
            });
            assert_eq!(is_told, invitation_is_told, "{end:?}: {rows:?}");
        }
    }
}

#[test]
fn the_next_owner_of_the_name_who_joins_first_does_not_leave_the_group_without_an_owner() {
    let mut world = World::new();
    world.does(&person("olga"), Change::Members(add(Role::Member, "bob")));
    let next = Person { user: "olga".to_owned(), incarnation: 3 };
    let join = Change::Members(change_of(OfMembers::Join, std::slice::from_ref(&next)));
    let joined = world.does(&next, join);
    assert_eq!(named(&joined.heir_envelope), ["bob"]);
    assert_eq!(world.owners(), ["bob"]);
    // The leaving of the ended account finds nobody.
    let leave = Change::Members(change_of(OfMembers::Leave, &[person("olga")]));
    let outcome = world.tries(&Person::default(), leave);
    assert!(
        matches!(&outcome, Outcome::Error(StoreError { why: Some(Why::Rejected(why)) }) if why.reason() == Reason::NotFound)
    );
}

#[test]
fn a_muted_user_leaves_a_group_that_has_no_room_for_others_and_is_forgotten() {
    let (operator, olga) = (Person::default(), person("olga"));
    let mut world = World::new();
    for user in ["anna", "bob", "carl"] {
        world.does(&olga, Change::Members(add(Role::Member, user)));
    }
    for user in ["olga", "bob", "carl"] {
        let muted = ChangeMembers { muted_until_ms: NOW_MS + 1, ..change_of(OfMembers::Mute, &[person(user)]) };
        world.does(&operator, Change::Members(muted));
    }
    let full = Group { others: MEMBERS, ..world.group() };
    let mut world = world.has_rows([(keys::group(NUMBER).to_vec(), full.encode_to_vec())]);
    let heir = world.ends("olga").heir_envelope;
    assert_eq!((named(&heir), world.owners()), (vec!["anna".to_owned()], vec!["anna".to_owned()]));
    for (by, change) in [("bob", OfMembers::Leave), ("anna", OfMembers::Remove)] {
        let gone = if change == OfMembers::Leave { "bob" } else { "carl" };
        world.does(&person(by), Change::Members(change_of(change, &[person(gone)])));
    }
    assert_eq!((world.group().members, world.group().others), (1, MEMBERS));
    let ban = world.tries(&person("anna"), Change::Members(change_of(OfMembers::Ban, &[person("dave")])));
    assert!(is_full(&ban), "{ban:?}");
}

#[test]
fn users_leave_while_the_outbox_has_no_room() {
    let mut world = World::new();
    for user in ["anna", "bob"] {
        world.does(&person("olga"), Change::Members(add(Role::Member, user)));
    }
    let waiting =
        (0..WAITING).map(|index| (keys::outbox(1 << 32 | index, 0).to_vec(), OutboxRow::default().encode_to_vec()));
    let mut world = world.has_rows(waiting);
    let added = world.tries(&person("olga"), Change::Members(add(Role::Member, "carl")));
    assert!(is_full(&added), "{added:?}");
    assert_eq!(named(&world.ends("olga").heir_envelope), ["anna"]);
    world.does(&person("bob"), Change::Members(change_of(OfMembers::Leave, &[person("bob")])));
    assert_eq!(world.group().members, 1);
}
