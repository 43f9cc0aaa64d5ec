//! Messages to groups, and changes of groups.

use carillon_proto::pb::{
    client::{ChatState, group_change::What},
    link::{ChatStateTold, Follow, TellChatState, change_group::Change, signaled::Notice},
    store::{
        ChangeMembers, CreateGroup, Domain, Group, GroupRead, HeadRead, HeadsRead, Person, Role, change_members,
        member::Standing,
    },
};

use super::play::*;

fn group() -> GroupId {
    GroupId::new("friends").expect("valid")
}

fn play() -> Play {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play
}

fn to_group(client_id: &str) -> Op {
    let Op::Send(send) = send("friends", client_id) else { unreachable!("a send") };
    let to = Some(SendTo { to: Some(send_to::To::Group("friends".into())) });
    Op::Send(Send { to, incarnation: 9, ..send })
}

fn change(change: Change) -> Op {
    change_group("alice", "friends", change)
}

fn members(kind: change_members::Change, users: &[&str]) -> Change {
    let users = users.iter().map(|user| Person { user: (*user).to_owned(), incarnation: 0 }).collect();
    Change::Members(ChangeMembers { change: kind.into(), users, ..ChangeMembers::default() })
}

fn changed(seq: u64, first: &Bytes) -> StoreAnswer {
    StoreAnswer::Appended(Appended {
        epoch: 7,
        seq,
        first_envelope: first.clone(),
        incarnation: 5,
        ..Appended::default()
    })
}

#[test]
fn below_the_level_of_groups_there_are_none() {
    let mut play = Play::new();
    let effects = play.request(to_group("1"));
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(refusal(did).code(), client::Code::Unsupported);
}

#[test]
fn a_message_is_appended_once_and_pushed_once_to_each_gateway_that_follows() {
    let mut play = play();
    for (gateway, link) in [(10, 1), (20, 2)] {
        play.owner.followers.follow(LeaseId(gateway), link, &group());
    }
    let Appending { token, owner, envelope } = play.appends(to_group("1"));
    assert_eq!(owner, "friends");
    let effects = play.answer(token, appended(5, &Bytes::new()));
    let [Did::Push(10, 5), Did::Push(20, 5), Did::Answer(1, Answer::Accepted(accepted))] = &effects[..] else {
        panic!("{effects:?}")
    };
    let said = RawEnvelope::decode(envelope.clone()).expect("encoded");
    assert_eq!((accepted.message_id.as_str(), accepted.time_ms), (said.id.as_str(), 1_000));
    assert_eq!(accepted.timeline, Some(TimelineId::Group(group()).to_client()));
    assert_eq!(said.to, Some(client::Recipient { to: Some(client::recipient::To::Group("friends".into())) }));
    // Said again, at another time, it is the same message.
    let Op::Send(again) = to_group("1") else { unreachable!("a send") };
    let token = play.appends(Op::Send(Send { time_ms: 2_000, ..again.clone() })).token;
    let effects = play.answer(token, appended(5, &envelope));
    assert!(
        effects.iter().any(|did| matches!(did, Did::Answer(2, Answer::Accepted(again)) if again == accepted)),
        "{effects:?}"
    );
    // Something else by the same id is refused.
    let token = play.appends(Op::Send(Send { content: Bytes::from_static(b"other"), ..again })).token;
    let effects = play.answer(token, appended(5, &envelope));
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(refusal(did).code(), client::Code::Invalid);
}

#[test]
fn what_the_store_says_of_a_message_is_told() {
    let failures = [
        (StoreFailure::NotFound { detail: "no group".into() }, client::Code::NotFound, false, 0),
        (StoreFailure::Forbidden { detail: "muted".into() }, client::Code::Forbidden, false, 0),
        (StoreFailure::TooEarly { detail: "slow".into(), retry_after_ms: 70 }, client::Code::RateLimited, true, 70),
    ];
    let mut play = play();
    for (failure, code, retry, retry_after_ms) in failures {
        let token = play.appends(to_group("1")).token;
        let effects = play.fails(token, failure);
        let [did] = &effects[..] else { panic!("{effects:?}") };
        let refusal = refusal(did);
        assert_eq!((refusal.code(), refusal.retry, refusal.retry_after_ms), (code, retry, retry_after_ms));
    }
}

