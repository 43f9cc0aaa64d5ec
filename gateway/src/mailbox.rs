//! Messages that wait for one connection's task.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    GroupId,
    pb::{
        client::Code,
        link::{Directed, Signaled, TimelineHead, evict::Why, signaled::Notice},
        store::Head,
    },
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    conversation::{Input, Tag},
    feeds::{Begun, Entry, FeedId, Left, TimelineName},
    links::DirectedRequest,
    metrics,
    outcome::{RequestOutcome, refusal},
    presences::PresenceNews,
};

/// Entries that wait. When it is full, the session catches up with that feed by itself.
const MAX_ENTRIES: usize = 64;
const MAX_ENTRY_BYTES: usize = 128 * 1024;

/// Signals that wait. Further ones are dropped, and the session is told so.
const MAX_SIGNALS: usize = 256;
/// With so many, chat states are dropped, and nobody is told so.
const MAX_CHAT_STATES: usize = 64;
/// With so many presences the session is not waited for any longer.
const MANY_PRESENCES: usize = 256;
/// Room for presences at first: who is told one is soon told more.
const FIRST_PRESENCES: usize = 16;
/// Presences that wait. Further ones are dropped, and the session is told so.
const MAX_PRESENCES: usize = 1024;
/// Directed requests that wait. Further ones are refused.
const MAX_DIRECTED: usize = 16;

/// Any task may put messages in; the connection's task takes them out.
#[derive(Default)]
pub(crate) struct Mailbox {
    content: Mutex<Content>,
    arrived: Notify,
}

#[derive(Default)]
struct Content {
    /// `None` while there is none: nearly always.
    mail: Option<Box<Mail>>,
    /// The last time at which the session was woken because of presences.
    woken_at: Option<Instant>,
    /// `ring` will be called.
    rings: bool,
}

/// Everything that came since the last look.
#[derive(Default)]
pub(crate) struct Mail {
    /// At most one answer for each request that the session made.
    pub(crate) answers: Vec<(Tag, RequestOutcome)>,
    pub(crate) entries: Vec<Arc<Entry>>,
    entry_bytes: usize,
    /// Feeds that deliver no more, to be handled after the entries. At most one for each join, and one `Ended`.
    pub(crate) left: Vec<(FeedId, Arc<TimelineName>, Left)>,
    /// How far groups reach of which the session has asked; at most one for each.
    pub(crate) begun: Vec<Begun>,
    /// The latest heads that came with an announcement.
    pub(crate) heads: Option<Vec<TimelineHead>>,
    signals: Vec<Signal>,
    /// Presences of contacts, behind the signals; each with the hash of the contact's name.
    presences: Vec<(u64, Arc<PresenceNews>)>,
    /// Number of presences, with those in `signals`.
    presence_count: usize,
    /// Signals were dropped, since there was no room.
    signals_missed: bool,
    pub(crate) directed: Vec<(Directed, DirectedRequest)>,
    /// Why the session is over, if it is.
    pub(crate) over: Option<Why>,
    /// The gateway is stopping; when the client may come back.
    pub(crate) drain: Option<Duration>,
    /// The gateway has too many clients; when this one may come back to another.
    pub(crate) go_elsewhere: Option<Duration>,
    /// The gateway reaches no router; when the client may come back.
    pub(crate) cut_off: Option<Duration>,
}

/// A signal or presences, which keep their order.
enum Signal {
    Other(Arc<Signaled>),
    Presences(Vec<Arc<PresenceNews>>),
}

impl Mail {
    /// Everything but directed requests, in the order in which the session takes them. Entries come before
    /// answers: the position of an own message counts only when the client has everything before it.
    pub(crate) fn into_inputs(mut self) -> impl Iterator<Item = Input> {
        self.close_presences();
        let Self { answers, entries, left, begun, heads, signals, signals_missed, over, drain, .. } = self;
        let (go_elsewhere, cut_off) = (self.go_elsewhere, self.cut_off);
        let rest = [
            signals_missed.then_some(Input::SignalsMissed),
            (!begun.is_empty()).then_some(Input::Begun(begun)),
            heads.map(Input::Heads),
            over.map(Input::Evicted),
            go_elsewhere.map(|reconnect_after| Input::GoElsewhere { reconnect_after }),
            drain.map(|reconnect_after| Input::Drain { reconnect_after }),
            cut_off.map(|reconnect_after| Input::CutOff { reconnect_after }),
        ];
        let entries = entries.into_iter().map(Input::Entry);
        let answers = answers.into_iter().map(|(tag, answered)| Input::Answer(tag, answered));
        let left = left.into_iter().map(|(feed, timeline, why)| Input::Left(feed, timeline, why));
        let signals = signals.into_iter().map(|signal| match signal {
            Signal::Other(signal) => Input::Signal(signal),
            Signal::Presences(news) => Input::Presences(news),
        });
        entries.chain(answers).chain(left).chain(signals).chain(rest.into_iter().flatten())
    }

