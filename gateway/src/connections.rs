//! All connections of this process that can take pushes, by number.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use carillon_proto::KeyedMap;
use parking_lot::Mutex;

use crate::mailbox::Mailbox;

const PARTS: usize = 16;

/// Bounded by `max_connections`. Sharded, so that readers of different links seldom contend.
pub(crate) struct Connections {
    next: AtomicU64,
    parts: [Mutex<KeyedMap<u64, Arc<Mailbox>>>; PARTS],
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(1), parts: Default::default() }
    }

    /// A number that is unique in this process.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
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
        let mut all = Vec::new();
        for part in &self.parts {
            all.extend(part.lock().iter().map(|(number, mailbox)| (*number, Arc::clone(mailbox))));
        }
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, mailbox)| mailbox).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    fn part(&self, connection: u64) -> &Mutex<KeyedMap<u64, Arc<Mailbox>>> {
        &self.parts[(connection % PARTS as u64) as usize]
    }
}
