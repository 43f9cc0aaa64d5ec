//! A live session in the register of its user's owner.

use carillon_proto::{
    LeaseId,
    pb::{link::SessionPresence, store},
};

/// A session as its gateway announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) device: Box<str>,
    pub(crate) lease: LeaseId,
    pub(crate) connection: u64,
    pub(crate) generation: u64,
    /// The link on which it was announced.
    pub(crate) link: u64,
    /// `None`: it shows nothing, and is told nothing of others.
    pub(crate) presence: Option<Box<SessionPresence>>,
    /// The number that the gateway has given to that, which grows with each change.
    pub(crate) shown: u64,
}

impl Session {
    /// `stored` as it was announced on this link.
    pub(crate) fn new(stored: &store::Session, link: u64) -> Self {
        let store::Session { device, lease, connection, generation, .. } = stored;
        let (device, lease) = (device.as_str().into(), LeaseId(*lease));
        Self { device, lease, connection: *connection, generation: *generation, link, presence: None, shown: 0 }
    }

    pub(crate) fn has_handle(&self, lease: LeaseId, connection: u64) -> bool {
        (self.lease, self.connection) == (lease, connection)
    }
}
