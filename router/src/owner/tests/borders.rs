//! Users whose domains no longer talk to each other end what is between them, and do nothing else.

use carillon_proto::pb::{
    link::{ChangeContact, change_contact, change_privacy},
    store::{
        BlockedUser, ChangeMembers, Header, Member, Person, Reference, Role, SayToContact, Word, append::Admission,
        change_members, change_privacy::Change as OfPrivacy, header, member::Standing, members_read,
    },
};

use super::play::*;

const EVE: &str = "eve@b.example";
const FORBIDDEN: client::Code = client::Code::Forbidden;

/// Nothing crosses the border of any domain.
fn play() -> Play {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play
}

fn is_refused(effects: &[Did]) {
    let [did] = effects else { panic!("{effects:?}") };
    assert_eq!(refusal(did).code(), FORBIDDEN);
    assert!(refusal(did).reason.ends_with("is of a domain that this one does not talk to"), "{:?}", refusal(did));
}

/// A change of these members by `alice` of the default domain.
fn change(group: &str, user: &str, op: ChangeMembers) -> Op {
    let users = vec![Person { user: user.to_owned(), incarnation: 0 }];
    change_group("alice", group, change_group::Change::Members(ChangeMembers { users, ..op }))
}

fn kind(kind: change_members::Change) -> ChangeMembers {
    ChangeMembers { change: kind.into(), ..ChangeMembers::default() }
}

fn role(role: Role) -> ChangeMembers {
    ChangeMembers { role: role.into(), ..kind(change_members::Change::Role) }
}

fn mute(muted_until_ms: u64) -> ChangeMembers {
    ChangeMembers { muted_until_ms, ..kind(change_members::Change::Mute) }
}

#[test]
fn a_member_leaves_a_group_beyond_the_border_and_does_nothing_else_there() {
    let leave = kind(change_members::Change::Leave);
    let effects = play().request(change("club@b.example", "alice", leave));
    let [Did::ChangeGroup(_, asked)] = &effects[..] else { panic!("{effects:?}") };
    let Some(store::change_group::Change::Members(op)) = &asked.change else { panic!("{asked:?}") };
    assert_eq!(op.users, [Person { user: "alice".into(), incarnation: 9 }]);
    is_refused(&play().request(change("club@b.example", "alice", kind(change_members::Change::Join))));
    is_refused(&play().request(change("club@b.example", EVE, kind(change_members::Change::Remove))));
}

#[test]
fn a_member_from_beyond_the_border_is_taken_away_from_and_given_nothing() {
    use change_members::Change as Kind;
    // Nobody else learns whether there is such a user.
    for (found, incarnation) in [(found_as(4, Account::default(), &[]), 4), (StoreAnswer::User(User::default()), 0)] {
        for (op, is_told) in [
            (kind(Kind::Remove), true),
            (mute(5), true),
            // Anybody can be banned, also users who were never in the group.
            (kind(Kind::Ban), false),
        ] {
            let mut play = play();
            let effects = play.request(change("friends", EVE, op));
            let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
            let effects = play.answer(token, found.clone());
            let [Did::ChangeGroup(_, asked)] = &effects[..] else { panic!("{effects:?}") };
            let Some(store::change_group::Change::Members(op)) = &asked.change else { panic!("{asked:?}") };
            assert_eq!(op.users, [Person { user: EVE.into(), incarnation }], "{op:?}");
            assert_eq!(op.unwanted.is_empty(), is_told, "{op:?}");
        }
    }
    for op in [kind(Kind::Add), kind(Kind::Invite), kind(Kind::Pardon), mute(0)] {
        is_refused(&play().request(change("friends", EVE, op)));
    }
    // Within the domain there must be such a user.
    let mut play = play();
    let effects = play.request(change("friends", "bob", kind(Kind::Ban)));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::User(User::default()));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
}

