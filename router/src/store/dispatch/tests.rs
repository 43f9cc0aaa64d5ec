//! Three nodes that say what the test wants.

use super::*;
use carillon_proto::{
    ShardKind,
    pb::store::{
        Appended, Busy, Done, Full, Head, LaneClosed, NotHere, NotLeader, ReadHead, Rejected, StoreError, StoreReply,
        TimelineCommand, Unknown, rejected, store_error::Why,
    },
};

const SHARD: ShardId = ShardId { kind: ShardKind::Timeline, index: 0 };
const OTHER: ShardId = ShardId { kind: ShardKind::Timeline, index: 1 };
const SOON: Duration = Duration::from_secs(1);

struct Play {
    dispatch: StoreDispatch<u32>,
    now: Instant,
}

impl Play {
    /// Nodes a, b and c with streams 1, 2 and 3.
    fn new() -> Self {
        let mut dispatch = StoreDispatch::new(100, 1);
        dispatch.set_nodes(Nodes { members: ["a", "b", "c"].map(str::to_owned).to_vec(), ..Nodes::default() });
        for (address, stream) in [("a", 1), ("b", 2), ("c", 3)] {
            dispatch.stream_up(address, stream);
        }
        Self { dispatch, now: Instant::now() }
    }

    /// Write 1 is on its way to node a, read 2 has learnt that c leads, and write 3 waits.
    fn with_a_write_to_the_leader_before() -> Self {
        let mut play = Self::new();
        play.write(1);
        play.read(2);
        assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 0)]);
        play.refuses(2, not_leader("c"));
        play.write(3);
        assert_eq!(play.sent(), [(3, 3, 0)], "the read alone");
        play
    }

    fn submit(&mut self, name: u32, op: Op) {
        self.submit_to(SHARD, name, op, Place::Own);
    }

    fn submit_to(&mut self, shard: ShardId, name: u32, op: Op, place: Place) {
        let deadline = self.now + SOON * 10;
        let op = StoreOp { shard, op, traceparent: String::new(), deadline, place, tries: 0, to: name };
        self.dispatch.submit(Box::new(op), self.now);
    }

    /// The first of two writes: the other one will go to another shard.
    fn first(&mut self, shard: ShardId, name: u32, other: ShardId) {
        self.submit_to(shard, name, Op::Timeline(TimelineCommand::default()), Place::AndFor(other));
    }

    fn second(&mut self, shard: ShardId, name: u32) {
        self.submit_to(shard, name, Op::Timeline(TimelineCommand::default()), Place::Follows);
    }

    fn write(&mut self, name: u32) {
        self.submit(name, Op::Timeline(TimelineCommand::default()));
    }

    fn read(&mut self, name: u32) {
        self.submit(name, Op::ReadHead(ReadHead::default()));
    }

    /// What was sent: stream, id, lane.
    fn sent(&mut self) -> Vec<(StreamId, u64, u64)> {
        self.dispatch.flush(self.now);
        std::mem::take(&mut self.dispatch.effects.sends).into_iter().map(|(s, r)| (s, r.id, r.lane)).collect()
    }

    fn says(&mut self, id: u64, result: StoreAnswer) {
        self.dispatch.reply(StoreReply { id, result: Some(result) }, self.now);
    }

    fn refuses(&mut self, id: u64, why: Why) {
        self.says(id, StoreAnswer::Error(StoreError { why: Some(why) }));
    }

    fn answered(&mut self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.dispatch.effects.answers).into_iter().map(|(who, r)| (who, r.is_ok())).collect()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.dispatch.tick(self.now);
    }
}

fn appended() -> StoreAnswer {
    StoreAnswer::Appended(Appended { epoch: 1, seq: 1, ..Appended::default() })
}

fn not_leader(leader: &str) -> Why {
    Why::NotLeader(NotLeader { leader: leader.to_owned() })
}

