//! One group: what stands in its log, and what each device was shown of it.
//!
//! By its positions the log is the same for everybody: whoever shows a position first, an `Accepted`, a delivery or the reading of the
//! log at the end, says which message stands there, and all others must say the same. The reading at the end also says when each user was
//! a member. By that it is known what each device had to be shown, and what it must not have been. Memory grows by eight bytes for each
//! position.

use std::{
    collections::HashMap,
    hash::Hasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use carillon_proto::pb::client::{Envelope, MembersChange, group_change::What, members_change::Kind};
use parking_lot::{Mutex, RwLock};
use siphasher::sip::SipHasher13;

use super::{
    Summary, Violation, Watcher,
    ranges::Ranges,
    violation::{Kept, Violations},
};

/// The checks of one group.
pub struct GroupCheck {
    pub name: String,
    log: RwLock<Log>,
    /// The last position that anybody has shown.
    head: AtomicU64,
    watchers: Mutex<Vec<Arc<GroupWatcher>>>,
    violations: Arc<Violations>,
}

#[derive(Default)]
struct Log {
    /// Which entry stands at each position, counted from 1; 0 where nobody has said it yet.
    entries: Vec<u64>,
    /// When each user was a member, as the reading of the log says; `None` before it was read.
    stays: Option<Stays>,
}

/// The positions from the change that makes the user a member to the one that ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stay {
    from: u64,
    to: Option<u64>,
}

#[derive(Debug, Default)]
struct Stays(HashMap<String, Vec<Stay>>);

/// Entries of a group that one device was shown.
pub struct GroupWatcher {
    name: Watcher,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    last: u64,
    positions: Ranges,
    /// Messages of others.
    messages: u64,
}

/// Reads the log of a group from its beginning to its end.
pub struct GroupReader {
    group: Arc<GroupCheck>,
    stays: Stays,
}

/// No position is so far behind what is known of a log.
const FARTHEST: u64 = 1 << 20;

impl GroupCheck {
    pub(super) fn new(name: &str, violations: Arc<Violations>) -> Self {
        let (log, head, watchers) = (RwLock::default(), AtomicU64::new(0), Mutex::default());
        Self { name: name.to_owned(), log, head, watchers, violations }
    }

    /// A device that is to be shown what is said while its user is a member.
    pub fn watch(&self, user: &str, device: &str) -> Arc<GroupWatcher> {
        let name = Watcher { user: user.to_owned(), device: device.to_owned() };
        let watcher = Arc::new(GroupWatcher { name, shown: Mutex::default() });
        self.watchers.lock().push(Arc::clone(&watcher));
        watcher
    }

    /// The service says that this message stands there.
    pub fn accepted(&self, seq: u64, message_id: &str) {
        if !self.stands(seq, message_id) {
            let watcher = Watcher { user: self.name.clone(), device: "accepted".to_owned() };
            self.violations.add(Violation::Misplaced { watcher, group: self.name.clone(), seq });
        }
    }

    /// The watcher was shown this entry.
    pub fn shown(&self, watcher: &GroupWatcher, seq: u64, id: &str) {
        let (name, group) = (|| watcher.name.clone(), || self.name.clone());
        if !self.stands(seq, id) {
            self.violations.add(Violation::Misplaced { watcher: name(), group: group(), seq });
        }
        let mut shown = watcher.shown.lock();
        if shown.positions.contains(seq) {
            return self.violations.add(Violation::Repeated { watcher: name(), group: group(), seq });
        }
        shown.positions.insert(seq, seq);
        let expected = shown.last + 1;
        // The first one may be any: it is known at the end whether it was the right one.
        if shown.last != 0 && seq != expected {
            self.violations.add(Violation::Skipped { watcher: name(), group: group(), expected, got: seq });
        }
        shown.last = shown.last.max(seq);
    }

    /// The last position that anybody has shown.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// Reads the log; all positions must be read, in order.
    pub fn reader(self: &Arc<Self>) -> GroupReader {
        GroupReader { group: Arc::clone(self), stays: Stays::default() }
    }

    /// True if every device was shown the last position. Those of users who are not members at the end never are.
    pub(super) fn complete(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        self.watchers.lock().iter().all(|watcher| watcher.shown.lock().last >= head)
    }

    /// False if another entry stands there.
    fn stands(&self, seq: u64, id: &str) -> bool {
        let (entry, Some(at)) = (fingerprint(id), seq.checked_sub(1)) else { return false };
        let at = at as usize;
        let known = self.log.read().entries.get(at).copied().unwrap_or(0);
        if known != 0 {
            return known == entry;
        }
        let mut log = self.log.write();
        if seq > log.entries.len() as u64 + FARTHEST {
            return false;
        }
        if log.entries.len() <= at {
            log.entries.resize(at + 1, 0);
        }
        let place = &mut log.entries[at];
        if *place == 0 {
            *place = entry;
        }
        self.head.fetch_max(seq, Ordering::Relaxed);
        *place == entry
    }