#[test]
fn a_member_from_beyond_the_border_gets_a_lower_role_and_no_higher_one() {
    // In the group `eve` is an admin, or nobody.
    let admin = Member { standing: Standing::Member.into(), role: Role::Admin.into(), ..Member::default() };
    let is_admin = [members_read::Row { user: EVE.to_owned(), member: Some(admin) }];
    let members = |members: &[members_read::Row]| {
        StoreAnswer::MembersRead(store::MembersRead { members: members.to_vec(), complete: true })
    };
    let gone = || StoreAnswer::User(User::default());
    for (rows, given, is_done) in [
        (&is_admin[..], Role::Reader, true),
        (&is_admin, Role::Member, true),
        (&is_admin, Role::Admin, true),
        (&is_admin, Role::Owner, false),
        // The store says that nobody of this name is a member, whether there is such a user or not.
        (&[], Role::Owner, true),
    ] {
        for found in [found_as(4, Account::default(), &[]), gone()] {
            let mut play = play();
            let effects = play.request(change("friends", EVE, role(given)));
            let [Did::ReadUser(user, _), Did::ReadMembers(roles, ref read)] = effects[..] else {
                panic!("{effects:?}")
            };
            assert_eq!(read.only, [EVE]);
            assert_eq!(
                read.reader,
                Some(Person { user: "alice".into(), incarnation: 9 }),
                "no more than alice may read"
            );
            assert!(play.answer(user, found).is_empty());
            let effects = play.answer(roles, members(rows));
            match is_done {
                true => assert!(matches!(&effects[..], [Did::ChangeGroup(..)]), "{given:?}: {effects:?}"),
                false => is_refused(&effects),
            }
        }
    }
    // A group that does not show itself.
    let mut play = play();
    let effects = play.request(change("friends", EVE, role(Role::Reader)));
    let [Did::ReadUser(user, _), Did::ReadMembers(roles, _)] = effects[..] else { panic!("{effects:?}") };
    assert!(play.fails(roles, nothing_there()).is_empty());
    let effects = play.answer(user, gone());
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
}

fn about(kind: header::Kind, to: send_to::To) -> Op {
    let Op::Send(send) = send("bob", "1") else { unreachable!("a send") };
    let refers_to = Some(Reference { id: "id".into(), key: vec![7; 16].into(), by_sender: true, seq: 3 });
    let header = Header { kind: kind.into(), refers_to, ..Header::default() };
    Op::Send(Send { to: Some(SendTo { to: Some(to) }), header: Some(Box::new(header)), ..send })
}

fn recall(of: &str) -> Op {
    about(header::Kind::Recall, send_to::To::User(of.to_owned().into()))
}

/// Only the sender's own inbox is left, and decides.
fn goes_from_the_own_inbox_alone(play: &mut Play, effects: Vec<Did>) {
    let Appending { token, owner, .. } = one_append(effects);
    assert_eq!((&*owner, &*play.appends_as), ("alice", &b"alice"[..]));
    let id = play.next_id;
    let effects = play.answer(token, appended(9, &Bytes::new()));
    assert!(matches!(&effects[..], [Did::Answer(of, Answer::Accepted(_))] if *of == id), "{effects:?}");
}

fn nothing_there() -> StoreFailure {
    StoreFailure::NotFound { detail: "there is no such message in this conversation".into() }
}