#[test]
fn a_change_is_answered_when_everybody_whom_it_concerns_has_it() {
    let mut play = play();
    let effects = play.request(change(members(change_members::Change::Add, &["bob", "carol"])));
    let [Did::ReadUser(bob, _), Did::ReadUser(carol, name)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(name, "carol");
    let account = |user: &str| Account { user: user.to_owned(), ..Account::default() };
    assert_eq!(play.answer(*carol, found_as(12, account("carol"), &[])), []);
    let effects = play.answer(*bob, found_as(11, account("bob"), &[]));
    let [Did::ChangeGroup(token, asked)] = &effects[..] else { panic!("{effects:?}") };
    let append = asked.append.clone().expect("set");
    assert_eq!((&*append.sender, append.sender_incarnation, append.sender_generation), (&b"alice"[..], 9, 3));
    let Some(store::change_group::Change::Members(named)) = &asked.change else { panic!("{asked:?}") };
    let of = |user: &str, incarnation| Person { user: user.to_owned(), incarnation };
    assert_eq!(named.users, [of("bob", 11), of("carol", 12)]);
    let told = client::Envelope::decode(&*append.envelope).expect("encoded").change.expect("set");
    assert!(matches!(told.what, Some(What::Members(told)) if told.users == ["bob", "carol"]));

    let effects = play.answer(*token, changed(4, &Bytes::new()));
    let [Did::SetMembership(first, to_bob), Did::SetMembership(second, _)] = &effects[..] else {
        panic!("{effects:?}")
    };
    let membership = to_bob.membership.expect("set");
    assert_eq!((membership.incarnation, membership.seq), (5, 4));
    assert_eq!((membership.standing(), membership.role()), (Standing::Member, Role::Member));
    let in_inbox = to_bob.append.clone().expect("set");
    assert_eq!((in_inbox.incarnation, &in_inbox.envelope), (11, &append.envelope));
    assert_eq!(
        (&*in_inbox.sender, in_inbox.sender_generation),
        (&b""[..], 3),
        "the store appends it, for alice's session"
    );
    let effects = play.answer(*first, appended(30, &Bytes::new()));
    let [Did::Deliver(delivery)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((delivery.timeline.owner(), delivery.incarnation, delivery.position.seq), ("bob", 11, 30));
    // A later change has overtaken this one.
    let effects = play.answer(*second, StoreAnswer::Done(Done {}));
    let [Did::Answer(1, Answer::Accepted(accepted))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(accepted.position, Some(client::Position { epoch: 7, seq: 4 }));
    assert!(play.owner.changing.is_empty());
}

#[test]
fn who_joins_or_leaves_is_known_and_a_membership_that_is_not_set_makes_the_outcome_unknown() {
    let mut play = play();
    let join = || change(members(change_members::Change::Join, &["alice"]));
    let effects = play.request(join());
    let [Did::ChangeGroup(token, asked)] = &effects[..] else { panic!("{effects:?}") };
    let envelope = asked.append.clone().expect("set").envelope;
    let effects = play.answer(*token, changed(4, &Bytes::new()));
    let [Did::SetMembership(set, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(*set, StoreFailure::Expired { shard: ShardId::REGISTRY });
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((refusal(did).code(), refusal(did).retry), (client::Code::Unavailable, true));
    // The client says it again, and what was missing comes.
    let effects = play.request(join());
    let [Did::ChangeGroup(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*token, changed(4, &envelope));
    let [Did::SetMembership(set, again)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(again.append.clone().expect("set").envelope, envelope);
    let effects = play.answer(*set, appended(8, &Bytes::new()));
    assert!(matches!(&effects[..], [Did::Deliver(_), Did::Answer(2, Answer::Accepted(_))]), "{effects:?}");
    assert!(play.owner.changing.is_empty());
}

#[test]
fn a_repeat_leaves_others_to_the_worker_as_their_names_may_have_other_owners_by_now() {
    let mut play = play();
    let create = || {
        change(Change::Create(CreateGroup {
            members: vec![Person { user: "bob".into(), incarnation: 0 }],
            ..CreateGroup::default()
        }))
    };
    let effects = play.request(create());
    let [Did::ReadUser(bob, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.answer(*bob, found("bob", &[]));
    let [Did::ChangeGroup(token, asked)] = &effects[..] else { panic!("{effects:?}") };
    let first = asked.append.clone().expect("set").envelope;
    let effects = play.answer(*token, changed(1, &first));
    let [Did::SetMembership(set, told)] = &effects[..] else { panic!("{effects:?}") };
    let timeline = told.append.as_ref().and_then(|append| append.timeline.as_ref()).expect("set");
    assert_eq!(timeline.owner_str(), Ok("alice"));
    let effects = play.answer(*set, appended(8, &Bytes::new()));
    assert!(matches!(&effects[..], [Did::Deliver(_), Did::Answer(_, Answer::Accepted(_))]), "{effects:?}");
}

#[test]
fn a_change_that_names_nobody_or_is_refused_changes_nothing() {
    let mut play = play();
    let effects = play.request(change(members(change_members::Change::Invite, &["bob", "carol"])));
    let [Did::ReadUser(bob, _), Did::ReadUser(carol, _)] = &effects[..] else { panic!("{effects:?}") };
    play.answer(*bob, StoreAnswer::User(User::default()));
    let effects = play.answer(*carol, found("carol", &[]));
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(refusal(did).reason, "there is no user \"bob\"");

    let effects = play.request(change(members(change_members::Change::Invite, &["B B"])));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid);

    let create = Change::Create(CreateGroup { settings: Some(Default::default()), ..CreateGroup::default() });
    let effects = play.request(change(create));
    let [Did::ChangeGroup(token, _)] = &effects[..] else { panic!("{effects:?}") };
    let effects = play.fails(*token, StoreFailure::Exists { detail: "there is such a group".into() });
    let [did] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((refusal(did).code(), refusal(did).retry), (client::Code::Exists, false));
    assert!(play.owner.changing.is_empty() && play.owner.asked.is_empty());
}

#[test]
fn who_follows_groups_hears_their_heads() {
    let mut play = play();
    let follow = |groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Op::Follow(Follow { groups, ..Follow::default() })
    };
    let effects = play.request(follow(&["friends", "gone"]));
    let mut answers = Vec::new();
    for did in effects {
        let Did::ReadHeads(token, names) = did else { panic!("{did:?}") };
        let head = |name: &String| HeadRead {
            head: Some(if name == "gone" {
                Head::default()
            } else {
                Head { epoch: 7, first: 1, last: 3, ..Head::default() }
            }),
        };
        let heads = names.iter().map(head).collect();
        answers.extend(play.answer(token, StoreAnswer::HeadsRead(HeadsRead { heads })));
    }
    let [Did::Answer(1, Answer::Heads(heads))] = &answers[..] else { panic!("{answers:?}") };
    let names: Vec<_> = heads.heads.iter().map(|head| head.timeline.clone()).collect();
    assert_eq!(names, [Some(TimelineId::Group(group()).to_client())]);
    assert!(play.owner.following.is_empty());
}

/// Gateways 10 and 20 follow the group, whose timeline reaches to 3.
fn followed() -> Play {
    let mut play = play();
    for (gateway, link) in [(10, 1), (20, 2)] {
        play.owner.followers.follow(LeaseId(gateway), link, &group());
    }
    let effects = play.request(Op::Follow(Follow { groups: vec!["friends".into()], ..Follow::default() }));
    let [Did::ReadHeads(token, _)] = effects[..] else { panic!("{effects:?}") };
    play.answer(token, reach(3));
    play
}

fn reach(last: u64) -> StoreAnswer {
    let head = Some(Head { epoch: 7, first: 1, last, ..Head::default() });
    StoreAnswer::HeadsRead(HeadsRead { heads: vec![HeadRead { head }] })
}

/// What is told after a look at the group, which reaches to `last`.
fn look(play: &mut Play, last: u64) -> Vec<Did> {
    play.now = play.owner.check_due().expect("somebody follows a group");
    play.owner.check(play.now);
    let effects = play.effects();
    let [Did::ReadHeads(token, groups)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*groups, ["friends"]);
    play.answer(*token, reach(last))
}

#[test]
fn what_nobody_has_told_of_a_group_is_found_by_comparing_heads_and_told_once() {
    let mut play = followed();
    assert_eq!(look(&mut play, 3), []);
    assert_eq!(look(&mut play, 5), [Did::Behind(10, 5), Did::Behind(20, 5)]);
    assert_eq!(look(&mut play, 5), []);
    let token = play.appends(to_group("1")).token;
    play.answer(token, appended(6, &Bytes::new()));
    assert_eq!(look(&mut play, 6), [], "it was pushed");
    // No such group any more: its members hear of it in their inboxes.
    play.owner.check(play.owner.check_due().expect("due"));
    let effects = play.effects();
    let [Did::ReadHeads(token, _)] = effects[..] else { panic!("{effects:?}") };
    let nothing = HeadsRead { heads: vec![HeadRead { head: Some(Head::default()) }] };
    assert_eq!(play.answer(token, StoreAnswer::HeadsRead(nothing)), []);
    // Nobody follows it any more.
    [1, 2].into_iter().for_each(|link| play.owner.followers.left(link));
    play.owner.check(play.owner.check_due().expect("due"));
    assert_eq!((play.effects(), play.owner.check_due()), (vec![], None));
}

#[test]
fn after_an_append_of_which_nobody_knows_what_came_the_group_is_looked_after_soon() {
    for failure in [StoreFailure::Expired { shard: ShardId::REGISTRY }, StoreFailure::Unexpected] {
        let mut play = followed();
        (0..60).for_each(|user| {
            play.knows(&format!("user{user}"), &[session(&format!("user{user}"), "a", 10, user + 2)]);
        });
        let token = play.appends(to_group("1")).token;
        play.fails(token, failure);
        play.owner.check(play.now);
        let asked = play.effects();
        let asks = |did: &Did| matches!(did, Did::ReadHeads(_, names) if names.contains(&"friends".to_owned()));
        assert!(asked.iter().any(asks), "{asked:?}");
    }
}

#[test]
fn a_device_has_its_cursor_in_a_group_moved_with_the_one_in_its_inbox() {
    let bob = UserId::new("bob").expect("valid");
    let acknowledge = |timeline: TimelineId, beyond| {
        Op::Acknowledge(Acknowledge {
            user: "bob".into(),
            device: "a".into(),
            timeline: Some(timeline.to_client()),
            position: Some(client::Position { epoch: 7, seq: 3 }),
            incarnation: Some(64),
            beyond,
        })
    };
    let mut play = play();
    assert_eq!(play.request(acknowledge(TimelineId::Inbox(bob), false)), []);
    assert_eq!(play.request(acknowledge(TimelineId::Group(group()), false)), []);
    play.owner.flush_cursors(play.now);
    let effects = play.effects();
    let [Did::MoveCursors(token, user, _, 64, moved)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((user.as_str(), &**moved), ("bob", &[("bob".into(), 7, 3), ("friends".into(), 7, 3)][..]));
    assert_eq!(play.answer(*token, StoreAnswer::Done(Done {})).len(), 2);
    // A member could make all others read the group anew.
    let effects = play.request(acknowledge(TimelineId::Group(group()), true));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Invalid);
    let mut below = Play::new();
    let effects = below.request(acknowledge(TimelineId::Group(group()), false));
    assert_eq!(refusal(&effects[0]).code(), client::Code::Unsupported);
}

#[test]
fn nothing_crosses_the_border_of_a_domain_unless_it_is_allowed() {
    let in_group =
        |group: &str, sender: &str| change_group(sender, group, members(change_members::Change::Join, &[sender]));
    let play = || {
        let mut play = play();
        play.decides(vec![Domain {
            name: "b.example".to_owned(),
            crosses_to: vec!["a.example".to_owned()],
            ..Domain::default()
        }]);
        play
    };
    let refused = |op: Op| {
        let mut play = play();
        let effects = play.request(op);
        let [did] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(refusal(did).code(), client::Code::Forbidden);
        assert!(refusal(did).reason.ends_with("is of a domain that this one does not talk to"), "{:?}", refusal(did));
    };
    refused(in_group("club", "eve@a.example"));
    refused(in_group("club@a.example", "eve"));
    refused(in_group("club@b.example", "eve@c.example"));
    refused(change(members(change_members::Change::Add, &["eve@a.example"])));
    for (group, sender) in [("club@a.example", "eve@a.example"), ("club@b.example", "eve@a.example")] {
        let effects = play().request(in_group(group, sender));
        assert!(matches!(&effects[..], [Did::ChangeGroup(..)]), "{effects:?}");
    }
    let read = |group: &str, reader: &str| {
        let reader = Some(Person { user: reader.to_owned(), incarnation: 0 });
        Op::ReadGroup(link::ReadGroup { group: group.to_owned(), reader })
    };
    refused(read("club@a.example", "eve"));
    let history = |group: &str, user: &str| {
        let timeline = Some(TimelineId::Group(GroupId::new(group).expect("valid")).to_client());
        Op::Read(link::ReadTimeline { timeline, user: user.to_owned(), limit: 9, ..link::ReadTimeline::default() })
    };
    refused(history("club@a.example", "eve"));
    for user in ["eve@b.example", ""] {
        let effects = play().request(history("club@a.example", user));
        assert!(matches!(&effects[..], [Did::ReadTimeline(..)]), "{user:?}: {effects:?}");
    }
}

#[test]
fn who_is_writing_in_a_group_is_told_once_to_each_gateway_that_follows_if_it_may_write() {
    let mut play = play();
    let composing = || {
        let from = Some(Person { user: "alice".into(), incarnation: 9 });
        let (group, state) = ("friends".into(), ChatState::Composing.into());
        Op::TellChatState(TellChatState { from, state, group, ..TellChatState::default() })
    };
    let done = |id| Did::Answer(id, Answer::Done(link::Done {}));
    assert_eq!(play.request(composing()), [done(1)], "nobody follows it, and nothing is read");
    for (gateway, link) in [(10, 1), (20, 2)] {
        play.owner.followers.follow(LeaseId(gateway), link, &group());
    }
    let mut answered = |read: Result<GroupRead, StoreFailure>| {
        let effects = play.request(composing());
        let [Did::ReadGroup(token, ref asked)] = effects[..] else { panic!("{effects:?}") };
        assert_eq!(asked.reader, Some(Person { user: "alice".into(), incarnation: 9 }));
        assert_eq!(asked.writes_at_ms, 1_000);
        match read {
            Ok(read) => play.answer(token, StoreAnswer::GroupRead(read)),
            Err(failure) => play.fails(token, failure),
        }
    };
    let read = |members, writes| GroupRead {
        group: Some(Group { members, ..Group::default() }),
        writes,
        ..GroupRead::default()
    };
    let told = ChatStateTold { from: "alice".into(), state: ChatState::Composing.into(), group: "friends".into() };
    let shown = |gateway| Did::Notice(gateway, Vec::new(), Notice::ChatState(told.clone()));
    assert_eq!(answered(Ok(read(200, true))), [shown(10), shown(20), done(2)]);
    assert_eq!(answered(Ok(read(3, false))), [done(3)], "a reader, or muted");
    let why = || "there is no such group".to_owned();
    assert_eq!(answered(Err(StoreFailure::NotFound { detail: why() })), [done(4)], "no member");
    let large = answered(Ok(read(201, true)));
    assert_eq!(refusal(&large[0]).code(), client::Code::Unsupported);
    assert_eq!(large.len(), 1, "nobody is told");
    let lost = answered(Err(StoreFailure::Unexpected));
    assert_eq!(refusal(&lost[0]).code(), client::Code::Internal);
}