#[test]
fn a_hint_is_followed_at_once_with_the_next_lane_and_remembered() {
    let mut play = Play::new();
    play.write(1);
    play.write(2);
    assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 1)]);
    play.refuses(1, not_leader("c"));
    assert_eq!(play.sent(), [], "an answer is outstanding");
    play.refuses(2, Why::LaneClosed(LaneClosed {}));
    assert_eq!(play.sent(), [(3, 3, 2), (3, 4, 2)]);
    play.says(3, appended());
    play.says(4, appended());
    assert_eq!(play.answered(), [(1, true), (2, true)]);
    assert!(play.dispatch.is_idle());
    assert_eq!(play.dispatch.leaders()[&SHARD], "c");
    play.write(3);
    assert_eq!(play.sent(), [(3, 5, 2)]);
}

#[test]
fn writes_to_a_leader_of_which_a_read_has_told_do_not_overtake_those_on_their_way_to_the_one_before() {
    for is_refused in [true, false] {
        let mut play = Play::with_a_write_to_the_leader_before();
        if is_refused {
            play.refuses(1, not_leader("c"));
            assert_eq!(play.sent(), [(3, 4, 2), (3, 5, 2)]);
        } else {
            play.says(1, appended());
            assert_eq!(play.sent(), [(3, 4, 2)]);
        }
    }
}

#[test]
fn who_does_not_answer_is_waited_for_only_for_a_moment_when_another_node_leads() {
    let mut play = Play::with_a_write_to_the_leader_before();
    play.wait(SOON);
    assert_eq!(play.sent(), [(3, 4, 2), (3, 5, 2)]);
}

#[test]
fn hints_in_a_circle_do_not_spin() {
    let mut play = Play::new();
    play.write(1);
    assert_eq!(play.sent(), [(1, 1, 1)]);
    play.refuses(1, not_leader("b"));
    assert_eq!(play.sent(), [(2, 2, 2)]);
    play.refuses(2, not_leader("a"));
    assert_eq!(play.sent(), [], "only after a pause");
    play.wait(SOON);
    assert_eq!(play.sent(), [(1, 3, 3)]);
    // It says of itself that it leads, but does not yet.
    play.refuses(3, not_leader("a"));
    assert_eq!(play.sent(), []);
    play.wait(SOON);
    assert_eq!(play.sent(), [(1, 4, 4)]);
}

#[test]
fn a_node_that_is_lost_is_replaced_by_one_that_is_connected() {
    let mut play = Play::new();
    play.write(1);
    play.read(2);
    assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 0)]);
    play.dispatch.stream_down(2, play.now);
    play.dispatch.stream_down(1, play.now);
    assert_eq!(play.sent(), []);
    play.wait(SOON);
    assert_eq!(play.sent(), [(3, 3, 2), (3, 4, 0)]);
    play.says(1, appended());
    assert_eq!(play.answered(), [], "the answer of a stream that is down is nobody's");
    play.says(3, appended());
    play.says(4, StoreAnswer::Head(Head::default()));
    assert_eq!(play.answered(), [(1, true), (2, true)]);
}

#[test]
fn with_no_node_connected_everything_waits_for_one() {
    let mut play = Play::new();
    for stream in 1..=3 {
        play.dispatch.stream_down(stream, play.now);
    }
    play.write(1);
    play.read(2);
    assert_eq!(play.sent(), []);
    play.wait(SOON);
    assert_eq!(play.sent(), []);
    play.dispatch.stream_up("b", 9);
    play.wait(SOON);
    assert_eq!(play.sent(), [], "the next one that is connected is chosen");
    play.wait(SOON);
    let sent: Vec<_> = play.sent().iter().map(|(stream, _, lane)| (*stream, *lane > 0)).collect();
    assert_eq!(sent, [(9, true), (9, false)]);
}

#[test]
fn a_busy_shard_is_asked_again_when_it_says() {
    let mut play = Play::new();
    play.write(1);
    play.sent();
    play.refuses(1, Why::Busy(Busy { retry_after_ms: 400 }));
    play.wait(Duration::from_millis(399));
    assert_eq!(play.sent(), []);
    play.wait(Duration::from_millis(1));
    assert_eq!(play.sent(), [(1, 2, 2)]);
}

