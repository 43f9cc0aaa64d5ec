//! A feed and those who follow it, through whatever can happen between a store and them.

mod client;
mod world;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Epoch, GroupId, Position, TimelineId,
    pb::{
        client::{self as wire, Start},
        link::{self, TimelineHead},
        store::Head,
    },
};
use proptest::prelude::*;

use super::*;
use client::Client;
use world::{FIRST_EPOCH, FOLLOWERS, World};

#[derive(Debug, Clone)]
enum Act {
    /// Something is appended; so many pushes of it are under way.
    Append(usize),
    /// A follower's client sends: the push and the answer come in this order, or only the answer comes.
    Own(u64, Answer),
    /// A push under way arrives.
    Arrive(usize),
    SignIn(u64),
    Opened(u64),
    /// The session looks into its mailbox.
    Takes(u64),
    /// The session's page comes.
    Page(u64, Read),
    FeedReads,
    /// The page for the feed comes.
    FeedPage(Read),
    Pause(u64),
    Resume(u64),
    /// Only what is kept of a quiet timeline is kept.
    Sleep(u64),
    Leave(u64),
    Trim(u64),
    /// The timeline is put back from a copy.
    Restore,
    /// The name of the timeline gets another owner.
    NextOwner,
    /// The router tells how far the timeline reaches.
    Behind,
    Wait,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    First,
    Last,
    /// The answer alone: nothing is pushed.
    Alone,
}

