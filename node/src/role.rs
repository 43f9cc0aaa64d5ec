//! The roles that a process can have.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Storage,
    Router,
    Gateway,
    /// A client of the others, which runs alone.
    Canary,
}

impl Role {
    /// The roles of a service, in the order in which they start; they stop in the opposite order.
    pub const ALL: &[Self] = &[Self::Storage, Self::Router, Self::Gateway];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Router => "router",
            Self::Gateway => "gateway",
            Self::Canary => "canary",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
