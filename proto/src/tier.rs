//! The tiers that call each other.

use std::fmt;

/// What a caller is: a node of a tier, or the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    Storage,
    Router,
    Gateway,
    /// The command line, which holds the operator's token.
    Operator,
}

impl Tier {
    pub const ALL: [Self; 4] = [Self::Storage, Self::Router, Self::Gateway, Self::Operator];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Router => "router",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
