use carillon_proto::pb::{
    link::signaled::Notice,
    store::{
        Allowed, AllowedRead, Conversation, ConversationRow, ConversationsMoved, ConversationsRead, HeadRead,
        HeadsRead, MarksRead, Member, MembersRead, TimelineKey, marks_read, member::Standing, members_read,
        move_marks::Mark,
    },
};

use super::play::*;

fn with(user: &str) -> Option<TimelineKey> {
    Some(TimelineKey { kind: Kind::Inbox.into(), owner: user.to_owned().into() })
}

fn group(name: &str) -> Option<TimelineKey> {
    Some(TimelineKey { kind: Kind::Group.into(), owner: name.to_owned().into() })
}

fn mark(conversation: Option<TimelineKey>, seq: u64) -> Mark {
    Mark { conversation, epoch: 7, seq }
}

fn reads(marks: Vec<Mark>) -> Op {
    Op::MoveMarks(link::MoveMarks { user: "alice".into(), incarnation: 0, marks })
}

fn row(conversation: Option<TimelineKey>, row: Conversation, read_id: &str) -> ConversationRow {
    ConversationRow { conversation, row: Some(row), unread: 2, read_id: read_id.into(), mentions: 0 }
}

fn moved(before: u64, version: u64, rows: Vec<ConversationRow>) -> ConversationsMoved {
    ConversationsMoved { epoch: 7, before, version, rows }
}

/// At the level of conversations; alice is signed in on two gateways, bob on one.
fn play() -> Play {
    let mut play = Play::new();
    play.level_rises(Level::GROUPS);
    play.knows("alice", &[session("alice", "phone", 10, 1), session("alice", "web", 20, 2)]);
    play.knows("bob", &[session("bob", "phone", 30, 3)]);
    play
}

/// Requests whose marks go together in one command.
fn one_move(play: &mut Play) -> (u64, Vec<Mark>) {
    play.owner.flush_cursors(play.now);
    match <[Did; 1]>::try_from(play.effects()) {
        Ok([Did::MoveMarks(token, moves)]) => {
            assert_eq!((moves.timeline, moves.incarnation), (with("alice"), 0));
            (token, moves.marks)
        }
        other => panic!("not one move: {other:?}"),
    }
}

#[test]
fn what_is_read_is_stored_once_a_tick_and_told_to_all_devices_and_to_the_other_side() {
    let mut play = play();
    assert_eq!(play.request(reads(vec![mark(with("bob"), 5)])), []);
    assert_eq!(play.request(reads(vec![mark(with("bob"), 4), mark(with("carol"), 6)])), []);
    assert!(play.owner.cursors_due().is_some());
    let (token, marks) = one_move(&mut play);
    assert_eq!(marks, [mark(with("bob"), 5), mark(with("carol"), 6)]);
    let of_bob = row(with("bob"), Conversation { read_seq: 5, peer_incarnation: 0, ..Default::default() }, "m5");
    let of_carol = row(with("carol"), Conversation::default(), "");
    let answer = moved(8, 9, vec![of_bob, of_carol]);
    let did = play.answer(token, StoreAnswer::ConversationsMoved(answer.clone()));
    let told = |gateway, connection| Did::Notice(gateway, vec![connection], Notice::Conversations(answer.clone()));
    let to_bob =
        link::Marked { user: "bob".into(), by: "alice".into(), read_id: "m5".into(), ..link::Marked::default() };
    let answered = |id| Did::Answer(id, Answer::ConversationsMoved(answer.clone()));
    assert_eq!(did, [Did::Marked(to_bob.clone()), told(10, 1), told(20, 2), answered(1), answered(2)]);

    play.owner.marked(&to_bob);
    assert_eq!(play.effects(), [Did::Notice(30, vec![3], Notice::Marked(to_bob.clone()))]);
    play.owner.marked(&link::Marked { incarnation: 64, ..to_bob });
    assert_eq!(play.effects(), [], "the next owner of the name hears nothing");
}

