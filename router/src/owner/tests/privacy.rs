//! What users let others see and do.

use carillon_proto::pb::{
    client::{ChatState, Presence, Show},
    link::{
        ChangeGroup, ChatStateTold, ContactNews, Marked, Presences, PrivacyNews, Probe, SessionPresence, SetPresence,
        TellChatState, change_group, change_privacy::Change as Asked, privacy_news::What, signaled::Notice,
    },
    store::{
        Allowed, AllowedRead, Audience, BlockedUser, ChangeMembers, Contact, ContactChanged, ContactsRead,
        Conversation, ConversationRow, ConversationsMoved, Header, MarksRead, MessageRequest, Person, Privacy,
        PrivacyChanged, PrivacySettings, Reference, RequestAnswer, SetPrivacy, TimelineKey, append::Admission,
        change_group::Change as Changed, change_members, change_privacy::Change, contacts_read, header, marks_read,
    },
};

use super::play::*;
use crate::said::Said;

fn blocking(name: &str) -> Privacy {
    Privacy { blocked: vec![BlockedUser { user: name.into(), incarnation: 0 }], ..Privacy::default() }
}

fn setting(settings: PrivacySettings) -> Privacy {
    Privacy { settings: Some(settings), ..Privacy::default() }
}

fn play() -> Play {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play
}

fn allowed(allowed: Allowed) -> StoreAnswer {
    StoreAnswer::AllowedRead(AllowedRead { allowed: vec![allowed] })
}

fn asks(user: &str, change: Asked) -> Op {
    Op::ChangePrivacy(link::ChangePrivacy { user: user.into(), incarnation: 0, change: Some(change) })
}

