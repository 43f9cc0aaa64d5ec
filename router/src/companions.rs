//! Which users have more than one session here: the copy of a message in its sender's inbox is news for their other
//! sessions alone.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use carillon_proto::UserId;
use parking_lot::RwLock;

/// So that the partitions, which all ask, seldom meet whoever changes something.
const PARTS: usize = 16;

/// Of all partitions: each writes of its own users, and all read. Bounded by the sessions in the registers. Cheap to
/// clone.
#[derive(Clone, Default)]
pub(crate) struct Companions(Arc<[RwLock<HashSet<UserId>>; PARTS]>);

impl Companions {
    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.part(user).read().contains(user)
    }

    /// The user has so many sessions now.
    pub(crate) fn counted(&self, user: &UserId, sessions: usize) {
        if sessions > 1 {
            if !self.has(user) {
                self.part(user).write().insert(user.clone());
            }
        } else if self.has(user) {
            self.part(user).write().remove(user);
        }
    }

    fn part(&self, user: &UserId) -> &RwLock<HashSet<UserId>> {
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        &self.0[(hasher.finish() % PARTS as u64) as usize]
    }
}
