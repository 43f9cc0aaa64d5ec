//! Whether a role is ready, for `/readyz` and the start-up log.

use tokio::sync::watch;

/// The readiness that a role reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Waits for what the text names.
    NotReady(String),
    /// Shutting down. A final state.
    Draining,
}

/// Watches a role's readiness.
pub type Ready = watch::Receiver<Readiness>;

impl Readiness {
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Sets the readiness, unless the role is draining. True if it changed.
    pub fn change(&mut self, now: Self) -> bool {
        let changes = *self != now && *self != Self::Draining;
        if changes {
            *self = now;
        }
        changes
    }

    /// Why the role is not ready.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::NotReady(why) => Some(why),
            Self::Draining => Some("draining"),
        }
    }
}
