//! The feeds among the tasks of the gateway: pushes go in, entries go to the mailboxes of connections, and what is missing
//! is read.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    Epoch, TimelineId,
    pb::{
        client::{self, Code, timeline::Owner},
        link::{self, ReadTimeline, Refusal, router_reply::Result as Reply, router_request::Op},
        store::TimelineRead,
    },
};
use tokio::{sync::Notify, time::sleep_until};

use crate::{
    connections::Connections,
    conversation::{FeedAsk, Rules, Tag},
    feeds::{Entry, FeedId, FeedRead, Feeds, Follower, Hand, JoinedFeed, Over, Page, Push, ReadFailed, TimelineRef},
    links::{Links, Submit},
    mailbox::{Left, Mailbox},
    metrics,
};

/// All feeds of this gateway, and the connections that follow them.
pub(crate) struct Feeding {
    feeds: Feeds,
    connections: Arc<Connections>,
    /// Something is due sooner than the reading task knows.
    moved: Notify,
}

/// The feeds that one connection follows. It leaves them when this is dropped.
pub(crate) struct Follows {
    feeding: Arc<Feeding>,
    who: Follower,
    timelines: Vec<TimelineId>,
}

impl Feeding {
    pub(crate) fn new(grace: Duration, connections: Arc<Connections>) -> Self {
        Self { feeds: Feeds::new(grace), connections, moved: Notify::new() }
    }

    /// A router has pushed an envelope. It is only a hint.
    pub(crate) fn pushed(&self, push: link::Push) {
        let Some((timeline, push)) = push_of(push) else { return };
        let Some(timeline) = timeline_of(&timeline) else { return };
        self.feeds.pushed(timeline, push, Instant::now(), &mut Mailboxes(&self.connections));
        self.tell_moved();
    }

    /// A router, or another one before it, had no room for pushes.
    pub(crate) fn behind(&self, behind: link::Behind) {
        let link::Behind { timeline, position, incarnation, .. } = behind;
        let (Some(timeline), Some(position)) = (timeline, position) else { return };
        let Some(timeline) = timeline_of(&timeline) else { return };
        self.feeds.reaches(timeline, incarnation, position.into(), Instant::now());
        self.tell_moved();
    }

    pub(crate) fn follow(self: &Arc<Self>, connection: u64) -> Follows {
        Follows { feeding: Arc::clone(self), who: Follower(connection), timelines: Vec::new() }
    }