    /// Adds what the devices lack, and what they were shown outside of their users' memberships, to `kept`.
    pub(super) fn finish(&self, summary: &mut Summary, kept: &mut Kept) {
        let (log, head) = (self.log.read(), self.head.load(Ordering::Relaxed));
        for watcher in self.watchers.lock().iter() {
            let shown = watcher.shown.lock();
            summary.delivered += shown.messages;
            // Without it nothing is known of memberships.
            let Some(stays) = &log.stays else { continue };
            let stays = stays.0.get(&watcher.name.user).map_or(&[][..], Vec::as_slice);
            let (watcher, group) = (&watcher.name, &self.name);
            let unheard = unheard(&shown.positions, stays, head);
            let unheard = unheard.map(|seq| Violation::Unheard { watcher: watcher.clone(), group: group.clone(), seq });
            unheard.for_each(|violation| kept.add(violation));
            let overheard = shown.positions.runs().flat_map(|(first, last)| first..=last);
            for seq in overheard.filter(|seq| !stays.iter().any(|stay| stay.has(*seq))) {
                kept.add(Violation::Overheard { watcher: watcher.clone(), group: group.clone(), seq });
            }
        }
    }
}

/// The positions that a device has to be shown, and was not. When a membership has ended, the service may have told that before
/// everything that was said until then: what was shown must be the beginning.
fn unheard<'a>(shown: &'a Ranges, stays: &'a [Stay], head: u64) -> impl Iterator<Item = u64> + 'a {
    stays.iter().flat_map(move |stay| {
        let last_shown = |to| shown.runs().filter(|(first, _)| *first <= to).last().map_or(0, |(_, last)| last.min(to));
        let to = stay.to.map_or(head, last_shown);
        (stay.from..=to).filter(|seq| !shown.contains(*seq))
    })
}

impl Stay {
    fn has(self, seq: u64) -> bool {
        self.from <= seq && self.to.is_none_or(|to| seq <= to)
    }
}

impl GroupWatcher {
    /// The device was shown a message of somebody else.
    pub fn heard(&self) {
        self.shown.lock().messages += 1;
    }

    /// Entries before `first` are not for the device.
    pub fn trimmed(&self, first: u64) {
        let mut shown = self.shown.lock();
        shown.last = shown.last.max(first.saturating_sub(1));
    }
}

impl GroupReader {
    /// The next position of the log.
    pub fn reads(&mut self, seq: u64, envelope: &Envelope) {
        let group = &self.group;
        if !group.stands(seq, &envelope.id) {
            let watcher = Watcher { user: group.name.clone(), device: "read back".to_owned() };
            group.violations.add(Violation::Misplaced { watcher, group: group.name.clone(), seq });
        }
        match envelope.change.as_ref().and_then(|change| change.what.as_ref()) {
            Some(What::Created(created)) => {
                self.stays.begins(&envelope.sender, seq);
                created.members.iter().for_each(|user| self.stays.begins(user, seq));
            }
            Some(What::Members(members)) => self.stays.change(members, seq),
            Some(What::Deleted(_)) => self.stays.all_end(seq),
            Some(What::Set(_)) => {}
            None if !self.stays.is_in(&envelope.sender) => {
                let (sender, group) = (envelope.sender.clone(), group.name.clone());
                self.group.violations.add(Violation::Intruded { sender, group, seq });
            }
            None => {}
        }
    }

    /// The log was read to its end.
    pub fn ends(self) {
        self.group.log.write().stays = Some(self.stays);
    }
}

impl Stays {
    fn change(&mut self, change: &MembersChange, seq: u64) {
        match change.kind() {
            Kind::Joined | Kind::Added => change.users.iter().for_each(|user| self.begins(user, seq)),
            Kind::Left | Kind::Removed | Kind::Banned => change.users.iter().for_each(|user| self.ends(user, seq)),
            Kind::Unspecified | Kind::Invited | Kind::Pardoned | Kind::Role | Kind::Muted => {}
        }
    }

    fn begins(&mut self, user: &str, seq: u64) {
        if !self.is_in(user) {
            self.0.entry(user.to_owned()).or_default().push(Stay { from: seq, to: None });
        }
    }

    fn ends(&mut self, user: &str, seq: u64) {
        if let Some(stay) = self.0.get_mut(user).and_then(|stays| stays.last_mut()) {
            stay.to.get_or_insert(seq);
        }
    }

    fn all_end(&mut self, seq: u64) {
        self.0.values_mut().filter_map(|stays| stays.last_mut()).for_each(|stay| _ = stay.to.get_or_insert(seq));
    }

    fn is_in(&self, user: &str) -> bool {
        self.0.get(user).and_then(|stays| stays.last()).is_some_and(|stay| stay.to.is_none())
    }
}

/// Never 0.
fn fingerprint(id: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(id.as_bytes());
    hasher.finish() | 1
}