#[test]
fn a_mark_of_the_time_of_an_earlier_owner_of_the_name_and_one_for_oneself_are_told_to_nobody() {
    let mut play = play();
    play.request(reads(vec![mark(with("bob"), 5), mark(with("alice"), 5)]));
    let (token, _) = one_move(&mut play);
    let before = Conversation { read_seq: 5, since_seq: 6, peer_incarnation: 64, ..Conversation::default() };
    let own = row(with("alice"), Conversation { read_seq: 5, ..Conversation::default() }, "m5");
    // Nothing has changed.
    let answer = moved(8, 8, vec![row(with("bob"), before, "m5"), own]);
    let did = play.answer(token, StoreAnswer::ConversationsMoved(answer.clone()));
    assert_eq!(did, [Did::Answer(1, Answer::ConversationsMoved(answer))]);
}

#[test]
fn how_much_is_unread_in_groups_is_asked_of_their_shards() {
    let mut play = play();
    let read = store::ReadConversations { since: 3, epoch: 7, ..store::ReadConversations::default() };
    let did = play.request(Op::ReadConversations(link::ReadConversations { user: "alice".into(), read: Some(read) }));
    let [Did::ReadConversations(token, read)] = &did[..] else { panic!("{did:?}") };
    assert_eq!((read.timeline.clone(), read.since), (with("alice"), 3));
    let marked = Conversation { read_epoch: 5, read_seq: 6, ..Conversation::default() };
    let rows = vec![
        row(with("bob"), Conversation::default(), ""),
        row(group("a"), marked.clone(), ""),
        row(group("b"), marked, ""),
    ];
    let page = ConversationsRead { epoch: 7, version: 9, rows: rows.clone(), complete: true, changes: true };
    let mut waiting: Vec<(u64, Vec<String>)> = Vec::new();
    for did in play.answer(*token, StoreAnswer::ConversationsRead(page.clone())) {
        let Did::ReadHeads(token, groups) = did else { panic!("{did:?}") };
        waiting.push((token, groups));
    }
    let count = |group: &str| if group == "a" { 11 } else { 0 };
    let mut answered = Vec::new();
    for (token, groups) in waiting {
        assert_eq!(answered, []);
        // Of the second one alice is no member any more.
        let head = |group: &String| HeadRead {
            head: (group == "a").then(|| Head { unread: count(group), mentions: 3, ..Head::default() }),
        };
        let heads = HeadsRead { heads: groups.iter().map(head).collect() };
        answered = play.answer(token, StoreAnswer::HeadsRead(heads));
    }
    let mut rows = rows;
    (rows[1].unread, rows[1].mentions, rows[2].unread) = (11, 3, 0);
    assert_eq!(answered, [Did::Answer(1, Answer::ConversationsRead(ConversationsRead { rows, ..page }))]);
}

#[test]
fn a_group_that_does_not_answer_leaves_no_request_without_an_answer() {
    let mut play = play();
    play.request(reads(vec![mark(group("a"), 5)]));
    let (token, _) = one_move(&mut play);
    let answer = moved(8, 9, vec![row(group("a"), Conversation::default(), "")]);
    let did = play.answer(token, StoreAnswer::ConversationsMoved(answer));
    let [Did::ReadHeads(token, _)] = did[..] else { panic!("{did:?}") };
    let did = play.fails(token, StoreFailure::Expired { shard: ShardId::REGISTRY });
    let [refused] = &did[..] else { panic!("{did:?}") };
    assert_eq!((refusal(refused).code(), refusal(refused).retry), (client::Code::Unavailable, true));
}

#[test]
fn who_wants_to_hear_of_it_is_told_when_a_device_of_the_recipient_has_the_message() {
    let mut play = play();
    let Op::Send(plain) = send("bob", "1") else { panic!("no send") };
    for (client_id, wants_marks, seq) in [("1", false, 1), ("2", true, 2), ("3", true, 3)] {
        let op = Op::Send(Send { client_id: client_id.to_owned().into(), wants_marks, ..plain.clone() });
        let Appending { token, .. } = play.appends(op);
        play.answer(token, appended(seq, &Bytes::new()));
    }
    let acknowledge = |seq| {
        Op::Acknowledge(Acknowledge {
            user: "bob".into(),
            device: "phone".into(),
            timeline: Some(TimelineId::Inbox(UserId::new("bob").expect("valid")).to_client()),
            position: Some(Position { epoch: 7, seq }),
            incarnation: Some(0),
            beyond: false,
        })
    };
    let mut told = |seq| {
        play.request(acknowledge(seq));
        play.owner.flush_cursors(play.now);
        let did = play.effects();
        let [Did::MoveCursors(token, ..)] = did[..] else { panic!("{did:?}") };
        let marked = |did| match did {
            Did::Marked(marked) => Some((marked.user, marked.by, marked.delivered_id.is_empty())),
            _ => None,
        };
        play.answer(token, StoreAnswer::Done(Done {})).into_iter().filter_map(marked).collect::<Vec<_>>()
    };
    assert_eq!(told(1), []);
    assert_eq!(told(3), [("alice".to_owned(), "bob".to_owned(), false)], "once for both");
    assert_eq!(told(3), []);
}