    /// Reads what feeds lack. Runs until it is cancelled.
    pub(crate) async fn read_missing(self: Arc<Self>, links: Links, rules: Arc<Rules>) {
        // Bounded by the feeds: each has one read under way.
        let mailbox = Arc::new(Mailbox::default());
        loop {
            let wake_at = self.feeds.wake_at();
            let due = async {
                match wake_at {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = self.moved.notified() => {}
                () = mailbox.arrived() => {}
                () = due => {}
            }
            for (tag, answered) in mailbox.take().answers {
                self.read(tag, answered.result);
            }
            for read in self.feeds.due(Instant::now()) {
                let op = read_op_of(&read, &rules);
                let client = Some((Arc::clone(&mailbox), Tag::Feed(read.timeline, read.feed)));
                let submit = Submit { connection: NOBODY, client, op, traceparent: String::new() };
                links.submit(submit);
            }
        }
    }

    fn read(&self, tag: Tag, result: Result<Reply, Refusal>) {
        let Tag::Feed(timeline, feed) = tag else { return };
        self.feeds.read(&timeline, feed, page_of(result), Instant::now(), &mut Mailboxes(&self.connections));
        self.tell_moved();
    }

    fn tell_moved(&self) {
        if self.feeds.take_moved() {
            self.moved.notify_one();
        }
    }
}

impl Follows {
    /// `Some` in answer to `Join`.
    pub(crate) fn ask(&mut self, ask: FeedAsk) -> Option<JoinedFeed> {
        let (feeds, now) = (&self.feeding.feeds, Instant::now());
        let mut hand = Mailboxes(&self.feeding.connections);
        if let FeedAsk::Expect(timeline) = &ask
            && !self.timelines.contains(timeline)
        {
            // Nearly all have one, for which the usual room for four is too much.
            self.timelines.reserve_exact(1);
            self.timelines.push(timeline.clone());
            feeds.expect(timeline);
        }
        let joined = perform(feeds, self.who, &ask, now, &mut hand);
        self.feeding.tell_moved();
        joined
    }
}

impl Drop for Follows {
    fn drop(&mut self) {
        for timeline in &self.timelines {
            self.feeding.feeds.leave(timeline, self.who);
        }
    }
}

/// The connection of what feeds ask: the numbers of real ones begin with 1.
pub(crate) const NOBODY: u64 = 0;

/// All but `Expect`, which has to be counted.
pub(crate) fn perform(
    feeds: &Feeds,
    who: Follower,
    ask: &FeedAsk,
    now: Instant,
    hand: &mut impl Hand,
) -> Option<JoinedFeed> {
    match ask {
        FeedAsk::Expect(_) => {}
        FeedAsk::Join(timeline, join) => return feeds.join(timeline, who, join, now, hand),
        FeedAsk::Fall(timeline) => feeds.fall(timeline, who),
        FeedAsk::Own { timeline, incarnation, position, counted } => {
            feeds.own(timeline, who, *incarnation, *position, *counted, now, hand);
        }
        FeedAsk::Reaches { timeline, incarnation, position } => {
            feeds.reaches(timeline.into(), *incarnation, *position, now);
        }
    }
    None
}

/// The push and its timeline; `None` if it says nothing.
pub(crate) fn push_of(push: link::Push) -> Option<(client::Timeline, Push)> {
    let link::Push { timeline, position, envelope, traceparent, incarnation, sender_connection } = push;
    let position = position?.into();
    let sender = (sender_connection != NOBODY).then_some(Follower(sender_connection));
    Some((timeline?, Push { incarnation, position, envelope, traceparent, sender }))
}

pub(crate) fn timeline_of(timeline: &client::Timeline) -> Option<TimelineRef<'_>> {
    Some(match timeline.owner.as_ref()? {
        Owner::Inbox(user) => TimelineRef::Inbox(user),
        Owner::Group(group) => TimelineRef::Group(group),
    })
}

pub(crate) fn read_op_of(read: &FeedRead, rules: &Rules) -> Op {
    ::metrics::counter!(metrics::GAP_FETCHES).increment(1);
    Op::Read(ReadTimeline {
        user: read.timeline.owner().to_owned(),
        timeline: Some(read.timeline.to_client()),
        from_seq: read.from,
        backward: false,
        limit: rules.max_page,
        max_bytes: rules.max_page_bytes,
        incarnation: read.incarnation,
    })
}

/// What a read of a timeline has brought.
pub(crate) fn page_of(result: Result<Reply, Refusal>) -> Result<Page, ReadFailed> {
    match result {
        Ok(Reply::TimelineRead(TimelineRead { head, entries, .. })) => {
            let head = head.unwrap_or_default();
            let entries = entries.into_iter().map(|entry| (entry.seq, entry.envelope)).collect();
            Ok(Page { epoch: Epoch(head.epoch), first: head.first, last: head.last, entries })
        }
        // The router refuses so only what an account that has ended asks for.
        Err(why) if why.code() == Code::Unauthenticated => Err(ReadFailed::Ended),
        Ok(_) | Err(_) => Err(ReadFailed::ForNow),
    }
}

struct Mailboxes<'a>(&'a Connections);

impl Hand for Mailboxes<'_> {
    fn entry(&mut self, to: Follower, entry: &Arc<Entry>) -> bool {
        self.0.get(to.0).is_some_and(|mailbox| mailbox.entry(entry))
    }

    fn fallen(&mut self, to: Follower, feed: FeedId) {
        self.left(to, feed, Left::Fallen);
    }

    fn over(&mut self, to: Follower, feed: FeedId, why: Over) {
        self.left(to, feed, Left::Over(why));
    }
}

impl Mailboxes<'_> {
    fn left(&self, to: Follower, feed: FeedId, why: Left) {
        if let Some(mailbox) = self.0.get(to.0) {
            mailbox.left(feed, why);
        }
    }
}