#[derive(Debug, Clone, Copy)]
enum Read {
    Fails,
    Brings(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let who = 1..=FOLLOWERS;
    let read = prop_oneof![1 => Just(Read::Fails), 3 => (1..5usize).prop_map(Read::Brings)];
    let answer = prop_oneof![Just(Answer::First), Just(Answer::Last), Just(Answer::Alone)];
    prop_oneof![
        8 => (0..3usize).prop_map(Act::Append),
        3 => (who.clone(), answer).prop_map(|(who, answer)| Act::Own(who, answer)),
        8 => any::<usize>().prop_map(Act::Arrive),
        3 => who.clone().prop_map(Act::SignIn),
        4 => who.clone().prop_map(Act::Opened),
        6 => who.clone().prop_map(Act::Takes),
        4 => (who.clone(), read.clone()).prop_map(|(who, read)| Act::Page(who, read)),
        3 => Just(Act::FeedReads),
        3 => read.prop_map(Act::FeedPage),
        1 => who.clone().prop_map(Act::Pause),
        2 => who.clone().prop_map(Act::Resume),
        3 => who.clone().prop_map(Act::Sleep),
        1 => who.prop_map(Act::Leave),
        1 => (0..4u64).prop_map(Act::Trim),
        1 => Just(Act::Restore),
        1 => Just(Act::NextOwner),
        1 => Just(Act::Behind),
        3 => Just(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn each_follower_hears_each_position_once_in_order(acts in prop::collection::vec(act(), 0..150)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.settle();
        let (epoch, last) = (world.store.epoch, world.store.last);
        for (who, client) in &world.clients {
            match client {
                Client::Out => {}
                Client::SigningIn { .. } => panic!("{who} was signed in"),
                // Of a timeline that is not there any more nothing can be missing. It is told so when something is pushed.
                Client::In(session) if session.epoch.is_some_and(|own| own != epoch) => {}
                Client::In(session) if session.incarnation != world.store.incarnation => {}
                Client::In(session) => prop_assert_eq!(session.next, last + 1, "{} has not heard all", who),
            }
        }
        world.now += Duration::from_secs(10);
        world.feeds.due(world.now, &mut world.mail);
        let catching_up = world.clients.values().any(|client| !matches!(client, Client::Out));
        prop_assert!(catching_up || world.feeds.is_empty());
        prop_assert_eq!(world.feeds.recent_bytes(), 0, "what nobody joins for is not kept");
        for who in 1..=FOLLOWERS {
            world.leave(who);
        }
        prop_assert!(world.feeds.is_empty(), "a feed that nobody follows is gone");
    }
}

#[test]
fn many_followers_are_handed_entries_a_piece_at_a_time_and_what_comes_meanwhile_together() {
    let mut world = World::new();
    for who in 1..=FOLLOWERS {
        world.sign_in(who);
        world.opened(who);
    }
    let mut handed = Vec::new();
    for _ in 0..3 {
        let position = world.append();
        world.push(1, position, None);
        handed.push(world.mail.entries());
    }
    for _ in 0..2 {
        while world.feeds.wake_at().is_some_and(|at| at <= world.now) {
            world.feeds.due(world.now, &mut world.mail);
            handed.push(world.mail.entries());
        }
        // The time of a round.
        world.now += Duration::from_millis(20);
    }
    assert_eq!(handed, [2, 2, 2, 4, 8, 12], "two are a piece in tests");
    for who in 1..=FOLLOWERS {
        world.takes(who);
        let Some(Client::In(session)) = world.clients.get(&who) else { panic!("it has left") };
        assert_eq!(session.next, 4, "it has all");
    }
}

/// Entries that wait for a walk are bounded; further ones are read from the store.
#[test]
fn entries_that_come_faster_than_they_are_handed_out_are_not_lost() {
    let mut world = World::new();
    for who in 1..=FOLLOWERS {
        world.sign_in(who);
        world.opened(who);
    }
    for _ in 0..200 {
        let position = world.append();
        world.push(1, position, None);
    }
    assert_eq!(world.mail.entries(), 2);
    world.settle();
    for client in world.clients.values() {
        let Client::In(session) = client else { panic!("it has left") };
        assert_eq!(session.next, 201);
    }
}

/// A session of the name's last owner learns late that its own message was accepted.
#[test]
fn a_message_of_the_last_owner_says_nothing_about_the_next_ones_timeline() {
    let mut world = World::new();
    world.store.incarnation = 2;
    world.sign_in(1);
    world.opened(1);
    let old = Position { epoch: Epoch(FIRST_EPOCH - 1), seq: 5 };
    for counted in [false, true] {
        let own = Own { incarnation: 1, position: old, counted };
        world.feeds.own(&world.timeline, Follower(2), &own, world.now, &mut world.mail);
    }
    let position = world.append();
    world.push(2, position, None);
    world.takes(1);
    let Some(Client::In(session)) = world.clients.get(&1) else { panic!("it has left") };
    assert_eq!(session.next, 2, "it has its first message");
}

/// A session pauses while an entry of before the restore waits in its mailbox, and joins the feed's next life before it
/// takes the entry.
#[test]
fn an_entry_of_before_a_restore_is_not_told_as_one_of_after_it() {
    let mut world = World::new();
    for act in [Act::SignIn(2), Act::Opened(2), Act::Append(1), Act::SignIn(3), Act::Arrive(0), Act::Opened(3)] {
        world.act(act);
    }
    for act in [Act::Append(0), Act::Append(0), Act::Restore, Act::Append(0), Act::Pause(2)] {
        world.act(act);
    }
    world.settle();
    let Some(Client::In(session)) = world.clients.get(&2) else { panic!("it has left") };
    assert_eq!((session.epoch, session.next), (Some(world.store.epoch), world.store.last + 1));
}

/// Inputs that feeds hand to connections.
#[derive(Default)]
struct Handed {
    entries: Vec<(Follower, u64)>,
    begun: Vec<(Follower, GroupId, Option<Head>)>,
}

impl Hand for Handed {
    fn entries(&mut self, to: Follower, entries: &[Arc<Entry>]) -> bool {
        self.entries.extend(entries.iter().map(|entry| (to, entry.position.seq)));
        true
    }

    fn left(&mut self, _: Follower, feed: FeedId, _: &Arc<TimelineName>, _: Left) {
        unreachable!("{feed:?} goes on");
    }

    fn begun(&mut self, to: Follower, group: &GroupId, head: Option<Head>) {
        self.begun.push((to, group.clone(), head));
    }
}

#[test]
fn of_groups_that_begin_those_are_live_at_once_of_which_the_device_has_all() {
    let (feeds, now, mut handed) = (Feeds::new(Duration::ZERO), Instant::now(), Handed::default());
    let group = |name: &str| GroupId::new(name).expect("valid");
    let head = Head { epoch: 9, first: 1, last: 4, ..Head::default() };
    let has = |seq| Some(wire::Position { epoch: 9, seq });
    let begin = |follows: &mut Follows, asked: &[(&str, u64, Option<wire::Position>)], handed: &mut Handed| {
        let asked = asked.iter().map(|(name, since, given)| {
            let name = bytes::Bytes::copy_from_slice(name.as_bytes());
            (name, Beginning { since: *since, given: *given, cursor: None, start: Start::Cursor })
        });
        match follows.ask(&feeds, FeedAsk::Begin(asked.collect()), now, handed) {
            Some(FeedAnswer::Found(FoundGroups { live, others })) => {
                let live =
                    live.iter().map(|live| (live.timeline.id.owner().to_owned(), live.given)).collect::<Vec<_>>();
                let others = others.into_iter().map(|(group, _, head)| (group.to_string(), head.map(|head| head.last)));
                (live, others.collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        }
    };
    let (mut one, mut two) = (Follows::new(Follower(1)), Follows::new(Follower(2)));
    let found = begin(&mut one, &[("all", 1, has(4)), ("none", 1, None), ("not valid", 1, None)], &mut handed);
    assert_eq!(found, (vec![], vec![("all".to_owned(), None), ("none".to_owned(), None)]), "nobody knows");
    assert_eq!(feeds.take_changed(), [(group("all"), true), (group("none"), true)]);
    let told = TimelineHead { timeline: Some(TimelineId::Group(group("all")).to_client()), head: Some(head) };
    feeds.told(&[group("all"), group("none")], &[told], now, &mut handed);
    assert_eq!(
        std::mem::take(&mut handed.begun),
        [(Follower(1), group("all"), Some(head)), (Follower(1), group("none"), None)]
    );
    let asked = [("all", 4, has(4)), ("none", 1, has(4))];
    assert_eq!(begin(&mut two, &asked, &mut handed).0, [("all".to_owned(), 4)]);
    assert!(feeds.take_changed().is_empty(), "both are followed already");
    for (number, given, since) in [(3, has(3), 1), (4, has(5), 1), (5, None, 1), (6, has(4), 5)] {
        let mut other = Follows::new(Follower(number));
        let found = begin(&mut other, &[("all", since, given)], &mut handed);
        assert_eq!(found, (vec![], vec![("all".to_owned(), Some(4))]), "{given:?} since {since}");
        other.leave(&feeds);
    }
    let push = |seq| link::Push {
        timeline: Some(TimelineId::Group(group("all")).to_client()),
        position: Some(wire::Position { epoch: 9, seq }),
        ..Default::default()
    };
    feeds.pushed(push(5), now, &mut handed);
    assert_eq!(std::mem::take(&mut handed.entries), [(Follower(2), 5)], "who has joined");
    // The last entry that the feed has seen counts, not the head that was told when the feed began.
    let mut late = Follows::new(Follower(7));
    assert_eq!(begin(&mut late, &[("all", 1, has(4))], &mut handed).1, [("all".to_owned(), Some(5))]);
    assert_eq!(begin(&mut Follows::new(Follower(8)), &[("all", 1, has(5))], &mut handed).0, [("all".to_owned(), 5)]);
    for follows in [&mut one, &mut two, &mut late] {
        follows.leave(&feeds);
    }
    assert!(feeds.is_followed(&group("all")), "by 8");
    assert!(!feeds.is_followed(&group("none")));
    assert_eq!(feeds.take_changed(), [(group("none"), false)]);
}
