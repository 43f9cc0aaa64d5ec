//! All connections of this process that can take pushes, by number.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use carillon_proto::KeyedMap;
use parking_lot::Mutex;

use crate::mailbox::Mailbox;

const PARTS: usize = 16;

/// Bounded by `max_connections`. Sharded, so that readers of different links seldom contend.
pub(crate) struct Connections {
    next: AtomicU64,
    parts: [Mutex<KeyedMap<u64, Arc<Mailbox>>>; PARTS],
    signed_in: AtomicUsize,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(1), parts: Default::default(), signed_in: AtomicUsize::new(0) }
    }

    /// A number that is unique in this process.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The highest number that was given away; 0: none.
    pub(crate) fn last_number(&self) -> u64 {
        self.next.load(Ordering::Relaxed) - 1
    }

    pub(crate) fn insert(&self, connection: u64, mailbox: Arc<Mailbox>) {
        self.part(connection).lock().insert(connection, mailbox);
    }

    pub(crate) fn remove(&self, connection: u64) {
        self.part(connection).lock().remove(&connection);
    }

    pub(crate) fn get(&self, connection: u64) -> Option<Arc<Mailbox>> {
        self.part(connection).lock().get(&connection).cloned()
    }

    /// In the order in which they came.
    pub(crate) fn all(&self) -> Vec<Arc<Mailbox>> {
        self.between(0, u64::MAX).into_iter().map(|(_, mailbox)| mailbox).collect()
    }

    /// Connections with numbers above `after` and up to `last`, in the order in which they came.
    pub(crate) fn between(&self, after: u64, last: u64) -> Vec<(u64, Arc<Mailbox>)> {
        let mut found = Vec::new();
        for part in &self.parts {
            let part = part.lock();
            let wanted = part.iter().filter(|(number, _)| (after..=last).contains(*number) && **number != after);
            found.extend(wanted.map(|(number, mailbox)| (*number, Arc::clone(mailbox))));
        }
        found.sort_unstable_by_key(|(number, _)| *number);
        found
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    /// Counts a connection that has signed in, until it calls `signed_out` at its end.
    pub(crate) fn signed_in(&self) {
        self.signed_in.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn signed_out(&self) {
        self.signed_in.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn sessions(&self) -> usize {
        self.signed_in.load(Ordering::Relaxed)
    }

    fn part(&self, connection: u64) -> &Mutex<KeyedMap<u64, Arc<Mailbox>>> {
        &self.parts[(connection % PARTS as u64) as usize]
    }
}
