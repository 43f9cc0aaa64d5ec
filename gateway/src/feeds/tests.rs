//! A feed and those who follow it, through whatever can happen between a store and them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{Epoch, Position, TimelineId, UserId};
use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(500);
const FOLLOWERS: u64 = 4;
const FIRST_EPOCH: u64 = 100;
/// What a mailbox holds.
const ROOM: usize = 3;

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

struct Store {
    incarnation: u64,
    epoch: u64,
    first: u64,
    last: u64,
}

impl Store {
    fn page(&self, from: u64, limit: usize) -> Page {
        let entries = (from.max(self.first)..=self.last).take(limit);
        let entries = entries.map(|seq| (seq, content(self.epoch, seq))).collect();
        Page { epoch: self.epoch(), first: self.first, last: self.last, entries }
    }

    /// A timeline comes to be with its first envelope.
    fn epoch(&self) -> Epoch {
        Epoch(if self.last == 0 { 0 } else { self.epoch })
    }
}

fn content(epoch: u64, seq: u64) -> Bytes {
    Bytes::from(format!("{epoch}/{seq}"))
}

enum Client {
    Out,
    /// The heads that its sign-in has read.
    SigningIn {
        incarnation: u64,
        epoch: Epoch,
        last: u64,
    },
    In(Session),
}

struct Session {
    incarnation: u64,
    followed: Followed,
    reads: Option<u64>,
    /// The epoch, and each position that its client has or knows to be gone.
    epoch: Option<u64>,
    next: u64,
}

#[derive(Default)]
struct Mailboxes(BTreeMap<u64, Mail>);

#[derive(Default)]
struct Mail {
    entries: VecDeque<Arc<Entry>>,
    fallen: Vec<FeedId>,
    over: Vec<(FeedId, Over)>,
}

impl Hand for Mailboxes {
    fn entry(&mut self, to: Follower, entry: &Arc<Entry>) -> bool {
        let mail = self.0.entry(to.0).or_default();
        if mail.entries.len() >= ROOM {
            mail.fallen.push(entry.feed);
            return false;
        }
        mail.entries.push_back(Arc::clone(entry));
        true
    }

    fn fallen(&mut self, to: Follower, feed: FeedId) {
        self.0.entry(to.0).or_default().fallen.push(feed);
    }

    fn over(&mut self, to: Follower, feed: FeedId, why: Over) {
        self.0.entry(to.0).or_default().over.push((feed, why));
    }
}

struct World {
    feeds: Feeds,
    timeline: TimelineId,
    now: Instant,
    store: Store,
    pushes: Vec<(u64, Position, Option<Follower>)>,
    feed_reads: Vec<FeedRead>,
    mail: Mailboxes,
    clients: BTreeMap<u64, Client>,
}

impl World {
    fn new() -> Self {
        Self {
            feeds: Feeds::new(GRACE),
            timeline: TimelineId::Inbox(UserId::new("alice").expect("valid")),
            now: Instant::now(),
            store: Store { incarnation: 1, epoch: FIRST_EPOCH, first: 1, last: 0 },
            pushes: vec![],
            feed_reads: vec![],
            mail: Mailboxes::default(),
            clients: (1..=FOLLOWERS).map(|who| (who, Client::Out)).collect(),
        }
    }