#[test]
fn a_message_of_who_is_blocked_is_accepted_and_reaches_nobody() {
    let mut play = play();
    play.knows("bob", &[session("bob", "phone", 20, 2)]);
    play.knows_privacy("bob", blocking("alice"));
    let Op::Send(plain) = send("bob", "1") else { unreachable!("a send") };
    let effects = play.request(Op::Send(Send { wants_marks: true, ..plain }));
    let [Did::AppendIf(token, ref owner, Admission::Withheld)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(owner, "bob");
    let withheld = Appended { epoch: 7, withheld: true, ..Appended::default() };
    let Appending { token, owner, .. } = one_append(play.answer(token, StoreAnswer::Appended(withheld)));
    assert_eq!(owner, "alice", "the sender's own copy, and no push");
    let effects = play.answer(token, appended(9, &Bytes::new()));
    let accepted = effects.iter().any(|did| matches!(did, Did::Answer(1, Answer::Accepted(_))));
    assert!(accepted && !effects.iter().any(|did| matches!(did, Did::Push(20, _))), "{effects:?}");
    assert!(play.owner.undelivered.take(&UserId::new("bob").expect("valid"), Position { epoch: 7, seq: 9 }).is_empty());
}

/// As its own inbox has everything that it has sent: who is blocked is answered as everybody else is.
#[test]
fn what_who_is_blocked_makes_of_other_messages_is_decided_in_its_own_inbox() {
    let mut play = play();
    play.knows_privacy("bob", blocking("alice"));
    let mut sends = |number: &str| {
        let Op::Send(plain) = send("bob", number) else { unreachable!("a send") };
        let refers_to = Some(Reference { id: "id".into(), key: vec![7; 16].into(), ..Reference::default() });
        let header = Header { kind: header::Kind::Edit.into(), refers_to, ..Header::default() };
        let effects = play.request(Op::Send(Send { header: Some(Box::new(header)), ..plain }));
        let [Did::AppendIf(token, _, Admission::Withheld)] = effects[..] else { panic!("{effects:?}") };
        let withheld = Appended { epoch: 7, withheld: true, ..Appended::default() };
        let Appending { token, owner, .. } = one_append(play.answer(token, StoreAnswer::Appended(withheld)));
        assert_eq!((&*owner, &*play.appends_as), ("alice", &b"alice"[..]));
        token
    };
    let (allowed, refused) = (sends("1"), sends("2"));
    let effects = play.answer(allowed, appended(9, &Bytes::new()));
    assert!(matches!(&effects[..], [Did::Answer(1, Answer::Accepted(_))]), "{effects:?}");
    let effects = play.fails(refused, StoreFailure::Forbidden { detail: "only its author edits a message".into() });
    let refusal = refusal(&effects[0]);
    assert_eq!((refusal.code(), refusal.retry), (client::Code::Forbidden, false));
}

#[test]
fn of_a_request_the_recipients_devices_are_told_and_the_sender_hears_of_no_marks() {
    let mut play = play();
    play.knows("bob", &[session("bob", "phone", 20, 5)]);
    play.knows_privacy("bob", setting(PrivacySettings { write: Audience::Requests.into(), ..Default::default() }));
    for in_request in [true, false] {
        let number = if in_request { "1" } else { "2" };
        let Op::Send(message) = send("bob", number) else { panic!("a message") };
        let effects = play.request(Op::Send(Send { wants_marks: true, ..message }));
        let [Did::ReadAllowed(token, ..)] = effects[..] else { panic!("{effects:?}") };
        let asked = Allowed { requests: true, write_back: true, ..Allowed::default() };
        let effects = play.answer(token, allowed(asked));
        let [Did::AppendIf(token, ref owner, Admission::Request)] = effects[..] else { panic!("{effects:?}") };
        assert_eq!(owner, "bob");
        let moved = ConversationsMoved { epoch: 7, before: 3, version: 4, rows: Vec::new() };
        let moved = in_request.then(|| Box::new(moved));
        let seq = if in_request { 3 } else { 4 };
        let appended = Appended { epoch: 7, seq, request: in_request, moved, ..Appended::default() };
        let effects = play.answer(token, StoreAnswer::Appended(appended));
        let is_told = effects.iter().any(|did| match did {
            Did::Notice(20, connections, Notice::Conversations(moved)) => {
                (&connections[..], moved.version) == (&[5], 4)
            }
            _ => false,
        });
        assert_eq!(is_told, in_request, "{effects:?}");
        assert!(effects.iter().any(|did| matches!(did, Did::Push(20, _))), "{effects:?}");
    }
    // A device has both.
    play.owner.tell_delivered(&UserId::new("bob").expect("valid"), Position { epoch: 7, seq: 9 }, play.now);
    let marked = play.effects().into_iter().filter(|did| matches!(did, Did::Marked(_))).count();
    assert_eq!(marked, 1, "of the second message alone");
}

#[test]
fn who_is_made_a_contact_is_no_stranger_any_more() {
    let mut play = play();
    let set = || {
        let change = Some(link::change_contact::Change::Set(store::SetContact::default()));
        let (user, contact) = ("alice".into(), "bob".into());
        Op::ChangeContact(Box::new(link::ChangeContact { user, incarnation: 0, contact, change }))
    };
    let changes = |play: &mut Play| {
        let effects = play.request(set());
        let [Did::ChangeContact(token, _)] = effects[..] else { panic!("{effects:?}") };
        let contact = Some(Contact { listed: true, ..Contact::default() });
        let changed = ContactChanged { contact, version: 6, before: 5, changed: true, incarnation: 0 };
        play.answer(token, StoreAnswer::ContactChanged(changed))
    };
    let accepted = |effects: &[Did]| {
        let sets = effects.iter().filter_map(|did| match did {
            Did::SetConversation(_, set) => Some((set.answer(), set.conversation.clone().expect("named").owner)),
            _ => None,
        });
        sets.collect::<Vec<_>>()
    };
    play.knows("alice", &[]);
    assert_eq!(accepted(&changes(&mut play)), [], "who lets everybody write has no requests");
    play.knows_privacy("alice", setting(PrivacySettings { write: Audience::Requests.into(), ..Default::default() }));
    assert_eq!(accepted(&changes(&mut play)), [(RequestAnswer::Accept, "bob".into())]);
}

#[test]
fn how_far_a_request_is_read_is_told_to_nobody() {
    let mut play = play();
    play.knows("alice", &[]);
    let with = TimelineKey { kind: Kind::Inbox.into(), owner: "bob".into() };
    for (request, told) in [(MessageRequest::Open, 0), (MessageRequest::Unspecified, 1)] {
        let mark = store::move_marks::Mark { conversation: Some(with.clone()), epoch: 7, seq: 5 };
        let moves = link::MoveMarks { user: "alice".into(), incarnation: 0, marks: vec![mark] };
        assert_eq!(play.request(Op::MoveMarks(moves)), []);
        play.owner.flush_cursors();
        let effects = play.effects();
        let [Did::MoveMarks(token, _)] = effects[..] else { panic!("{effects:?}") };
        let row = Conversation { read_seq: 5, request: request.into(), ..Conversation::default() };
        let (conversation, row) = (Some(with.clone()), Some(row));
        let row = ConversationRow { conversation, row, read_id: "m5".into(), ..ConversationRow::default() };
        let moved = ConversationsMoved { epoch: 7, before: 3, version: 4, rows: vec![row] };
        let effects = play.answer(token, StoreAnswer::ConversationsMoved(moved));
        let marks = effects.iter().filter(|did| matches!(did, Did::Marked(_))).count();
        assert_eq!(marks, told, "{effects:?}");
    }
}

#[test]
fn a_repeat_of_what_came_before_the_block_is_answered_as_before() {
    let mut play = play();
    play.knows_privacy("bob", blocking("alice"));
    let effects = play.request(send("bob", "1"));
    let [Did::AppendIf(token, ..)] = effects[..] else { panic!("{effects:?}") };
    // It is in the inbox since before.
    let Appending { owner, .. } = one_append(play.answer(token, appended(3, &Bytes::new())));
    assert_eq!(owner, "alice");
}

#[test]
fn who_may_write_is_asked_of_the_store_only_where_it_matters() {
    let mut play = play();
    play.knows_privacy("bob", setting(PrivacySettings { write: Audience::Nobody.into(), ..Default::default() }));
    let effects = play.request(send("bob", "1"));
    assert!(matches!(effects[..], [Did::AppendIf(_, _, Admission::Refused)]), "{effects:?}");

    play.knows_privacy("bob", setting(PrivacySettings { read_marks: Audience::Nobody.into(), ..Default::default() }));
    assert_eq!(play.appends(send("bob", "2")).owner, "bob");

    play.knows_privacy("bob", setting(PrivacySettings { write: Audience::Contacts.into(), ..Default::default() }));
    for (answer, expected) in [
        (Allowed { write: true, ..Allowed::default() }, None),
        (Allowed { write_back: true, ..Allowed::default() }, Some(Admission::WriteBack)),
        (Allowed { blocked: true, ..Allowed::default() }, Some(Admission::Withheld)),
        (Allowed { requests: true, write_back: true, ..Allowed::default() }, Some(Admission::Request)),
    ] {
        let effects = play.request(send("bob", "3"));
        let [Did::ReadAllowed(token, ref by, ref users)] = effects[..] else { panic!("{effects:?}") };
        assert_eq!((&**by, &users[..]), ("alice", &["bob".to_owned()][..]));
        let effects = play.answer(token, allowed(answer));
        match (expected, &effects[..]) {
            (None, [Did::Append(_, owner, _)]) => assert_eq!(owner, "bob"),
            (Some(expected), [Did::AppendIf(_, _, admission)]) => assert_eq!(*admission, expected),
            _ => panic!("{effects:?}"),
        }
    }
    let effects = play.request(send("bob", "4"));
    let [Did::ReadAllowed(token, ..)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(token, StoreFailure::Expired { shard: ShardId::REGISTRY });
    assert_eq!(refusal(&effects[0]).code(), client::Code::Unavailable, "nothing was done");
}

#[test]
fn blocking_names_the_owner_of_the_name_and_counts_from_the_answer_on() {
    let mut play = play();
    play.knows("alice", &[session("alice", "phone", 10, 1), session("alice", "web", 20, 2)]);
    let effects = play.request(asks("alice", Asked::Block("bob".into())));
    let [Did::ReadUser(token, ref who)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(who, "bob");
    let effects = play.answer(token, found_as(7, Account::default(), &[]));
    let [Did::ChangePrivacy(token, ref change)] = effects[..] else { panic!("{effects:?}") };
    let bob = BlockedUser { user: "bob".into(), incarnation: 7 };
    assert_eq!((&*change.user, change.change.clone()), ("alice", Some(Change::Block(bob))));
    let changed = PrivacyChanged { before: 4, version: 5, ..PrivacyChanged::default() };
    let effects = play.answer(token, StoreAnswer::PrivacyChanged(changed));
    let news = PrivacyNews { before: 4, version: 5, what: Some(What::Blocked("bob".into())) };
    let told =
        |gateway, connection| Did::Notice(gateway, vec![connection], Notice::PrivacyNews(Box::new(news.clone())));
    assert_eq!(effects, [told(10, 1), told(20, 2), Did::Answer(1, Answer::Done(link::Done {}))]);
    // The next message to alice is decided by what is so now.
    let effects = play.request(send("alice", "1"));
    assert!(matches!(effects[..], [Did::ReadUser(..)]), "{effects:?}");

    let effects = play.request(asks("alice", Asked::Block("nobody".into())));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::User(User::default()));
    assert_eq!(refusal(&effects[0]).code(), client::Code::NotFound);
    let effects = play.request(asks("alice", Asked::Set(SetPrivacy::default())));
    let [Did::ChangePrivacy(token, _)] = effects[..] else { panic!("{effects:?}") };
    let nothing = PrivacyChanged { before: 5, version: 5, ..PrivacyChanged::default() };
    let effects = play.answer(token, StoreAnswer::PrivacyChanged(nothing));
    assert_eq!(effects, [Did::Answer(4, Answer::Done(link::Done {}))], "no news");
    let effects = play.request(Op::ReadPrivacy(link::ReadPrivacy { user: "alice".into(), incarnation: 0 }));
    let [Did::ReadPrivacy(token, _)] = effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(token, StoreAnswer::Privacy(blocking("bob")));
    assert_eq!(effects, [Did::Answer(5, Answer::Privacy(blocking("bob")))]);
}

#[test]
fn below_the_level_of_groups_nothing_can_be_set() {
    let mut play = Play::new();
    let did = play.request(asks("alice", Asked::Block("bob".into())));
    assert_eq!(refusal(&did[0]).code(), client::Code::Unsupported);
    let did = play.request(Op::ReadPrivacy(link::ReadPrivacy { user: "alice".into(), incarnation: 0 }));
    assert_eq!(refusal(&did[0]).code(), client::Code::Unsupported);
}

fn moved() -> StoreAnswer {
    let with = Some(TimelineKey { kind: Kind::Inbox.into(), owner: "bob".into() });
    let conversation = Conversation { read_seq: 5, ..Conversation::default() };
    let row = ConversationRow {
        conversation: with,
        row: Some(conversation),
        read_id: "m5".into(),
        ..ConversationRow::default()
    };
    StoreAnswer::ConversationsMoved(ConversationsMoved { epoch: 7, before: 3, version: 3, rows: vec![row] })
}

impl Play {
    /// alice has read a message of bob.
    fn alice_reads(&mut self) -> Vec<Did> {
        let mark = store::move_marks::Mark { epoch: 7, seq: 5, ..Default::default() };
        self.request(Op::MoveMarks(link::MoveMarks { user: "alice".into(), incarnation: 0, marks: vec![mark] }));
        self.owner.flush_cursors();
        let did = self.effects();
        let [Did::MoveMarks(token, _)] = did[..] else { panic!("{did:?}") };
        self.answer(token, moved()).into_iter().filter(|did| !matches!(did, Did::Answer(..))).collect()
    }
}

#[test]
fn how_far_a_user_has_read_is_told_to_whom_the_user_allows_it() {
    let marked = Marked { user: "bob".into(), by: "alice".into(), read_id: "m5".into(), ..Marked::default() };
    let mut play = play();
    // It is not known yet.
    let did = play.alice_reads();
    let [Did::ReadUser(token, _)] = did[..] else { panic!("{did:?}") };
    assert_eq!(play.answer(token, found("alice", &[])), [Did::Marked(marked.clone())]);
    play.knows_privacy("alice", blocking("bob"));
    assert_eq!(play.alice_reads(), []);
    play.knows_privacy("alice", setting(PrivacySettings { read_marks: Audience::Nobody.into(), ..Default::default() }));
    assert_eq!(play.alice_reads(), []);
    let contacts = setting(PrivacySettings { read_marks: Audience::Contacts.into(), ..Default::default() });
    play.knows_privacy("alice", contacts);
    for is_contact in [true, false] {
        let did = play.alice_reads();
        let [Did::ReadAllowed(token, ref by, _)] = did[..] else { panic!("{did:?}") };
        assert_eq!(by, "bob");
        let did = play.answer(token, allowed(Allowed { read_marks: is_contact, ..Allowed::default() }));
        assert_eq!(did, if is_contact { vec![Did::Marked(marked.clone())] } else { Vec::new() });
    }
}

#[test]
fn marks_that_are_asked_for_are_those_that_their_users_show() {
    let mut play = play();
    let users: Vec<String> = ["bob", "carol", "dave"].map(str::to_owned).into();
    let read = link::ReadMarks { user: "alice".into(), incarnation: 0, group: String::new(), users };
    let mut waiting = play.request(Op::ReadMarks(read));
    let mut answered = Vec::new();
    while let Some(did) = waiting.pop() {
        let (token, answer) = match did {
            Did::ReadAllowed(token, _, users) => {
                let of = |user: &String| match user.as_str() {
                    "bob" => Allowed { blocked: true, ..Allowed::default() },
                    user => Allowed { read_marks: user == "dave", ..Allowed::default() },
                };
                (token, StoreAnswer::AllowedRead(AllowedRead { allowed: users.iter().map(of).collect() }))
            }
            Did::ReadMarks(token, users, _) => {
                assert!(!users.contains(&"bob".to_owned()), "who has blocked alice is not even read");
                let mark = marks_read::Mark { read_id: "r".into(), delivered_id: "d".into(), ..Default::default() };
                (token, StoreAnswer::MarksRead(MarksRead { marks: vec![mark; users.len()] }))
            }
            Did::Answer(_, Answer::MarksRead(read)) => {
                answered.push(read.marks);
                continue;
            }
            other => panic!("{other:?}"),
        };
        waiting.extend(play.answer(token, answer));
    }
    let told: Vec<_> = answered[0].iter().map(|mark| (&*mark.read_id, &*mark.delivered_id)).collect();
    assert_eq!((answered.len(), told), (1, vec![("", ""), ("", "d"), ("r", "d")]));
}

fn change(kind: change_members::Change) -> Op {
    let users = ["bob", "carol"].map(|user| Person { user: user.to_owned(), incarnation: 0 }).into();
    let members = ChangeMembers { change: kind.into(), users, ..ChangeMembers::default() };
    Op::ChangeGroup(Box::new(ChangeGroup {
        sender: "alice".into(),
        sender_device: "phone".into(),
        client_id: format!("{kind:?}").into(),
        connection: 1,
        generation: 3,
        group: "friends".into(),
        change: Some(change_group::Change::Members(members)),
        ..ChangeGroup::default()
    }))
}

#[test]
fn an_invitation_that_is_not_wanted_vanishes_and_nobody_is_added_against_its_will() {
    let mut play = play();
    let answers = |play: &mut Play, op| {
        let mut last = Vec::new();
        for did in play.request(op) {
            let Did::ReadUser(token, user) = did else { panic!("{did:?}") };
            let StoreAnswer::User(found) = found(&user, &[]) else { unreachable!("a user") };
            let allowed = Some(Allowed { groups: user == "carol", ..Allowed::default() });
            last = play.answer(token, StoreAnswer::User(User { allowed, ..found }));
        }
        last
    };
    let did = answers(&mut play, change(change_members::Change::Add));
    assert_eq!(refusal(&did[0]).code(), client::Code::Forbidden, "nobody is added");
    let did = answers(&mut play, change(change_members::Change::Invite));
    let [Did::ChangeGroup(token, ref command)] = did[..] else { panic!("{did:?}") };
    let Some(Changed::Members(members)) = &command.change else { panic!("{command:?}") };
    assert_eq!(members.unwanted, ["bob"]);
    let appended = Appended { epoch: 7, seq: 4, incarnation: 5, ..Appended::default() };
    let did = play.answer(token, StoreAnswer::Appended(appended));
    let told: Vec<_> = did
        .iter()
        .filter_map(|did| match did {
            Did::SetMembership(_, set) => set.append.as_ref()?.timeline.as_ref()?.owner_str().ok(),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["carol"]);
}

impl Play {
    fn due(&mut self) -> Vec<Did> {
        self.now += Duration::from_secs(1);
        self.owner.presence_settles(self.now);
        self.owner.look_at_presences(self.now, 1_000);
        self.effects()
    }

    /// alice shows something at gateway 10; bob and carol see her and are seen.
    fn shows(read: ContactsRead) -> (Self, Vec<Did>) {
        let mut play = play();
        play.knows("alice", &[session("alice", "phone", 10, 1)]);
        let presence = Some(SessionPresence { show: Show::Online.into(), ..SessionPresence::default() });
        let set = SetPresence { user: "alice".into(), connection: 1, presence, again: false };
        play.request(Op::SetPresence(set));
        let did = play.due();
        let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
        let told = play.answer(token, StoreAnswer::ContactsRead(read));
        (play, told)
    }
}

fn both(contact: &str) -> contacts_read::Row {
    let row = Some(Contact { to: true, from: true, peer: 7, ..Contact::default() });
    contacts_read::Row { contact: contact.to_owned(), row }
}

fn contacts(names: &[&str]) -> ContactsRead {
    let contacts = names.iter().map(|name| both(name)).collect();
    ContactsRead { version: 5, contacts, complete: true, ..ContactsRead::default() }
}

/// Who is told that alice shows what.
fn told(effects: &[Did]) -> Vec<(Show, Vec<String>)> {
    let told = |did: &Did| match did {
        Did::Says(Said::Presences(Presences { presences, to, .. })) => {
            Some((presences[0].show(), to.iter().map(|person| person.user.clone()).collect()))
        }
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

fn of_bob(show: Show, number: u64) -> Said {
    let presence = Presence { user: "bob".into(), show: show.into(), era: 1, number, ..Presence::default() };
    let to = vec![Person { user: "alice".into(), incarnation: 0 }];
    Said::Presences(Presences { presences: vec![presence], to, asked: false })
}

fn seen(effects: &[Did]) -> Vec<(String, Show)> {
    let seen = |did: &Did| match did {
        Did::Notice(10, _, Notice::Presences(told)) => Some((told.presences[0].user.clone(), told.presences[0].show())),
        _ => None,
    };
    effects.iter().filter_map(seen).collect()
}

#[test]
fn who_blocks_a_contact_and_the_contact_are_offline_for_each_other_until_the_block_ends() {
    let (mut play, did) = Play::shows(contacts(&["bob", "carol"]));
    assert_eq!(told(&did), [(Show::Online, vec!["bob".to_owned(), "carol".to_owned()])]);
    play.owner.said(of_bob(Show::Away, 5), play.now, 5);
    assert_eq!(seen(&play.effects()), [("bob".to_owned(), Show::Away)]);

    let did = play.request(asks("alice", Asked::Block("bob".into())));
    let [Did::ReadUser(token, _)] = did[..] else { panic!("{did:?}") };
    let did = play.answer(token, found_as(7, Account::default(), &[]));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let contact = ContactChanged { contact: both("bob").row, version: 5, before: 5, ..ContactChanged::default() };
    let changed = PrivacyChanged { before: 0, version: 1, contact: Some(contact.clone()), ..PrivacyChanged::default() };
    let did = play.answer(token, StoreAnswer::PrivacyChanged(changed));
    assert_eq!(told(&did), [(Show::Unspecified, vec!["bob".to_owned()])]);
    assert_eq!(seen(&did), [("bob".to_owned(), Show::Unspecified)]);
    // What bob shows does not come through, and his questions are answered as if alice were away.
    play.owner.said(of_bob(Show::Online, 9), play.now, 9);
    assert_eq!(seen(&play.effects()), []);
    let from = Some(Person { user: "bob".into(), incarnation: 7 });
    let of = vec![Person { user: "alice".into(), incarnation: 0 }];
    GATEWAYS.into_iter().for_each(|gateway| play.owner.announced_all(LeaseId(gateway), 1, 1));
    play.owner.said(Said::Probe(Probe { from: from.clone(), of: of.clone(), last_seen: false }), play.now, 9);
    assert_eq!(told(&play.effects()), [(Show::Unspecified, vec!["bob".to_owned()])]);
    // Nor when the list is read anew.
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let read = ContactsRead { blocked: vec!["bob".into()], ..contacts(&["carol"]) };
    play.answer(token, StoreAnswer::ContactsRead(read));
    play.owner.said(of_bob(Show::Online, 10), play.now, 10);
    assert_eq!(seen(&play.effects()), []);

    let did = play.request(asks("alice", Asked::Unblock("bob".into())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let changed = PrivacyChanged { before: 1, version: 2, contact: Some(contact), ..PrivacyChanged::default() };
    let did = play.answer(token, StoreAnswer::PrivacyChanged(changed));
    assert_eq!(told(&did), [(Show::Online, vec!["bob".to_owned()])], "it may not ask by itself");
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let did = play.answer(token, StoreAnswer::ContactsRead(contacts(&["bob", "carol"])));
    let asks_bob =
        |did: &Did| matches!(did, Did::Says(Said::Probe(probe)) if probe.of.iter().any(|of| of.user == "bob"));
    assert!(did.iter().any(asks_bob), "{did:?}");
    play.owner.said(Said::Probe(Probe { from, of, last_seen: false }), play.now, 11);
    assert_eq!(told(&play.effects()), [(Show::Online, vec!["bob".to_owned()])]);
    play.owner.said(of_bob(Show::Online, 12), play.now, 12);
    assert_eq!(seen(&play.effects()), [("bob".to_owned(), Show::Online)]);
}

#[test]
fn who_shows_its_presence_to_nobody_is_offline_for_all_and_sees_the_others() {
    let (mut play, _) = Play::shows(contacts(&["bob"]));
    let did = play.request(asks("alice", Asked::Set(SetPrivacy::default())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let changed = PrivacyChanged { before: 0, version: 1, ..PrivacyChanged::default() };
    play.answer(token, StoreAnswer::PrivacyChanged(changed.clone()));
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let hidden = ContactsRead { hidden: true, ..contacts(&["bob"]) };
    let did = play.answer(token, StoreAnswer::ContactsRead(hidden));
    assert_eq!(told(&did), [(Show::Unspecified, vec!["bob".to_owned()])]);
    assert!(did.iter().any(|did| matches!(did, Did::Says(Said::Probe(_)))), "{did:?}");
    let probe = Probe {
        from: Some(Person { user: "bob".into(), incarnation: 7 }),
        of: vec![Person { user: "alice".into(), incarnation: 0 }],
        last_seen: false,
    };
    GATEWAYS.into_iter().for_each(|gateway| play.owner.announced_all(LeaseId(gateway), 1, 1));
    play.owner.said(Said::Probe(probe.clone()), play.now, 9);
    assert_eq!(told(&play.effects()), [(Show::Unspecified, vec!["bob".to_owned()])]);
    assert_eq!(told(&play.due()), [], "nothing more is told");

    let did = play.request(asks("alice", Asked::Set(SetPrivacy::default())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    play.answer(token, StoreAnswer::PrivacyChanged(PrivacyChanged { before: 1, version: 2, ..changed }));
    let did = play.due();
    let [Did::ReadContacts(token, ..)] = did[..] else { panic!("{did:?}") };
    let did = play.answer(token, StoreAnswer::ContactsRead(contacts(&["bob"])));
    assert_eq!(told(&did), [(Show::Online, vec!["bob".to_owned()])]);
}

#[test]
fn who_has_just_hidden_is_not_shown_to_a_contact_that_is_let_in_then() {
    let (mut play, _) = Play::shows(contacts(&["bob"]));
    let did = play.request(asks("alice", Asked::Set(SetPrivacy::default())));
    let [Did::ChangePrivacy(token, _)] = did[..] else { panic!("{did:?}") };
    let settings = Some(PrivacySettings { presence: Audience::Nobody.into(), ..PrivacySettings::default() });
    let changed = PrivacyChanged { before: 0, version: 1, settings, ..PrivacyChanged::default() };
    play.answer(token, StoreAnswer::PrivacyChanged(changed));
    let row = Some(Contact { from: true, peer: 9, listed: true, ..Contact::default() });
    let user = Some(Person { user: "alice".into(), incarnation: 0 });
    let news = ContactNews { user, contact: "carol".into(), row, before: 5, version: 6 };
    play.owner.said(Said::News(Box::new(news)), play.now, 1_000);
    assert_eq!(told(&play.effects()), []);
}

fn composing(by: &str) -> Op {
    let from = Some(Person { user: by.into(), incarnation: 0 });
    Op::TellChatState(TellChatState {
        user: "alice".into(),
        from,
        state: ChatState::Composing.into(),
        ..Default::default()
    })
}

#[test]
fn who_is_writing_is_shown_to_whom_it_may_write_and_the_answer_says_nothing_of_it() {
    let mut play = play();
    let done = |id| Did::Answer(id, Answer::Done(link::Done {}));
    assert_eq!(play.request(composing("bob")), [done(1)], "nobody is there, and nothing is read");
    play.knows("alice", &[session("alice", "phone", 10, 1), session("alice", "web", 20, 2)]);
    let told = ChatStateTold { from: "bob".into(), state: ChatState::Composing.into(), group: String::new() };
    let shown = |gateway, connection| Did::Notice(gateway, vec![connection], Notice::ChatState(told.clone()));
    assert_eq!(play.request(composing("bob")), [shown(10, 1), shown(20, 2), done(2)]);
    play.knows_privacy("alice", blocking("bob"));
    assert_eq!(play.request(composing("bob")), [done(3)]);
    play.knows_privacy("alice", setting(PrivacySettings { write: Audience::Nobody.into(), ..Default::default() }));
    assert_eq!(play.request(composing("bob")), [done(4)]);
    play.knows_privacy("alice", setting(PrivacySettings { write: Audience::Contacts.into(), ..Default::default() }));
    for (write, id) in [(true, 5), (false, 6)] {
        let effects = play.request(composing("bob"));
        let [Did::ReadAllowed(token, ref by, _)] = effects[..] else { panic!("{effects:?}") };
        assert_eq!(by, "bob");
        let effects = play.answer(token, allowed(Allowed { write, ..Allowed::default() }));
        assert_eq!(effects, if write { vec![shown(10, 1), shown(20, 2), done(id)] } else { vec![done(id)] });
    }
    // The account was forgotten, and is read before it is decided.
    play.owner.accounts.forget(&UserId::new("alice").expect("valid"));
    let effects = play.request(composing("bob"));
    let [Did::ReadUser(token, _)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(play.answer(token, found("alice", &[])), [shown(10, 1), shown(20, 2), done(7)]);
    let effects = play.request(composing("bob@acme.example"));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Forbidden, "nothing crosses the border of a domain");
}
