//! Unanswered sends: what goes out next, and what is repeated. Pure; time is a parameter.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, Instant},
};

use carillon_proto::pb::client::{self, Code, GroupRequest, Recipient, Send, client_frame::Body, recipient::To};

/// Keeps each send until it is accepted, refused for good or out of time. `T` is how its answer is given.
///
/// Order: sends go out in the order in which they came. After a reconnect, all that is unanswered goes out again, in
/// that order, before anything newer. A send that was refused for now holds back the later ones to its recipient (or
/// all, when the service is overloaded), not those to others. One that was refused for the rate holds back all behind it,
/// until its own time: each refused one has a place in the rate. While the service is
/// overloaded fewer are in flight: half as many after each pause, one more after as many acceptances (AIMD). What is sent
/// while an earlier message to the same recipient has no answer names it in `Send.after`, so that it can't overtake it
/// whatever fails.
pub(crate) struct Outbox<T> {
    next_order: u64,
    waiting: BTreeMap<u64, Entry<T>>,
    in_flight: HashMap<String, (u64, Entry<T>)>,
    window: usize,
    /// The part of the window that is in use.
    allowed: usize,
    accepted: usize,
    held: HashMap<Option<Recipient>, Instant>,
    /// When the first send that waits for its place in the rate goes out; as of the last `take_ready`.
    rate: Option<Instant>,
}

/// A request that is answered by Accepted, or refused by its client id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Send(Send),
    /// A change of a group. In order with the messages to it.
    Group(GroupRequest),
}

struct Entry<T> {
    request: Request,
    to: Option<Recipient>,
    deadline: Instant,
    /// Its place in the rate.
    not_before: Option<Instant>,
    answer: T,
    refusal: Option<Refusal>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub reason: String,
    /// True if the same request, with the same id, may succeed later.
    pub retry: bool,
    pub retry_after: Duration,
}

/// A send whose deadline has passed. It may or may not have been accepted.
pub(crate) struct Expired<T> {
    pub(crate) client_id: String,
    pub(crate) answer: T,
    pub(crate) refusal: Option<Refusal>,
}

