//! Whether a role can do its work, for `/readyz` and for the start-up story.

use tokio::sync::watch;

/// What a role says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Waiting for what is named.
    NotReady(String),
    /// On its way out. Never followed by another word.
    Draining,
}

/// Watches a role's readiness.
pub type Ready = watch::Receiver<Readiness>;

impl Readiness {
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Becomes the given one, unless it is draining. True if this changes it.
    pub fn change(&mut self, now: Self) -> bool {
        let changes = *self != now && *self != Self::Draining;
        if changes {
            *self = now;
        }
        changes
    }

    /// Why it is not ready.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::NotReady(why) => Some(why),
            Self::Draining => Some("draining"),
        }
    }
}
