//! One flow: how its sends ended, and how far each of its watchers is.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    Flow, GroupCheck, Outcome, Summary, Violation, WatcherCheck,
    ranges::Ranges,
    violation::{Kept, Violations},
};

/// The checks of one flow. Each flow has a lock of its own, so that flows do not wait for each other.
pub struct FlowCheck {
    pub name: Flow,
    /// The group to which the messages go; `None`: to a user.
    pub group: Option<Arc<GroupCheck>>,
    state: Mutex<State>,
    violations: Arc<Violations>,
}

/// The sends of a flow. A send that is neither pending nor refused nor unknown was accepted.
#[derive(Default)]
struct State {
    sent: u64,
    pending: Ranges,
    refused: Ranges,
    unknown: Ranges,
    /// Accepted messages that may be missing, though not stand at another place: they came after a backup had begun.
    late: Ranges,
    seen: Vec<Seen>,
}

struct Seen {
    watcher: Arc<WatcherCheck>,
    /// True if the watcher must be shown all accepted messages.
    expects: bool,
    /// The highest counter that the watcher was shown.
    last: u64,
    /// The counters below `last` that the watcher was not shown.
    skipped: Ranges,
}

impl FlowCheck {
    pub(super) fn new(name: Flow, group: Option<Arc<GroupCheck>>, violations: Arc<Violations>) -> Self {
        Self { name, group, state: Mutex::default(), violations }
    }

    /// This watcher must be shown everything that is accepted.
    pub fn expect(&self, watcher: &Arc<WatcherCheck>) {
        self.state.lock().seen(watcher).expects = true;
    }

    /// Notes a new send and gives its counter.
    pub fn sending(&self) -> u64 {
        let mut state = self.state.lock();
        state.sent += 1;
        let counter = state.sent;
        state.pending.insert(counter, counter);
        counter
    }

    /// Notes how a send ended. Later endings of the same send are ignored.
    pub fn ended(&self, counter: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        if !state.pending.remove(counter) {
            return;
        }
        match outcome {
            Outcome::Accepted => {}
            Outcome::Unknown => state.unknown.insert(counter, counter),
            Outcome::Refused => {
                state.refused.insert(counter, counter);
                for seen in state.seen.iter().filter(|seen| seen.shown(counter)) {
                    self.violations.add(self.invented(&seen.watcher, counter));
                }
            }
        }
    }

    /// Nobody waits for an answer any more: what has none yet is unknown.
    pub(super) fn give_up(&self) {
        let mut state = self.state.lock();
        let pending = std::mem::take(&mut state.pending);
        pending.runs().for_each(|(first, last)| state.unknown.insert(first, last));
    }

    /// The watcher was shown this message. True if it was the first time, in order, and the watcher expects it.
    pub fn delivered(&self, watcher: &Arc<WatcherCheck>, counter: u64) -> bool {
        let mut state = self.state.lock();
        if counter == 0 || counter > state.sent || state.refused.contains(counter) {
            self.violations.add(self.invented(watcher, counter));
            return false;
        }
        let seen = state.seen(watcher);
        if counter > seen.last {
            seen.skipped.insert(seen.last + 1, counter - 1);
            seen.last = counter;
            if seen.expects {
                watcher.count();
            }
            return seen.expects;
        }
        let (watcher, flow, after) = (watcher.name.clone(), self.name.clone(), seen.last);
        if !seen.skipped.remove(counter) {
            self.violations.add(Violation::Doubled { watcher, flow, counter });
        } else if !state.unknown.contains(counter) {
            // The sender did not wait for a message that it gave up, so such a message may follow later ones.
            self.violations.add(Violation::Reordered { watcher, flow, counter, after });
        }
        false
    }

    /// True if every send has ended, and every watcher that expects the flow was shown all accepted messages.
    pub fn complete(&self) -> bool {
        let state = self.state.lock();
        let waits = |seen: &Seen| seen.expects && state.missing(seen).next().is_some();
        state.pending.len() == 0 && !state.seen.iter().any(waits)
    }

    /// True if this watcher was shown all messages that were accepted so far.
    pub fn complete_for(&self, watcher: &Arc<WatcherCheck>) -> bool {
        let mut state = self.state.lock();
        state.seen(watcher);
        let all = |seen: &Seen| Arc::ptr_eq(&seen.watcher, watcher) && state.missing(seen).next().is_some();
        !state.seen.iter().any(all)
    }

