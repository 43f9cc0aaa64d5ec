//! The ticket by which a device signs in again.

use std::fmt;

use bytes::Bytes;

/// A resume ticket, from `SignedIn` or `Renewed`. As secret as the credential that it stands for.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(Bytes);

impl Ticket {
    /// `None` if the service gives no tickets.
    pub fn new(bytes: Bytes) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

/// Never shows the secret.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(..)")
    }
}
