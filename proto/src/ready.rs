//! Whether a role can do its work, for `/readyz` and for the start-up story.

use tokio::sync::watch;

/// What a role says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Waiting for what is named, or draining.
    NotReady(String),
}

/// Watches a role's readiness.
pub type Ready = watch::Receiver<Readiness>;

impl Readiness {
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}