    /// The messages that are accepted by now.
    pub(crate) fn accepted(&self) -> Ranges {
        let state = self.state.lock();
        let mut accepted = Ranges::default();
        (1..=state.sent)
            .filter(|counter| state.is_accepted(*counter))
            .for_each(|counter| accepted.insert(counter, counter));
        accepted
    }

    /// How many sends ended without an answer, or have none yet.
    pub(crate) fn unknown(&self) -> u64 {
        let state = self.state.lock();
        state.unknown.len() + state.pending.len()
    }

    /// The same flow for another reading. With `before`, only these messages must be there.
    pub(super) fn anew(&self, before: Option<&Ranges>, violations: Arc<Violations>) -> Self {
        let state = self.state.lock();
        let (mut unknown, mut late) = (state.unknown.clone(), Ranges::default());
        state.pending.runs().for_each(|(first, last)| unknown.insert(first, last));
        if let Some(before) = before {
            let after = (1..=state.sent).filter(|counter| state.is_accepted(*counter) && !before.contains(*counter));
            after.for_each(|counter| late.insert(counter, counter));
        }
        let anew = State { sent: state.sent, refused: state.refused.clone(), unknown, late, ..State::default() };
        Self { name: self.name.clone(), group: self.group.clone(), state: Mutex::new(anew), violations }
    }

    /// Reports each message that some of those who read timelines back have seen, and others have not.
    pub(super) fn compare_readers(&self, kept: &mut Kept) {
        let state = self.state.lock();
        let reads = |seen: &&Seen| seen.watcher.reads_back && seen.must_have_all();
        let readers: Vec<_> = state.seen.iter().filter(reads).collect();
        for counter in 1..=state.sent {
            if readers.iter().any(|seen| seen.shown(counter)) {
                for seen in readers.iter().filter(|seen| !seen.shown(counter)) {
                    let (watcher, flow) = (seen.watcher.name.clone(), self.name.clone());
                    kept.add(Violation::Halved { watcher, flow, counter });
                }
            }
        }
    }

    /// Adds the lost messages to `kept`, and the counts to `summary`.
    pub(super) fn finish(&self, summary: &mut Summary, kept: &mut Kept) {
        let state = self.state.lock();
        summary.sent += state.sent;
        summary.refused += state.refused.len();
        summary.unknown += state.unknown.len() + state.pending.len();
        summary.accepted += state.sent - state.refused.len() - state.unknown.len() - state.pending.len();
        for seen in state.seen.iter().filter(|seen| seen.must_have_all()) {
            for counter in state.missing(seen) {
                let (watcher, flow) = (seen.watcher.name.clone(), self.name.clone());
                kept.add(Violation::Lost { watcher, flow, counter });
            }
        }
    }

    /// The number of entries in the flow's sets, by which its memory grows.
    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        let state = self.state.lock();
        let sets = [&state.pending, &state.refused, &state.unknown];
        sets.into_iter().chain(state.seen.iter().map(|seen| &seen.skipped)).map(|set| set.runs().count()).sum()
    }

    fn invented(&self, watcher: &WatcherCheck, counter: u64) -> Violation {
        Violation::Invented { watcher: watcher.name.clone(), flow: self.name.clone(), counter }
    }
}

impl State {
    /// A flow has few watchers: looking at each is quicker than hashing.
    fn seen(&mut self, watcher: &Arc<WatcherCheck>) -> &mut Seen {
        let at = self.seen.iter().position(|seen| Arc::ptr_eq(&seen.watcher, watcher)).unwrap_or_else(|| {
            let watcher = Arc::clone(watcher);
            self.seen.push(Seen { watcher, expects: false, last: 0, skipped: Ranges::default() });
            self.seen.len() - 1
        });
        &mut self.seen[at]
    }

    /// Counters of accepted messages that the watcher was not shown.
    fn missing<'a>(&'a self, seen: &'a Seen) -> impl Iterator<Item = u64> + 'a {
        let runs = seen.skipped.runs().chain([(seen.last + 1, self.sent)]);
        let must = |counter: &u64| self.is_accepted(*counter) && !self.late.contains(*counter);
        runs.flat_map(|(first, last)| first..=last).filter(must)
    }

    /// Of a counter that was sent.
    fn is_accepted(&self, counter: u64) -> bool {
        ![&self.pending, &self.refused, &self.unknown].iter().any(|set| set.contains(counter))
    }
}

impl Seen {
    /// At the end, when all is read that can be.
    fn must_have_all(&self) -> bool {
        self.expects && !self.watcher.is_unread()
    }

    fn shown(&self, counter: u64) -> bool {
        counter <= self.last && !self.skipped.contains(counter)
    }
}
