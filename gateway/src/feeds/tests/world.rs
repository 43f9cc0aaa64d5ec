//! A store, feeds, and clients of their timeline, in one place.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_proto::{
    Epoch, GroupId, Position, TimelineId, UserId,
    pb::{link, store::Head},
};

use super::{
    super::{follower::NOBODY, read_page::ReadFailed, *},
    Act, Answer, Read,
    client::{Client, Session},
};

const GRACE: Duration = Duration::from_millis(20);
pub(super) const FOLLOWERS: u64 = 4;
pub(super) const FIRST_EPOCH: u64 = 100;
/// The most entries that wait in a mailbox.
const ROOM: usize = 3;

pub(super) struct Store {
    pub(super) incarnation: u64,
    pub(super) epoch: u64,
    first: u64,
    pub(super) last: u64,
}

impl Store {
    pub(super) fn page(&self, from: u64, limit: usize) -> ReadPage {
        let entries = (from.max(self.first)..=self.last).take(limit);
        let entries = entries.map(|seq| (seq, content(self.epoch, seq))).collect();
        ReadPage { epoch: self.epoch(), first: self.first, last: self.last, entries }
    }

    /// A timeline comes to be with its first envelope.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(if self.last == 0 { 0 } else { self.epoch })
    }
}

pub(super) fn content(epoch: u64, seq: u64) -> Bytes {
    Bytes::from(format!("{epoch}/{seq}"))
}

#[derive(Default)]
pub(super) struct Mailboxes(BTreeMap<u64, Mail>);

#[derive(Default)]
pub(super) struct Mail {
    entries: VecDeque<Arc<Entry>>,
    left: Vec<(FeedId, Left)>,
}

impl Mailboxes {
    /// Entries that wait in all of them.
    pub(super) fn entries(&self) -> usize {
        self.0.values().map(|mail| mail.entries.len()).sum()
    }
}

impl Hand for Mailboxes {
    fn entries(&mut self, to: Follower, entries: &[Arc<Entry>]) -> bool {
        let mail = self.0.entry(to.0).or_default();
        for entry in entries {
            if mail.entries.len() >= ROOM {
                mail.left.push((entry.feed, Left::Fallen));
                return false;
            }
            mail.entries.push_back(Arc::clone(entry));
        }
        true
    }

    fn begun(&mut self, _: Follower, group: &GroupId, _: Option<Head>) {
        unreachable!("nobody asks for {group}");
    }

    fn left(&mut self, to: Follower, feed: FeedId, _: &Arc<TimelineName>, why: Left) {
        self.0.entry(to.0).or_default().left.push((feed, why));
    }
}

pub(super) struct World {
    pub(super) feeds: Feeds,
    pub(super) timeline: TimelineId,
    pub(super) now: Instant,
    pub(super) store: Store,
    pushes: Vec<(u64, Position, Option<Follower>)>,
    feed_reads: Vec<FeedRead>,
    pub(super) mail: Mailboxes,
    pub(super) clients: BTreeMap<u64, Client>,
}

