//! Tells whether a user has other sessions here than a given one: the copy of a message in the sender's inbox is news
//! only for the sender's other sessions.

use std::{collections::hash_map::Entry, sync::Arc};

use carillon_proto::{KeyedMap, LeaseId, UserId, pb::client::Position};
use parking_lot::{Mutex, RwLock};

use crate::{part::part_of, session::Session};

/// Number of locks, so that readers seldom meet a writer.
const PARTS: usize = 16;

/// Shared by all partitions: each writes about its own users, and all read. Bounded by the users in the registers.
/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Companions(Arc<[RwLock<KeyedMap<UserId, Signed>>; PARTS]>);

/// How a user is signed in.
enum Signed {
    Once(Lone),
    MoreThanOnce,
}

/// The only session of a user.
struct Lone {
    lease: LeaseId,
    connection: u64,
    /// How far the inbox reaches by the messages that this session has sent. The register fetches it when needed.
    sent: Mutex<Option<Position>>,
}

impl Companions {
    /// True if another session has to be told of a message that this one has sent. If there is none, its position is
    /// kept for `sent`.
    pub(crate) fn hear(&self, user: &UserId, (lease, connection): (LeaseId, u64), position: Position) -> bool {
        match self.part(user).read().get(user) {
            None => false,
            Some(Signed::Once(lone)) if (lone.lease, lone.connection) == (lease, connection) => {
                *lone.sent.lock() = Some(position);
                false
            }
            Some(Signed::Once(_) | Signed::MoreThanOnce) => true,
        }
    }

    /// How far the inbox reaches by the messages that the user's only session has sent since the last call.
    pub(crate) fn sent(&self, user: &UserId) -> Option<Position> {
        match self.part(user).read().get(user)? {
            Signed::Once(lone) => lone.sent.lock().take(),
            Signed::MoreThanOnce => None,
        }
    }

    /// Sets the sessions of the user.
    pub(crate) fn changed(&self, user: &UserId, sessions: &[Session]) {
        let mut users = self.part(user).write();
        match (sessions, users.entry(user.clone())) {
            ([], Entry::Occupied(known)) => drop(known.remove()),
            ([], Entry::Vacant(_)) => {}
            ([only], entry) => {
                let (lease, connection) = (only.lease, only.connection);
                entry.insert_entry(Signed::Once(Lone { lease, connection, sent: Mutex::default() }));
            }
            (_, entry) => drop(entry.insert_entry(Signed::MoreThanOnce)),
        }
    }

    fn part(&self, user: &UserId) -> &RwLock<KeyedMap<UserId, Signed>> {
        &self.0[part_of(user.as_str(), PARTS)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(connection: u64) -> Session {
        Session { device: "a".into(), lease: LeaseId(10), connection, generation: 1, link: 1, presence: None, shown: 0 }
    }

    #[test]
    fn only_what_the_lone_session_has_sent_is_news_to_nobody() {
        let (companions, alice) = (Companions::default(), UserId::new("alice").expect("valid"));
        let hear = |connection, seq| companions.hear(&alice, (LeaseId(10), connection), Position { epoch: 1, seq });
        assert!(!hear(1, 1), "nobody is signed in");
        companions.changed(&alice, &[session(1)]);
        assert_eq!(companions.sent(&alice), None);
        assert!(!hear(1, 5));
        assert!(hear(2, 6), "a session that has just gone has sent it, and the other one is told");
        assert_eq!(companions.sent(&alice), Some(Position { epoch: 1, seq: 5 }));
        assert_eq!(companions.sent(&alice), None);
        companions.changed(&alice, &[session(1), session(2)]);
        assert!(hear(1, 7) && hear(2, 8));
        companions.changed(&alice, &[]);
        assert!(!hear(1, 9));
    }
}