impl<T> Outbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            next_order: 0,
            waiting: BTreeMap::new(),
            in_flight: HashMap::new(),
            window: 1,
            allowed: 1,
            accepted: 0,
            held: HashMap::new(),
            rate: None,
        }
    }

    pub(crate) fn push(&mut self, request: Request, deadline: Instant, answer: T) {
        let to = request.to();
        self.waiting.insert(self.next_order, Entry { request, to, deadline, not_before: None, answer, refusal: None });
        self.next_order += 1;
    }

    /// A new connection, which takes this many unanswered sends: everything goes out again.
    pub(crate) fn connected(&mut self, window: usize) {
        self.disconnected();
        self.window = window.max(1);
        self.allowed = self.window;
        self.held.clear();
    }

    pub(crate) fn disconnected(&mut self) {
        self.waiting.extend(self.in_flight.drain().map(|(_, entry)| entry));
        // A place is one connection's.
        self.waiting.values_mut().for_each(|entry| entry.not_before = None);
    }

    /// Gives the requests that may go out now, in order.
    pub(crate) fn take_ready(&mut self, now: Instant, mut out: impl FnMut(Request)) {
        self.held.retain(|_, until| *until > now);
        self.rate = None;
        let mut after = 0;
        while self.in_flight.len() < self.allowed {
            let Some(order) = self.first_free(after, now) else { return };
            let Some(entry) = self.waiting.remove(&order) else { return };
            let mut request = entry.request.clone();
            if let Request::Send(send) = &mut request {
                send.after = self.unanswered_before(order, &entry.to);
            }
            out(request);
            self.in_flight.insert(entry.request.client_id().to_owned(), (order, entry));
            after = order;
        }
    }

    /// When [`Outbox::take_ready`] may return more although nothing else has happened.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        if self.waiting.is_empty() { None } else { self.held.values().copied().chain(self.rate).min() }
    }

    /// Takes out the receiver of the answer; `None` if nothing waits under this id any more.
    pub(crate) fn accepted(&mut self, client_id: &str) -> Option<T> {
        let (_, entry) = self.in_flight.remove(client_id)?;
        self.accepted += 1;
        if self.accepted >= self.allowed {
            self.accepted = 0;
            self.allowed = (self.allowed + 1).min(self.window);
        }
        Some(entry.answer)
    }

    /// The receiver of the answer if the refusal is final; otherwise the send waits for its next attempt.
    pub(crate) fn refused(&mut self, client_id: &str, refusal: &Refusal, now: Instant) -> Option<T> {
        let (order, mut entry) = self.in_flight.remove(client_id)?;
        if !refusal.retry || now + refusal.retry_after >= entry.deadline {
            return Some(entry.answer);
        }
        // Once for all sends that are refused together.
        if refusal.code == Code::Overloaded && self.held.get(&None).is_none_or(|until| *until <= now) {
            self.allowed = (self.allowed / 2).max(1);
            self.accepted = 0;
        }
        let until = now + refusal.retry_after.max(MIN_PAUSE);
        let who = match refusal.code {
            Code::RateLimited if refusal.retry_after < OF_ONE_CONVERSATION => {
                entry.not_before = Some(until);
                None
            }
            Code::Overloaded => Some(None),
            _ => Some(entry.to.clone()),
        };
        if let Some(who) = who {
            let held = self.held.entry(who).or_insert(until);
            *held = until.max(*held);
        }
        entry.refusal = Some(refusal.clone());
        self.waiting.insert(order, entry);
        None
    }

    pub(crate) fn expire(&mut self, now: Instant, mut expired: impl FnMut(Expired<T>)) {
        let waiting = self.waiting.iter().filter(|(_, entry)| entry.deadline <= now);
        let waiting: Vec<u64> = waiting.map(|(order, _)| *order).collect();
        let waiting = waiting.iter().filter_map(|order| self.waiting.remove(order));
        let in_flight = self.in_flight.extract_if(|_, (_, entry)| entry.deadline <= now);
        for entry in waiting.chain(in_flight.map(|(_, (_, entry))| entry)) {
            let client_id = entry.request.client_id().to_owned();
            expired(Expired { client_id, answer: entry.answer, refusal: entry.refusal });
        }
    }

    /// Everything unanswered, when there will be no answers.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.disconnected();
        std::mem::take(&mut self.waiting).into_values().map(|entry| entry.answer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// True if it changes a group.
    pub(crate) fn is_change(&self, client_id: &str) -> bool {
        self.in_flight.get(client_id).is_some_and(|(_, entry)| matches!(entry.request, Request::Group(_)))
    }

    /// True if a send without an answer has gone out.
    pub(crate) fn awaits_answer(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The last of the earlier sends to this recipient that are in flight; a waiting one goes out before.
    fn unanswered_before(&self, order: u64, to: &Option<Recipient>) -> String {
        let before = self.in_flight.values().filter(|(other, entry)| *other < order && entry.to == *to);
        let last = before.max_by_key(|(other, _)| *other);
        last.map(|(_, entry)| entry.request.client_id().to_owned()).unwrap_or_default()
    }

    /// The first waiting send from `after` on that nothing holds back.
    fn first_free(&mut self, after: u64, now: Instant) -> Option<u64> {
        if self.held.contains_key(&None) {
            return None;
        }
        for (order, entry) in self.waiting.range(after..) {
            if let Some(at) = entry.not_before.filter(|at| *at > now) {
                self.rate = Some(at);
                return None;
            }
            if self.held.is_empty() || !self.held.contains_key(&entry.to) {
                return Some(*order);
            }
        }
        None
    }
}

impl Request {
    pub(crate) fn client_id(&self) -> &str {
        match self {
            Self::Send(send) => &send.client_id,
            Self::Group(request) => &request.client_id,
        }
    }

    fn to(&self) -> Option<Recipient> {
        match self {
            Self::Send(send) => send.to.clone(),
            Self::Group(request) => Some(Recipient { to: Some(To::Group(request.group.clone())) }),
        }
    }
}

impl From<Request> for Body {
    fn from(request: Request) -> Self {
        match request {
            Request::Send(send) => Self::Send(send),
            Request::Group(request) => Self::Group(request),
        }
    }
}

/// A refusal without a pause must not cause a tight loop.
/// A rate of the user frees a place after a shorter time: so long a pause is the slow mode of a group, and other conversations go on.
const OF_ONE_CONVERSATION: Duration = Duration::from_secs(1);
const MIN_PAUSE: Duration = Duration::from_millis(10);

impl From<client::Refused> for Refusal {
    fn from(refused: client::Refused) -> Self {
        Self {
            code: refused.code(),
            retry: refused.retry,
            retry_after: Duration::from_millis(refused.retry_after_ms.into()),
            reason: refused.reason,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str_name(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::client::recipient::To;

    const MS: Duration = Duration::from_millis(1);

    fn push(outbox: &mut Outbox<String>, id: &str, to: &str, deadline: Instant) {
        let to = Some(Recipient { to: Some(To::User(to.to_owned())) });
        outbox.push(
            Request::Send(Send {
                client_id: id.to_owned(),
                to,
                content: None,
                after: String::new(),
                expires_after_ms: 0,
            }),
            deadline,
            id.to_owned(),
        );
    }

    fn ready(outbox: &mut Outbox<String>, now: Instant) -> String {
        let mut ids = Vec::new();
        outbox.take_ready(now, |request| ids.push(request.client_id().to_owned()));
        ids.join(" ")
    }

    fn refusal(code: Code, retry: bool) -> Refusal {
        Refusal { code, reason: String::new(), retry, retry_after: 100 * MS }
    }

    fn filled(window: usize, now: Instant) -> Outbox<String> {
        let mut outbox = Outbox::new();
        for (id, to) in [("1", "bob"), ("2", "carol"), ("3", "bob"), ("4", "carol")] {
            push(&mut outbox, id, to, now + 1000 * MS);
        }
        outbox.connected(window);
        outbox
    }

    #[test]
    fn unanswered_sends_go_out_again_in_order_and_before_newer_ones() {
        let now = Instant::now();
        let mut outbox = filled(10, now);
        assert_eq!(ready(&mut outbox, now), "1 2 3 4");
        assert_eq!(outbox.accepted("2"), Some("2".to_owned()));
        outbox.disconnected();
        push(&mut outbox, "5", "bob", now + 1000 * MS);
        outbox.connected(10);
        assert_eq!(ready(&mut outbox, now), "1 3 4 5");
        assert_eq!(outbox.accepted("2"), None);
    }

    #[test]
    fn a_send_names_the_unanswered_one_before_it_and_never_one_behind() {
        let now = Instant::now();
        let mut outbox = filled(10, now);
        push(&mut outbox, "5", "bob", now + 1000 * MS);
        let named = |outbox: &mut Outbox<String>, now| {
            let mut named = Vec::new();
            outbox.take_ready(now, |request| match request {
                Request::Send(send) => named.push((send.client_id, send.after)),
                Request::Group(change) => named.push((change.client_id, String::new())),
            });
            named
        };
        let pair = |id: &str, after: &str| (id.to_owned(), after.to_owned());
        let all = [pair("1", ""), pair("2", ""), pair("3", "1"), pair("4", "2"), pair("5", "3")];
        assert_eq!(named(&mut outbox, now), all);
        // 5 is still in flight when 3 goes again.
        assert_eq!(outbox.accepted("1"), Some("1".to_owned()));
        assert_eq!(outbox.refused("3", &refusal(Code::Unavailable, true), now), None);
        assert_eq!(named(&mut outbox, now + 100 * MS), [pair("3", "")]);
        assert_eq!(outbox.refused("5", &refusal(Code::OutOfOrder, true), now + 100 * MS), None);
        assert_eq!(named(&mut outbox, now + 200 * MS), [pair("5", "3")]);
    }

    #[test]
    fn no_more_than_the_window_is_without_an_answer() {
        let now = Instant::now();
        let mut outbox = filled(3, now);
        assert_eq!(ready(&mut outbox, now), "1 2 3");
        assert_eq!(ready(&mut outbox, now), "");
        outbox.accepted("1");
        assert_eq!(ready(&mut outbox, now), "4");
    }

    #[test]
    fn a_refusal_for_now_holds_back_its_recipient_only() {
        let now = Instant::now();
        let mut outbox = filled(2, now);
        assert_eq!(ready(&mut outbox, now), "1 2");
        assert_eq!(outbox.refused("1", &refusal(Code::Unavailable, true), now), None);
        assert_eq!(ready(&mut outbox, now), "4");
        assert_eq!(outbox.next_release(), Some(now + 100 * MS));
        outbox.accepted("2");
        outbox.accepted("4");
        assert_eq!(ready(&mut outbox, now + 100 * MS), "1 3");
    }

    #[test]
    fn a_rate_limit_holds_back_everything() {
        let now = Instant::now();
        let mut outbox = filled(2, now);
        ready(&mut outbox, now);
        assert_eq!(outbox.refused("1", &refusal(Code::RateLimited, true), now), None);
        assert_eq!(ready(&mut outbox, now + 99 * MS), "");
        assert_eq!(ready(&mut outbox, now + 100 * MS), "1");
    }

    #[test]
    fn the_slow_mode_of_a_group_holds_back_no_other_conversation() {
        let now = Instant::now();
        let mut outbox = Outbox::new();
        for (id, to) in [("1", "club"), ("2", "bob"), ("3", "club"), ("4", "bob")] {
            push(&mut outbox, id, to, now + 60_000 * MS);
        }
        outbox.connected(1);
        assert_eq!(ready(&mut outbox, now), "1");
        let slow = Refusal { retry_after: 25_000 * MS, ..refusal(Code::RateLimited, true) };
        assert_eq!(outbox.refused("1", &slow, now), None);
        for id in ["2", "4"] {
            assert_eq!(ready(&mut outbox, now), id);
            outbox.accepted(id);
        }
        assert_eq!((ready(&mut outbox, now), outbox.next_release()), (String::new(), Some(now + 25_000 * MS)));
        assert_eq!(ready(&mut outbox, now + 25_000 * MS), "1");
    }

    #[test]
    fn each_send_over_the_rate_goes_at_its_own_time() {
        let now = Instant::now();
        let mut outbox = filled(4, now);
        assert_eq!(ready(&mut outbox, now), "1 2 3 4");
        for (id, ms) in [("2", 20), ("3", 40), ("4", 60)] {
            let told = Refusal { retry_after: ms * MS, ..refusal(Code::RateLimited, true) };
            assert_eq!(outbox.refused(id, &told, now), None);
        }
        push(&mut outbox, "5", "dora", now + 1000 * MS);
        for (ms, goes, next) in [(19, "", Some(20)), (20, "2", Some(40)), (45, "3", Some(60)), (60, "4 5", None)] {
            assert_eq!(ready(&mut outbox, now + ms * MS), goes, "after {ms} ms");
            assert_eq!(outbox.next_release(), next.map(|ms| now + ms * MS), "after {ms} ms");
            goes.split(' ').for_each(|id| {
                outbox.accepted(id);
            });
        }
        assert_eq!(outbox.accepted("1"), Some("1".to_owned()));
    }

    #[test]
    fn while_the_service_is_overloaded_fewer_are_in_flight() {
        let start = Instant::now();
        let mut outbox = Outbox::new();
        for number in 0..40 {
            push(&mut outbox, &number.to_string(), "bob", start + 10_000 * MS);
        }
        outbox.connected(8);
        assert_eq!(ready(&mut outbox, start).split(' ').count(), 8);
        for id in ["0", "1", "2", "3", "4", "5", "6", "7"] {
            assert_eq!(outbox.refused(id, &refusal(Code::Overloaded, true), start), None);
        }
        let now = start + 100 * MS;
        assert_eq!(ready(&mut outbox, now), "0 1 2 3", "half as many for all that were refused together");
        outbox.accepted("0");
        assert_eq!(ready(&mut outbox, now), "4");
        for id in ["1", "2", "3"] {
            outbox.accepted(id);
        }
        assert_eq!(ready(&mut outbox, now), "5 6 7 8", "one more after four acceptances");
    }

    #[test]
    fn a_final_refusal_and_one_past_the_deadline_are_answers() {
        let now = Instant::now();
        let mut outbox = filled(4, now);
        ready(&mut outbox, now);
        assert_eq!(outbox.refused("1", &refusal(Code::Forbidden, false), now), Some("1".to_owned()));
        let late = now + 950 * MS;
        assert_eq!(outbox.refused("2", &refusal(Code::Unavailable, true), late), Some("2".to_owned()));
        assert_eq!(outbox.refused("9", &refusal(Code::Unavailable, true), now), None);
    }

    #[test]
    fn a_send_is_given_up_at_its_deadline_wherever_it_is() {
        let now = Instant::now();
        let mut outbox = filled(1, now);
        push(&mut outbox, "5", "bob", now + 2000 * MS);
        ready(&mut outbox, now);
        let mut gone = Vec::new();
        outbox.expire(now + 999 * MS, |expired| gone.push(expired.client_id));
        assert!(gone.is_empty());
        outbox.expire(now + 1000 * MS, |expired| gone.push(expired.client_id));
        gone.sort();
        assert_eq!(gone, ["1", "2", "3", "4"]);
        assert_eq!(ready(&mut outbox, now + 1000 * MS), "5");
        assert_eq!(outbox.drain().collect::<Vec<_>>(), ["5"]);
        assert!(outbox.is_empty());
    }
}