#[test]
fn what_is_rejected_goes_straight_back_and_the_rest_goes_on() {
    let mut play = Play::new();
    play.write(1);
    play.write(2);
    play.sent();
    let rejected = Rejected { reason: rejected::Reason::Exists.into(), detail: String::new(), ..Rejected::default() };
    play.refuses(1, Why::Rejected(rejected));
    play.says(2, StoreAnswer::Done(Done {}));
    assert_eq!(play.answered(), [(1, false), (2, true)]);
    assert_eq!(play.sent(), []);
}

#[test]
fn deadlines_end_writes_and_reads_once() {
    let mut play = Play::new();
    play.write(1);
    play.read(2);
    play.sent();
    play.wait(SOON * 10);
    let mut answered = play.answered();
    answered.sort_unstable();
    assert_eq!(answered, [(1, false), (2, false)]);
    assert!(play.dispatch.is_idle());
    play.says(1, appended());
    play.says(2, StoreAnswer::Head(Head::default()));
    assert_eq!(play.answered(), []);
}

#[test]
fn an_unknown_outcome_is_asked_again_elsewhere() {
    let mut play = Play::new();
    play.write(1);
    play.read(2);
    play.sent();
    play.refuses(1, Why::Unknown(Unknown { why: "leader lost".into() }));
    play.refuses(2, Why::Unknown(Unknown { why: "leader lost".into() }));
    play.wait(SOON);
    let streams: Vec<_> = play.sent().iter().map(|sent| sent.0).collect();
    assert_eq!(streams.len(), 2);
    assert!(streams.iter().all(|stream| *stream != 1), "{streams:?}");
}

#[test]
fn a_node_that_has_no_replica_of_the_shard_is_left_and_nothing_is_lost() {
    let mut play = Play::new();
    play.write(1);
    play.write(2);
    play.read(3);
    assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 1), (1, 3, 0)]);
    for id in 1..=3 {
        play.refuses(id, Why::NotHere(NotHere { view_version: 7 }));
    }
    assert_eq!(play.answered(), [], "it is no answer");
    play.wait(SOON);
    assert_eq!(play.sent(), [(2, 4, 2), (2, 5, 2), (2, 6, 0)], "in order, at another node");
    play.says(4, appended());
    play.says(5, appended());
    play.says(6, StoreAnswer::Head(Head::default()));
    assert_eq!(play.answered(), [(1, true), (2, true), (3, true)]);
}

#[test]
fn the_nodes_of_the_placement_are_asked_and_a_new_one_is_followed() {
    let mut play = Play::new();
    let members: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let place = |on: &[&str]| Nodes {
        members: members.clone(),
        replicas: [(SHARD, on.iter().map(|node| (*node).to_owned()).collect())].into(),
    };
    play.dispatch.set_nodes(place(&["c", "a"]));
    play.write(1);
    assert_eq!(play.sent(), [(3, 1, 1)], "who is preferred");
    play.refuses(1, Why::NotHere(NotHere { view_version: 9 }));
    play.wait(SOON);
    assert_eq!(play.sent(), [(1, 2, 2)], "the other replica");
    play.refuses(2, Why::NotHere(NotHere { view_version: 9 }));
    play.dispatch.set_nodes(place(&["b"]));
    play.wait(SOON);
    assert_eq!(play.sent(), [(3, 3, 3)], "as it was before");
    play.refuses(3, Why::NotHere(NotHere { view_version: 9 }));
    play.wait(SOON);
    assert_eq!(play.sent(), [(2, 4, 4)], "where it is now");
    play.says(4, appended());
    assert_eq!(play.answered(), [(1, true)]);
}

#[test]
fn a_node_without_a_word_is_left() {
    let mut play = Play::new();
    play.write(1);
    play.read(2);
    assert_eq!(play.sent(), [(1, 1, 1), (1, 2, 0)]);
    play.wait(READ_TRY);
    play.wait(SOON);
    let sent = play.sent();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent.iter().all(|(stream, _, _)| *stream != 1), "{sent:?}");
}

