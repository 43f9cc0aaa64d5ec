//! Connects the feeds to the gateway's tasks: takes pushes, puts entries into the mailboxes of connections, and reads
//! what is missing.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    GroupId, TimelineId, clock,
    pb::{
        link::{
            self, ReadTimeline, Refusal, Signaled, TimelineHead, router_reply::Result as Reply, router_request::Op,
        },
        store::Head,
    },
};
use tokio::{sync::Notify, task::yield_now};

use crate::{
    connections::Connections,
    conversation::{Rules, Tag},
    feeds::{
        Entry, FeedAnswer, FeedAsk, FeedId, FeedRead, Feeds, Follower, Follows, Hand, Left, ReadPage, TimelineName,
    },
    links::{RouterLinks, Submit},
    mailbox::Mailbox,
    metrics,
};

/// All feeds of this gateway, and the connections that follow them.
pub(crate) struct Feeding {
    feeds: Feeds,
    connections: Arc<Connections>,
    /// Notified when something is due sooner than the reading task knows.
    moved: Notify,
    /// Notified when sessions have begun or ceased to follow groups.
    groups_changed: Notify,
}

/// The feeds that one connection follows. Dropping it leaves them.
pub(crate) struct ConnectionFeeds {
    feeding: Arc<Feeding>,
    follows: Follows,
}

impl Feeding {
    pub(crate) fn new(grace: Duration, connections: Arc<Connections>) -> Self {
        Self { feeds: Feeds::new(grace), connections, moved: Notify::new(), groups_changed: Notify::new() }
    }

    /// A router pushed an envelope. A push is only a hint.
    pub(crate) fn pushed(&self, push: link::Push) {
        self.feeds.pushed(push, now(), &mut Mailboxes(&self.connections));
        self.tell_moved();
    }

    /// A router dropped pushes: the timeline reaches at least this far.
    #[expect(clippy::needless_pass_by_value, reason = "a message, which ends here")]
    pub(crate) fn behind(&self, behind: link::Behind) {
        self.feeds.behind(&behind, now());
        self.tell_moved();
    }

    /// A notice for the sessions that follow a group.
    pub(crate) fn signaled(&self, group: &str, signal: &Arc<Signaled>) {
        for Follower(connection) in self.feeds.live_in_group(group) {
            if let Some(mailbox) = self.connections.get(connection) {
                mailbox.signal(Arc::clone(signal));
            }
        }
    }

    /// Resolves when `take_changed_groups` has something. Cancel-safe.
    pub(crate) async fn groups_changed(&self) {
        self.groups_changed.notified().await;
    }

    /// Groups that sessions have begun or ceased to follow since the last call, and whether any does now.
    pub(crate) fn take_changed_groups(&self) -> Vec<(GroupId, bool)> {
        self.feeds.take_changed()
    }

    /// The routers have told how far these groups reach; those that `heads` does not name do not exist.
    pub(crate) fn groups_told(&self, groups: &[GroupId], heads: &[TimelineHead]) {
        self.feeds.told(groups, heads, now(), &mut Mailboxes(&self.connections));
        self.tell_moved();
    }

    pub(crate) fn follow(self: &Arc<Self>, connection: u64) -> ConnectionFeeds {
        ConnectionFeeds { feeding: Arc::clone(self), follows: Follows::new(Follower(connection)) }
    }

    /// Reads what feeds lack. Runs until it is cancelled.
    pub(crate) async fn read_missing(self: Arc<Self>, links: RouterLinks, rules: Arc<Rules>) {
        // Bounded by the feeds: each has at most one read in flight.
        let mailbox = Arc::new(Mailbox::default());
        loop {
            let wake_at = self.feeds.wake_at();
            let due = async {
                match wake_at {
                    // Other tasks have a turn before the feeds go on.
                    Some(at) if at <= now() => yield_now().await,
                    Some(at) => clock::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            // All are cancel-safe, and whichever is ready: everything is looked at.
            tokio::select! {
                biased;
                () = self.moved.notified() => {}
                () = mailbox.arrived() => {}
                () = due => {}
            }
            for (tag, answered) in mailbox.take().answers {
                self.read(tag, answered.result);
            }
            for read in self.feeds.due(now(), &mut Mailboxes(&self.connections)) {
                let op = read_op_of(&read, &rules);
                let client = Some((Arc::clone(&mailbox), Tag::Feed(read.timeline, read.feed)));
                // A read belongs to no session: the number only spreads reads over the partitions.
                let submit = Submit { client, ..Submit::unasked(read.feed.0, op) };
                links.submit(submit);
            }
        }
    }

    fn read(&self, tag: Tag, result: Result<Reply, Refusal>) {
        let Tag::Feed(timeline, feed) = tag else { return };
        self.feeds.read(&timeline, feed, ReadPage::of(result), now(), &mut Mailboxes(&self.connections));
        self.tell_moved();
    }

    fn tell_moved(&self) {
        if self.feeds.take_moved() {
            self.moved.notify_one();
        }
    }
}

impl ConnectionFeeds {
    /// `Some` in answer to `Join` and `Begin`.
    pub(crate) fn ask(&mut self, ask: FeedAsk) -> Option<FeedAnswer> {
        // After `Expect` comes `Join`.
        let of_group = matches!(
            ask,
            FeedAsk::Begin(_) | FeedAsk::Join(TimelineId::Group(_), _) | FeedAsk::Leave(TimelineId::Group(_))
        );
        let mut hand = Mailboxes(&self.feeding.connections);
        let answer = self.follows.ask(&self.feeding.feeds, ask, now(), &mut hand);
        self.feeding.tell_moved();
        if of_group && self.feeding.feeds.has_changed() {
            self.feeding.groups_changed.notify_one();
        }
        answer
    }
}

impl Drop for ConnectionFeeds {
    fn drop(&mut self) {
        self.follows.leave(&self.feeding.feeds);
        if self.feeding.feeds.has_changed() {
            self.feeding.groups_changed.notify_one();
        }
    }
}

pub(crate) fn read_op_of(read: &FeedRead, rules: &Rules) -> Op {
    ::metrics::counter!(metrics::GAP_FETCHES).increment(1);
    let user = match &read.timeline {
        TimelineId::Inbox(user) => user.as_str().to_owned(),
        // For all members here.
        TimelineId::Group(_) => String::new(),
    };
    Op::Read(ReadTimeline {
        user,
        timeline: Some(read.timeline.to_client()),
        from_seq: read.from,
        backward: false,
        limit: rules.max_page,
        max_bytes: rules.max_page_bytes,
        incarnation: read.incarnation,
        ..ReadTimeline::default()
    })
}

struct Mailboxes<'a>(&'a Connections);

impl Hand for Mailboxes<'_> {
    fn entries(&mut self, to: Follower, entries: &[Arc<Entry>]) -> bool {
        self.0.get(to.0).is_some_and(|mailbox| mailbox.entries(entries))
    }

    fn left(&mut self, to: Follower, feed: FeedId, timeline: &Arc<TimelineName>, why: Left) {
        if let Some(mailbox) = self.0.get(to.0) {
            mailbox.left(feed, timeline, why);
        }
    }

    fn begun(&mut self, to: Follower, group: &GroupId, head: Option<Head>) {
        if let Some(mailbox) = self.0.get(to.0) {
            mailbox.begun(group.clone(), head);
        }
    }
}

fn now() -> Instant {
    clock::now().into_std()
}
