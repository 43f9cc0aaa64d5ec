//! A feed and those who follow it, through whatever can happen between a store and them.

mod client;
mod world;

use std::time::Duration;

use carillon_proto::{Epoch, Position};
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
    /// One of the pushes under way arrives.
    Arrive(usize),
    SignIn(u64),
    Opened(u64),
    /// Looks into its mailbox.
    Takes(u64),
    /// Its page comes.
    Page(u64, Read),
    FeedReads,
    /// The page for the feed comes.
    FeedPage(Read),
    Pause(u64),
    Resume(u64),
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