    /// The presences up to here are told before what comes next.
    fn close_presences(&mut self) {
        if !self.presences.is_empty() {
            let news = std::mem::take(&mut self.presences).into_iter().map(|(_, news)| news);
            self.signals.push(Signal::Presences(news.collect()));
        }
    }

    fn add_signal(&mut self, signal: Arc<Signaled>) {
        self.close_presences();
        self.signals.push(Signal::Other(signal));
    }

    /// In the place of an earlier one of the same contact, if it says everything that this one said.
    fn add_presence(&mut self, news: &Arc<PresenceNews>) {
        let earlier = self.presences.iter_mut().rev().find(|(hash, _)| *hash == news.hash);
        match earlier {
            Some((_, earlier)) if news.replaces(earlier) => *earlier = Arc::clone(news),
            _ if self.presence_count < MAX_PRESENCES => {
                self.presence_count += 1;
                if self.presences.capacity() == 0 {
                    self.presences.reserve(FIRST_PRESENCES);
                }
                self.presences.push((news.hash, Arc::clone(news)));
            }
            _ => self.signals_missed = true,
        }
    }
}

impl Mailbox {
    pub(crate) fn answer(&self, tag: Tag, answered: RequestOutcome) {
        self.put(|mail| mail.answers.push((tag, answered)));
    }

    /// Takes entries of one feed. False if it is full before the last of them: then the session is told that it has fallen behind.
    pub(crate) fn entries(&self, entries: &[Arc<Entry>]) -> bool {
        let mut taken = true;
        self.put(|mail| {
            for entry in entries {
                let size = entry.size();
                if mail.entries.len() >= MAX_ENTRIES || mail.entry_bytes + size > MAX_ENTRY_BYTES {
                    mail.left.push((entry.feed, Arc::clone(&entry.timeline), Left::Fallen));
                    ::metrics::counter!(metrics::PUSHES_DROPPED).increment(1);
                    taken = false;
                    break;
                }
                mail.entry_bytes += size;
                mail.entries.push(Arc::clone(entry));
            }
        });
        taken
    }

    pub(crate) fn left(&self, feed: FeedId, timeline: &Arc<TimelineName>, why: Left) {
        self.put(|mail| mail.left.push((feed, Arc::clone(timeline), why)));
    }

    pub(crate) fn begun(&self, group: GroupId, head: Option<Head>) {
        self.put(|mail| mail.begun.push((group, head)));
    }

    pub(crate) fn announced(&self, heads: Vec<TimelineHead>) {
        self.put(|mail| mail.heads = Some(heads));
    }

    pub(crate) fn signal(&self, signal: Arc<Signaled>) {
        // Chat states, which are worth nothing later, leave room for what must not be missed.
        if let Some(Notice::ChatState(_)) = &signal.notice {
            self.put(|mail| {
                if mail.signals.len() < MAX_CHAT_STATES {
                    mail.add_signal(signal);
                }
            });
            return;
        }
        self.put(|mail| {
            if mail.signals.len() < MAX_SIGNALS {
                mail.add_signal(signal);
            } else {
                mail.signals_missed = true;
            }
        });
    }

    /// Takes what contacts show. Without an interval the session is woken at once; otherwise when this long has passed since it last was for
    /// that reason. Returns when `ring` has to be called, if it is not going to be.
    pub(crate) fn presences(
        &self,
        news: &[Arc<PresenceNews>],
        interval: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let mut content = self.content.lock();
        let mail = content.mail.get_or_insert_default();
        news.iter().for_each(|news| mail.add_presence(news));
        let is_full = mail.presences.len() >= MANY_PRESENCES || mail.signals_missed;
        match interval {
            Some(interval) if !is_full => {
                let at = content.woken_at.map_or(now, |woken_at| now.max(woken_at + interval));
                (!std::mem::replace(&mut content.rings, true)).then_some(at)
            }
            _ => {
                content.woken_at = Some(now);
                drop(content);
                self.arrived.notify_one();
                None
            }
        }
    }

    /// The time has come to tell the session what contacts show, unless something else has carried it along.
    pub(crate) fn ring(&self, now: Instant) {
        let mut content = self.content.lock();
        content.rings = false;
        if content.mail.as_ref().is_some_and(|mail| !mail.presences.is_empty()) {
            content.woken_at = Some(now);
            drop(content);
            self.arrived.notify_one();
        }
    }

    pub(crate) fn directed(&self, directed: Directed, asked: DirectedRequest) {
        let mut refused = Some(asked);
        self.put(|mail| {
            if mail.directed.len() < MAX_DIRECTED
                && let Some(asked) = refused.take()
            {
                mail.directed.push((directed, asked));
            }
        });
        if let Some(asked) = refused {
            asked.answer(Err(refusal(Code::Overloaded, "too many requests wait for this connection", 500)));
        }
    }

    pub(crate) fn over(&self, why: Why) {
        self.put(|mail| mail.over = Some(why));
    }

    pub(crate) fn drain(&self, reconnect_after: Duration) {
        self.put(|mail| mail.drain = Some(reconnect_after));
    }

    pub(crate) fn go_elsewhere(&self, reconnect_after: Duration) {
        self.put(|mail| mail.go_elsewhere = Some(reconnect_after));
    }

