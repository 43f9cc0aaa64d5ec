//! The part of an envelope that says whose it is, and in which conversation.

use carillon_proto::pb::client::{Recipient, recipient::To};

/// Fields of `carillon.client.v1.Envelope`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::machine) struct EnvelopeHead {
    #[prost(string, tag = "1")]
    pub(in crate::machine) id: String,
    #[prost(string, tag = "2")]
    pub(in crate::machine) sender: String,
    #[prost(message, optional, tag = "4")]
    pub(in crate::machine) to: Option<Recipient>,
    #[prost(uint64, tag = "6")]
    pub(in crate::machine) time_ms: u64,
    #[prost(bool, tag = "9")]
    pub(in crate::machine) erased: bool,
    #[prost(bytes = "bytes", tag = "10")]
    pub(in crate::machine) change: bytes::Bytes,
}

impl EnvelopeHead {
    /// The user to whom a direct message went.
    pub(in crate::machine) fn recipient(&self) -> Option<&str> {
        match self.to.as_ref()?.to.as_ref()? {
            To::User(user) => Some(user),
            To::Group(_) => None,
        }
    }

    /// The other user of the direct conversation.
    pub(in crate::machine) fn peer_of(&self, owner: &str) -> Option<&str> {
        let recipient = self.recipient()?;
        Some(if self.sender == owner { recipient } else { &self.sender })
    }

    /// True if both are of the direct conversation of the same two users.
    pub(in crate::machine) fn is_between_the_same(&self, other: &Self) -> bool {
        let (Some(to), Some(other_to)) = (self.recipient(), other.recipient()) else { return false };
        (&*self.sender, to) == (&*other.sender, other_to) || (&*self.sender, to) == (other_to, &*other.sender)
    }
}