#[test]
fn marks_of_others_are_read_where_they_are_and_in_a_group_of_members_alone() {
    let mut play = play();
    let ask = |group: &str, users: &[&str]| {
        Op::ReadMarks(link::ReadMarks {
            user: "alice".into(),
            incarnation: 0,
            group: group.into(),
            users: users.iter().map(|user| (*user).to_owned()).collect(),
        })
    };
    let of = |user: &str| marks_read::Mark { read_id: format!("of {user}"), ..marks_read::Mark::default() };
    let finish = |play: &mut Play, asked: Vec<Did>| {
        let (mut waiting, mut last) = (asked, Vec::new());
        while let Some(did) = waiting.pop() {
            let (token, answer) = match did {
                Did::ReadAllowed(token, by, users) => {
                    assert_eq!(by, "alice");
                    let allowed = users.iter().map(|_| Allowed { read_marks: true, ..Allowed::default() }).collect();
                    (token, StoreAnswer::AllowedRead(AllowedRead { allowed }))
                }
                Did::ReadMarks(token, users, _) => {
                    let marks = users.iter().map(|user| of(user)).collect();
                    (token, StoreAnswer::MarksRead(MarksRead { marks }))
                }
                did => {
                    last.push(did);
                    continue;
                }
            };
            waiting.extend(play.answer(token, answer));
        }
        last
    };
    let asked = play.request(ask("", &["bob", "carol", "dave"]));
    let answer = finish(&mut play, asked);
    let marks = vec![of("bob"), of("carol"), of("dave")];
    assert_eq!(answer, [Did::Answer(1, Answer::MarksRead(MarksRead { marks }))]);

    let did = play.request(ask("g", &["bob", "carol"]));
    let [Did::ReadMembers(token, read)] = &did[..] else { panic!("{did:?}") };
    assert_eq!(read.reader.as_ref().map(|reader| &*reader.user), Some("alice"));
    let standing = |user: &str, standing: Standing| members_read::Row {
        user: user.into(),
        member: Some(Member { standing: standing.into(), ..Member::default() }),
    };
    let members = vec![standing("bob", Standing::Member), standing("carol", Standing::Banned)];
    let asked = play.answer(*token, StoreAnswer::MembersRead(MembersRead { members, complete: true }));
    let answer = finish(&mut play, asked);
    let marks = vec![of("bob"), marks_read::Mark::default()];
    assert_eq!(answer, [Did::Answer(2, Answer::MarksRead(MarksRead { marks }))]);

    let did = play.request(ask("g", &["bob"]));
    let [Did::ReadMembers(token, _)] = did[..] else { panic!("{did:?}") };
    let did = play.fails(token, StoreFailure::NotFound { detail: "no such group".into() });
    assert_eq!(refusal(&did[0]).code(), client::Code::NotFound);
    // Nothing crosses the border of a domain.
    let asked = play.request(ask("", &["bob@acme.example"]));
    let nothing = MarksRead { marks: vec![marks_read::Mark::default()] };
    assert_eq!(asked, [Did::Answer(4, Answer::MarksRead(nothing))]);
    let did = play.request(ask("", &[]));
    assert_eq!(refusal(&did[0]).code(), client::Code::Invalid);
}

#[test]
fn below_the_level_of_conversations_requests_are_refused() {
    let mut play = Play::new();
    let did = play.request(reads(vec![mark(with("bob"), 5)]));
    assert_eq!(refusal(&did[0]).code(), client::Code::Unsupported);
}