    pub(crate) fn cut_off(&self, reconnect_after: Duration) {
        self.put(|mail| mail.cut_off = Some(reconnect_after));
    }

    /// Waits until there is mail. Cancel-safe: messages stay.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> Mail {
        self.content.lock().mail.take().map_or_else(Mail::default, |mail| *mail)
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(self.content.lock().mail.get_or_insert_default());
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use carillon_proto::{Epoch, Position, TimelineId, UserId, pb::client::Presence};

    use super::*;
    use crate::feeds::{Came, TimelineName};

    #[test]
    fn entries_are_taken_before_the_answer_that_has_counted_one_of_them() {
        let mailbox = Mailbox::default();
        let timeline = Arc::new(TimelineName::new(TimelineId::Inbox(UserId::new("alice").expect("valid"))));
        let position = Position { epoch: Epoch(1), seq: 1 };
        mailbox.answer(Tag::Close, RequestOutcome { result: Err(refusal(Code::Unavailable, "gone", 0)), lease: 5 });
        mailbox.left(FeedId(9), &timeline, Left::Fallen);
        mailbox.entries(&[Arc::new(Entry::new(FeedId(9), timeline, position, Bytes::new(), Came::Push))]);
        let inputs: Vec<Input> = mailbox.take().into_inputs().collect();
        assert!(matches!(&inputs[..], [Input::Entry(_), Input::Answer(..), Input::Left(..)]));
    }

    fn presence(user: usize, number: u64) -> Arc<PresenceNews> {
        Arc::new(PresenceNews::new(Presence { user: format!("user{user}"), number, ..Presence::default() }))
    }

    /// Of each input what it is, or how many presences.
    fn taken(mailbox: &Mailbox) -> Vec<String> {
        let told = |input| match input {
            Input::Signal(_) => "signal".to_owned(),
            Input::Presences(news) => news.len().to_string(),
            Input::SignalsMissed => "missed".to_owned(),
            _ => panic!("nothing else was put in"),
        };
        mailbox.take().into_inputs().map(told).collect()
    }

    #[test]
    fn signals_and_presences_keep_their_order() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        let interval = Some(Duration::from_secs(1));
        mailbox.presences(&[presence(1, 1), presence(2, 2), presence(1, 3)], interval, now);
        mailbox.signal(Arc::default());
        mailbox.presences(&[presence(1, 4)], interval, now);
        mailbox.signal(Arc::default());
        mailbox.signal(Arc::default());
        mailbox.presences(&[presence(1, 5)], interval, now);
        assert_eq!(taken(&mailbox), ["2", "signal", "1", "signal", "signal", "1"]);
    }

    #[test]
    fn presences_are_bounded_and_the_session_learns_what_it_has_missed() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        let interval = Some(Duration::from_secs(1));
        let at = mailbox.presences(&[presence(0, 1)], interval, now);
        assert_eq!(at, Some(now), "nobody has been told for long");
        for user in 0..MAX_PRESENCES {
            assert_eq!(mailbox.presences(&[presence(user, 2)], interval, now), None, "it is known when");
        }
        // There is room for a later one of the same contact.
        mailbox.presences(&[presence(0, 3)], interval, now);
        assert_eq!(taken(&mailbox), ["1024"]);
        for user in 0..=MAX_PRESENCES {
            mailbox.presences(&[presence(user, 4)], interval, now);
        }
        assert_eq!(taken(&mailbox), ["1024", "missed"]);
    }

    #[tokio::test]
    async fn many_presences_are_not_waited_with() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        for user in 0..MANY_PRESENCES {
            mailbox.presences(&[presence(user, 1)], Some(Duration::from_secs(3600)), now);
        }
        mailbox.arrived().await;
        assert_eq!(taken(&mailbox), ["256"]);
    }

    #[test]
    fn a_full_mailbox_says_whose_entry_had_no_room() {
        let mailbox = Mailbox::default();
        let timeline = Arc::new(TimelineName::new(TimelineId::Inbox(UserId::new("alice").expect("valid"))));
        let entry = |seq, size| {
            let (timeline, position) = (Arc::clone(&timeline), Position { epoch: Epoch(1), seq });
            Arc::new(Entry::new(FeedId(9), timeline, position, Bytes::from(vec![0; size]), Came::Push))
        };
        for seq in 1..=MAX_ENTRIES as u64 {
            assert!(mailbox.entries(&[entry(seq, 1)]));
        }
        assert!(!mailbox.entries(&[entry(100, 1)]));
        let mail = mailbox.take();
        let left: Vec<_> = mail.left.iter().map(|(feed, _, why)| (*feed, *why)).collect();
        assert_eq!((mail.entries.len(), &left[..]), (MAX_ENTRIES, &[(FeedId(9), Left::Fallen)][..]));
        assert!(mailbox.entries(&[entry(101, MAX_ENTRY_BYTES / 2)]));
        assert!(!mailbox.entries(&[entry(102, MAX_ENTRY_BYTES / 2)]), "by bytes, too");
    }
}