#[test]
fn what_was_sent_before_is_taken_back_in_both_inboxes_and_nothing_else_is_said() {
    let mut play = play();
    let effects = play.request(recall(EVE));
    let [Did::ReadUser(token, ref user)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(user, EVE);
    let effects = play.answer(token, found_as(4, Account::default(), &[]));
    let [Did::AppendIf(token, ref owner, Admission::Refused)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(owner, EVE);
    let Appending { token, owner, .. } = one_append(play.answer(token, appended(5, &Bytes::new())));
    assert_eq!(owner, "alice");
    let effects = play.answer(token, appended(9, &Bytes::new()));
    assert!(matches!(&effects[..], [Did::Answer(1, Answer::Accepted(_))]), "{effects:?}");
    for other in [header::Kind::Message, header::Kind::Edit, header::Kind::Reaction, header::Kind::Pin] {
        is_refused(&play.request(about(other, send_to::To::User(EVE.into()))));
    }
    // In groups beyond the border, too: an admin there takes back no message of another member.
    let club = || send_to::To::Group("club@b.example".into());
    let effects = play.request(about(header::Kind::Recall, club()));
    let [Did::AppendIf(_, ref owner, Admission::Refused)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(owner, "club@b.example");
    is_refused(&play.request(about(header::Kind::Edit, club())));
}

#[test]
fn a_recall_of_what_the_other_inbox_does_not_have_takes_the_own_copy_away() {
    let forbidden = || StoreFailure::Forbidden { detail: "the user takes messages of its contacts only".into() };
    for failure in [nothing_there(), forbidden()] {
        // Beyond the border.
        let mut beyond = play();
        let effects = beyond.request(recall(EVE));
        let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
        let effects = beyond.answer(token, found_as(4, Account::default(), &[]));
        let [Did::AppendIf(token, ..)] = effects[..] else { panic!("{effects:?}") };
        let effects = beyond.fails(token, failure.clone());
        goes_from_the_own_inbox_alone(&mut beyond, effects);
        // Within the domain, where other messages are refused as before.
        let mut within = Play::knowing(&["bob"]);
        let token = within.appends(recall("bob")).token;
        let effects = within.fails(token, failure.clone());
        goes_from_the_own_inbox_alone(&mut within, effects);
        let token = within.appends(about(header::Kind::Edit, send_to::To::User("bob".into()))).token;
        let effects = within.fails(token, failure);
        assert!(matches!(&effects[..], [Did::Answer(_, Answer::Refusal(_))]), "{effects:?}");
    }
}

#[test]
fn a_recall_of_what_was_sent_to_an_account_that_has_ended_takes_the_own_copy_away() {
    let deleted = || found_as(4, Account { deleted: true, ..Account::default() }, &[]);
    for to in ["bob", EVE] {
        for found in [StoreAnswer::User(User::default()), deleted()] {
            let mut play = play();
            let effects = play.request(recall(to));
            let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
            let effects = play.answer(token, found);
            goes_from_the_own_inbox_alone(&mut play, effects);
        }
    }
    // The account was known, and has ended since.
    let mut play = Play::knowing(&["bob"]);
    let token = play.appends(recall("bob")).token;
    let effects = gone(&mut play, token);
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, deleted());
    goes_from_the_own_inbox_alone(&mut play, effects);
    // Other messages are refused as before, and so are recalls of what is not in the own inbox either.
    let effects = play.request(send("bob", "2"));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, deleted());
    assert_eq!(refusal(&effects[0]).reason, "there is no user \"bob\"");
    let effects = play.request(recall("bob"));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let token = one_append(play.answer(token, deleted())).token;
    let effects = play.fails(token, nothing_there());
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
}

#[test]
fn a_user_beyond_the_border_is_blocked_whether_there_is_one_or_not() {
    let block = |who: &str| {
        let change = Some(change_privacy::Change::Block(who.to_owned()));
        Op::ChangePrivacy(link::ChangePrivacy { user: "alice".into(), incarnation: 0, change })
    };
    for (found, incarnation) in [(found_as(4, Account::default(), &[]), 4), (StoreAnswer::User(User::default()), 0)] {
        let mut play = play();
        let effects = play.request(block(EVE));
        let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
        let effects = play.answer(token, found);
        let [Did::ChangePrivacy(_, asked)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(asked.change, Some(OfPrivacy::Block(BlockedUser { user: EVE.into(), incarnation })));
    }
    let mut play = play();
    let effects = play.request(block("bob"));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::User(User::default()));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
}

#[test]
fn what_contacts_have_agreed_upon_is_ended_across_the_border_and_not_begun() {
    let ask = |change| {
        let (user, contact) = ("alice".to_owned(), EVE.to_owned());
        Op::ChangeContact(Box::new(ChangeContact { user, incarnation: 0, contact, change: Some(change) }))
    };
    let say =
        |word: Word| ask(change_contact::Change::Say(SayToContact { word: word.into(), ..SayToContact::default() }));
    for word in [Word::Subscribe, Word::Subscribed] {
        is_refused(&play().request(say(word)));
    }
    let remove = ask(change_contact::Change::Remove(store::RemoveContact {}));
    for op in [say(Word::Unsubscribe), say(Word::Unsubscribed), remove] {
        let effects = play().request(op);
        let [Did::ChangeContact(_, asked)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(asked.contact, EVE);
    }
}