impl World {
    pub(super) fn new() -> Self {
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

    pub(super) fn append(&mut self) -> Position {
        self.store.last += 1;
        Position { epoch: self.store.epoch(), seq: self.store.last }
    }

    pub(super) fn act(&mut self, act: Act) {
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
            Act::FeedReads => self.feed_reads.extend(self.feeds.due(self.now, &mut self.mail)),
            Act::FeedPage(read) => self.feed_page(read),
            Act::Pause(who) => self.with(who, |session, now, _| session.followed.pause(now)),
            Act::Resume(who) => {
                self.with(who, |session, _, _| {
                    session.followed.resume();
                    false
                });
            }
            Act::Sleep(who) => {
                if let Some(Client::In(Session { followed, .. })) = self.clients.get_mut(&who)
                    && followed.is_quiet()
                {
                    *followed = Followed::live(Arc::clone(&followed.timeline), followed.given());
                }
            }
            Act::Leave(who) => self.leave(who),
            Act::Trim(more) => self.store.first = (self.store.first + more).min(self.store.last + 1),
            Act::Restore => {
                self.store.epoch += 1;
                (self.store.first, self.store.last) = (1, self.store.last / 2);
                if self.store.last == 0 {
                    // The first push of a timeline that is not there tells its epoch. Nothing runs while a store is put
                    // back, so that no push of before comes after it.
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
                let behind = link::Behind {
                    timeline: Some(self.timeline.to_client()),
                    position: Some(position.into()),
                    incarnation: self.store.incarnation,
                };
                self.feeds.behind(&behind, self.now);
            }
            Act::Wait => self.now += GRACE,
        }
    }

    pub(super) fn push(&mut self, incarnation: u64, position: Position, sender: Option<Follower>) {
        let push = link::Push {
            timeline: Some(self.timeline.to_client()),
            position: Some(position.into()),
            envelope: content(position.epoch.0, position.seq),
            incarnation,
            sender_connection: sender.map_or(NOBODY, |sender| sender.0),
            ..Default::default()
        };
        self.feeds.pushed(push, self.now, &mut self.mail);
    }

    pub(super) fn own(&mut self, who: u64, answer: Answer) {
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
        let own = Own { incarnation: session.incarnation, position, counted };
        feeds.own(timeline, Follower(who), &own, self.now, mail);
        self.steps(who);
    }

    pub(super) fn sign_in(&mut self, who: u64) {
        if let Some(client @ Client::Out) = self.clients.get_mut(&who) {
            self.feeds.expect(&self.timeline);
            let Store { incarnation, last, .. } = self.store;
            *client = Client::SigningIn { incarnation, epoch: self.store.epoch(), last };
        }
    }

    pub(super) fn opened(&mut self, who: u64) {
        let Some(client) = self.clients.get_mut(&who) else { return };
        let Client::SigningIn { incarnation, epoch, last } = *client else { return };
        // The client has a part of the timeline.
        let from = last.saturating_sub(who);
        let followed = Followed::new(self.timeline.clone(), epoch, from, last, self.now);
        let epoch = (epoch.0 != 0).then_some(epoch.0);
        *client = Client::In(Session { incarnation, followed, reads: None, epoch, next: from + 1 });
        self.steps(who);
    }

    pub(super) fn takes(&mut self, who: u64) {
        let mail = self.mail.0.remove(&who).unwrap_or_default();
        for entry in mail.entries {
            self.with(who, |session, now, out| {
                if session.followed.is_of(entry.feed) {
                    session.followed.entry(entry, Follower(who), now, &mut |next| out.push(next))
                } else {
                    false
                }
            });
        }
        for (feed, why) in mail.left {
            let Some(Client::In(session)) = self.clients.get_mut(&who) else { break };
            if !session.followed.is_of(feed) {
                continue;
            }
            match why {
                Left::Fallen => session.followed.fallen(self.now),
                Left::Ended(why) => {
                    let ended = session.incarnation < self.store.incarnation;
                    assert!(why != Ending::AccountEnded || ended, "its account has not ended");
                    assert_ne!(self.store.epoch, FIRST_EPOCH, "the timeline was never another one");
                    self.leave(who);
                }
            }
        }
        self.steps(who);
    }

    pub(super) fn page(&mut self, who: u64, read: Read) {
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

    pub(super) fn feed_page(&mut self, read: Read) {
        let Some(FeedRead { timeline, feed, incarnation, from }) = self.feed_reads.pop() else { return };
        let page = match read {
            Read::Fails => Err(ReadFailed::ForNow),
            Read::Brings(_) if incarnation != self.store.incarnation => Err(ReadFailed::AccountEnded),
            Read::Brings(limit) => Ok(self.store.page(from, limit)),
        };
        self.feeds.read(&timeline, feed, page, self.now, &mut self.mail);
    }

    pub(super) fn leave(&mut self, who: u64) {
        let Some(client) = self.clients.get_mut(&who) else { return };
        if !matches!(client, Client::Out) {
            *client = Client::Out;
            self.feeds.leave(&self.timeline, Follower(who));
            self.mail.0.remove(&who);
        }
    }

    /// `work` is true if the feed has to be told that the session takes no more.
    pub(super) fn with(&mut self, who: u64, work: impl FnOnce(&mut Session, Instant, &mut Vec<Next>) -> bool) {
        let Some(Client::In(session)) = self.clients.get_mut(&who) else { return };
        let mut out = Vec::new();
        let has_fallen = work(session, self.now, &mut out);
        session.told(out);
        if has_fallen {
            self.feeds.fall(&self.timeline, Follower(who));
        }
        self.steps(who);
    }

    pub(super) fn steps(&mut self, who: u64) {
        while let Some(Client::In(session)) = self.clients.get_mut(&who) {
            let mut out = Vec::new();
            let joins = session.followed.step(Follower(who), self.now, &mut |next| out.push(next));
            session.told(out);
            if !joins {
                return;
            }
            let ask = session.followed.ask(session.incarnation);
            let joined = self.feeds.join(&self.timeline, Follower(who), &ask, self.now, &mut self.mail);
            let mut out = Vec::new();
            let joined = session.followed.joined(joined.expect("it was expected"), &mut |next| out.push(next));
            session.told(out);
            match joined {
                Ok(None) => {}
                Ok(reads) => session.reads = reads,
                Err(_) => self.leave(who),
            }
        }
    }

    /// Nothing more happens: whoever is in gets all that there is.
    pub(super) fn settle(&mut self) {
        self.act(Act::Behind);
        for _ in 0..(50 + self.store.last) {
            self.now += RETRY;
            while self.feeds.wake_at().is_some_and(|at| at <= self.now) {
                self.act(Act::FeedReads);
            }
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