    fn append(&mut self) -> Position {
        self.store.last += 1;
        Position { epoch: self.store.epoch(), seq: self.store.last }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Append(pushes) => {
                let position = self.append();
                self.pushes.extend((0..pushes).map(|_| (self.store.incarnation, position, None)));
            }
            Act::Own(who, answer) => self.own(who, answer),
            Act::Arrive(which) if !self.pushes.is_empty() => {
                let (incarnation, position, sender) = self.pushes.swap_remove(which % self.pushes.len());
                self.push(incarnation, position, sender);
            }
            Act::Arrive(_) => {}
            Act::SignIn(who) => self.sign_in(who),
            Act::Opened(who) => self.opened(who),
            Act::Takes(who) => self.takes(who),
            Act::Page(who, read) => self.page(who, read),
            Act::FeedReads => self.feed_reads.extend(self.feeds.due(self.now)),
            Act::FeedPage(read) => self.feed_page(read),
            Act::Pause(who) => self.with(who, |session, now, _| session.followed.pause(now)),
            Act::Resume(who) => {
                self.with(who, |session, _, _| {
                    session.followed.resume();
                    None
                });
            }
            Act::Leave(who) => self.leave(who),
            Act::Trim(more) => self.store.first = (self.store.first + more).min(self.store.last + 1),
            Act::Restore => {
                self.store.epoch += 1;
                (self.store.first, self.store.last) = (1, self.store.last / 2);
                if self.store.last == 0 {
                    // The first push of a timeline that is not there tells its epoch. Nothing runs while a store is put back,
                    // so that no push of before comes after it.
                    self.pushes.clear();
                }
            }
            Act::NextOwner => {
                self.store.epoch += 1;
                self.store.incarnation += 1;
                (self.store.first, self.store.last) = (1, 0);
            }
            Act::Behind => {
                let position = Position { epoch: self.store.epoch(), seq: self.store.last };
                let timeline = (&self.timeline).into();
                self.feeds.reaches(timeline, self.store.incarnation, position, self.now);
            }
            Act::Wait => self.now += GRACE,
        }
    }

    fn push(&mut self, incarnation: u64, position: Position, sender: Option<Follower>) {
        let envelope = content(position.epoch.0, position.seq);
        let push = Push { incarnation, position, envelope, traceparent: String::new(), sender };
        self.feeds.pushed((&self.timeline).into(), push, self.now, &mut self.mail);
    }

    fn own(&mut self, who: u64, answer: Answer) {
        let Some(Client::In(session)) = self.clients.get(&who) else { return };
        if session.incarnation != self.store.incarnation {
            return;
        }
        let position = self.append();
        let push = (self.store.incarnation, position, Some(Follower(who)));
        match answer {
            Answer::First => self.pushes.push(push),
            Answer::Last => self.push(push.0, push.1, push.2),
            Answer::Alone => {}
        }
        let (feeds, timeline, mail) = (&self.feeds, &self.timeline, &mut self.mail);
        let Some(Client::In(session)) = self.clients.get_mut(&who) else { return };
        let mut out = Vec::new();
        let Ok(counted) = session.followed.accepted(position, Follower(who), self.now, &mut |next| out.push(next))
        else {
            return self.leave(who);
        };
        if counted {
            session.sees(position.epoch.0, position.seq);
        }
        session.told(out);
        feeds.own(timeline, Follower(who), session.incarnation, position, counted, self.now, mail);
        self.steps(who);
    }

    fn sign_in(&mut self, who: u64) {
        if let Some(client @ Client::Out) = self.clients.get_mut(&who) {
            self.feeds.expect(&self.timeline);
            let Store { incarnation, last, .. } = self.store;
            *client = Client::SigningIn { incarnation, epoch: self.store.epoch(), last };
        }
    }

    fn opened(&mut self, who: u64) {
        let Some(client) = self.clients.get_mut(&who) else { return };
        let Client::SigningIn { incarnation, epoch, last } = *client else { return };
        // It has some of it.
        let from = last.saturating_sub(who);
        let followed = Followed::new(self.timeline.clone(), epoch, from, last, self.now);
        let epoch = (epoch.0 != 0).then_some(epoch.0);
        *client = Client::In(Session { incarnation, followed, reads: None, epoch, next: from + 1 });
        self.steps(who);
    }

    fn takes(&mut self, who: u64) {
        let mail = self.mail.0.remove(&who).unwrap_or_default();
        for entry in mail.entries {
            self.with(who, |session, now, out| {
                if session.followed.is_of(entry.feed) {
                    session.followed.entry(entry, Follower(who), now, &mut |next| out.push(next))
                } else {
                    None
                }
            });
        }
        for feed in mail.fallen {
            self.with(who, |session, now, _| {
                if session.followed.is_of(feed) {
                    session.followed.fallen(now);
                }
                None
            });
        }
        for (feed, why) in mail.over {
            if let Some(Client::In(session)) = self.clients.get(&who)
                && session.followed.is_of(feed)
            {
                assert!(
                    why != Over::Ended || session.incarnation < self.store.incarnation,
                    "its account has not ended"
                );
                assert_ne!(self.store.epoch, FIRST_EPOCH, "the timeline was never another one");
                self.leave(who);
            }
        }
        self.steps(who);
    }

    fn page(&mut self, who: u64, read: Read) {
        let Some(Client::In(session)) = self.clients.get_mut(&who) else { return };
        let Some(from) = session.reads.take() else { return };
        let ended = session.incarnation != self.store.incarnation;
        let page = match read {
            Read::Fails => None,
            // The service refuses what an account that has ended asks for.
            Read::Brings(_) if ended => return self.leave(who),
            Read::Brings(limit) => Some(self.store.page(from, limit)),
        };
        let mut out = Vec::new();
        let read = session.followed.read(page, self.now, &mut |next| out.push(next));
        session.told(out);
        if read.is_err() {
            assert_ne!(self.store.epoch, FIRST_EPOCH, "the timeline was never another one");
            return self.leave(who);
        }
        self.steps(who);
    }

    fn feed_page(&mut self, read: Read) {
        let Some(FeedRead { timeline, feed, incarnation, from }) = self.feed_reads.pop() else { return };
        let page = match read {
            Read::Fails => Err(ReadFailed::ForNow),
            Read::Brings(_) if incarnation != self.store.incarnation => Err(ReadFailed::Ended),
            Read::Brings(limit) => Ok(self.store.page(from, limit)),
        };
        self.feeds.read(&timeline, feed, page, self.now, &mut self.mail);
    }

    fn leave(&mut self, who: u64) {
        let Some(client) = self.clients.get_mut(&who) else { return };
        if !matches!(client, Client::Out) {
            *client = Client::Out;
            self.feeds.leave(&self.timeline, Follower(who));
            self.mail.0.remove(&who);
        }
    }

    fn with(&mut self, who: u64, work: impl FnOnce(&mut Session, Instant, &mut Vec<Next>) -> Option<Step>) {
        let Some(Client::In(session)) = self.clients.get_mut(&who) else { return };
        let mut out = Vec::new();
        let step = work(session, self.now, &mut out);
        session.told(out);
        self.step(who, step);
        self.steps(who);
    }

    fn steps(&mut self, who: u64) {
        while let Some(Client::In(session)) = self.clients.get_mut(&who) {
            let mut out = Vec::new();
            let step = session.followed.step(Follower(who), self.now, &mut |next| out.push(next));
            session.told(out);
            if step.is_none() {
                return;
            }
            self.step(who, step);
        }
    }

    fn step(&mut self, who: u64, step: Option<Step>) {
        let Some(Client::In(session)) = self.clients.get_mut(&who) else { return };
        match step {
            None => {}
            Some(Step::Fall) => self.feeds.fall(&self.timeline, Follower(who)),
            Some(Step::Read(from)) => session.reads = Some(from),
            Some(Step::Join) => {
                let ask = session.followed.ask(session.incarnation);
                let joined = self.feeds.join(&self.timeline, Follower(who), &ask, self.now, &mut self.mail);
                let mut out = Vec::new();
                let step = session.followed.joined(joined.expect("it was expected"), &mut |next| out.push(next));
                session.told(out);
                match step {
                    Ok(step) => self.step(who, step),
                    Err(_) => self.leave(who),
                }
            }
        }
    }

    /// Nothing more happens: whoever is in gets all that there is.
    fn settle(&mut self) {
        self.act(Act::Behind);
        for _ in 0..(50 + self.store.last) {
            self.now += RETRY;
            self.act(Act::FeedReads);
            while !self.feed_reads.is_empty() {
                self.feed_page(Read::Brings(5));
            }
            for who in 1..=FOLLOWERS {
                self.opened(who);
                self.act(Act::Resume(who));
                self.takes(who);
                self.page(who, Read::Brings(5));
            }
        }
    }
}