#[test]
fn a_full_stream_delays_and_a_full_shard_refuses() {
    let mut play = Play::new();
    play.write(1);
    let sent = play.sent();
    play.dispatch.not_sent(sent[0].1, play.now);
    assert_eq!(play.sent(), []);
    play.wait(SOON);
    assert_eq!(play.sent(), [(1, 2, 2)]);
    (2..=100).for_each(|name| play.write(name));
    assert_eq!(play.answered(), []);
    play.write(101);
    assert_eq!(play.answered(), [(101, false)]);
}

#[test]
fn the_first_of_two_writes_is_refused_when_only_the_second_would_find_its_shard_full() {
    let mut play = Play::new();
    (1..=99).for_each(|name| play.write(name));
    play.first(OTHER, 100, SHARD);
    assert_eq!(play.answered(), []);
    play.first(OTHER, 101, SHARD);
    play.write(102);
    assert_eq!(play.answered(), [(101, false), (102, false)], "the last place is kept");
    let sent = play.sent();
    let first = sent.last().expect("sent").1;
    assert_eq!(sent.len(), 100);
    play.says(first, appended());
    play.second(SHARD, 103);
    play.second(SHARD, 104);
    assert_eq!(play.answered(), [(100, true)], "what follows from a write is never refused");
    assert_eq!(play.sent().len(), 2);
}

#[test]
fn a_kept_place_is_let_go_however_the_first_write_ends() {
    let mut play = Play::new();
    play.first(OTHER, 1, SHARD);
    play.first(OTHER, 2, SHARD);
    play.first(OTHER, 3, SHARD);
    play.first(SHARD, 4, SHARD);
    let ids: Vec<u64> = play.sent().iter().map(|sent| sent.1).collect();
    // Shards are sent to in their order.
    play.says(ids[0], appended());
    play.says(ids[1], appended());
    play.refuses(ids[2], Why::Rejected(Rejected::default()));
    assert_eq!(play.answered(), [(4, true), (1, true), (2, false)]);
    play.wait(SOON * 10);
    assert_eq!(play.answered(), [(3, false)]);
    for shard in [SHARD, OTHER] {
        assert!(play.dispatch.shard(shard).lane.has_room(100) && !play.dispatch.shard(shard).lane.has_room(101));
    }
}

#[test]
fn a_full_disk_refuses_at_once_with_a_time_and_before_the_first_of_two_writes() {
    let mut play = Play::new();
    let full = || Why::Full(Full { retry_after_ms: 3000 });
    let failed = |play: &mut Play| -> Vec<(u32, StoreFailure)> {
        let answers = std::mem::take(&mut play.dispatch.effects.answers);
        answers.into_iter().filter_map(|(who, answer)| Some((who, answer.err()?))).collect()
    };
    play.write(1);
    play.write(2);
    let sent = play.sent();
    play.refuses(sent[0].1, full());
    assert_eq!(failed(&mut play), [(1, StoreFailure::Full { shard: SHARD, retry_after_ms: 3000 })]);
    play.first(OTHER, 3, SHARD);
    let told = failed(&mut play);
    assert!(
        matches!(told[..], [(3, StoreFailure::Full { shard: SHARD, retry_after_ms })] if FULL_AGAIN_MS.contains(&retry_after_ms)),
        "not all come back at the same time: {told:?}"
    );
    play.refuses(sent[1].1, not_leader(""));
    play.wait(SOON);
    let again = play.sent();
    play.refuses(again[0].1, full());
    assert_eq!(
        failed(&mut play),
        [(2, StoreFailure::Expired { shard: SHARD })],
        "an earlier try may have been carried out"
    );
    play.wait(SOON * 3);
    play.first(OTHER, 4, SHARD);
    assert_eq!(play.sent().len(), 1);
    assert!(play.dispatch.effects.answers.is_empty());
}