impl Session {
    fn told(&mut self, out: Vec<Next>) {
        for next in out {
            match next {
                Next::Entry(entry) => {
                    assert_eq!(entry.envelope, content(entry.position.epoch.0, entry.position.seq));
                    self.sees(entry.position.epoch.0, entry.position.seq);
                }
                Next::Trimmed(_, first) => {
                    assert!(self.epoch.is_none_or(|epoch| epoch == first.epoch.0) && first.seq > self.next);
                    self.epoch = Some(first.epoch.0);
                    self.next = first.seq;
                }
            }
        }
    }

    fn sees(&mut self, epoch: u64, seq: u64) {
        assert_eq!((*self.epoch.get_or_insert(epoch), self.next), (epoch, seq), "each position once, in order");
        self.next += 1;
    }
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
        world.feeds.due(world.now);
        let catching_up = world.clients.values().any(|client| !matches!(client, Client::Out));
        prop_assert!(catching_up || world.feeds.is_empty());
        prop_assert_eq!(world.feeds.recent_bytes(), 0, "what nobody joins for is not kept");
        for who in 1..=FOLLOWERS {
            world.leave(who);
        }
        prop_assert!(world.feeds.is_empty(), "a feed that nobody follows is gone");
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
        world.feeds.own(&world.timeline, Follower(2), 1, old, counted, world.now, &mut world.mail);
    }
    let position = world.append();
    world.push(2, position, None);
    world.takes(1);
    let Some(Client::In(session)) = world.clients.get(&1) else { panic!("it has left") };
    assert_eq!(session.next, 2, "it has its first message");
}

#[test]
fn an_entry_is_rendered_once_in_each_form() {
    let timeline = Arc::new(TimelineName::new(TimelineId::Inbox(UserId::new("alice").expect("valid"))));
    let entry = Entry::new(FeedId(1), timeline, Position { epoch: Epoch(7), seq: 1 }, Bytes::new(), Origin::Push);
    let mut times = 0;
    for form in [Form::Json, Form::Protobuf, Form::Json] {
        let rendered = entry.rendered(form, || {
            times += 1;
            Ok::<_, ()>(Bytes::from(format!("{form:?}")))
        });
        assert_eq!(rendered.expect("renders"), &format!("{form:?}"));
    }
    assert_eq!(times, 2);
    entry.rendered(Form::Json, || Err(())).expect("is there already");
}

/// What each connection has of it, for as long as it is idle. The loads of docs/speed.md measure the whole.
#[test]
fn a_feed_and_who_follows_it_are_small() {
    assert_eq!(size_of::<Follower>(), 8);
    let (feed, followed) = (size_of::<feed::Feed>(), size_of::<Followed>());
    assert!(feed <= 184 && followed <= 112, "{feed} and {followed} bytes");
}
