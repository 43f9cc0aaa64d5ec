//! The level of the cluster, by which the gateway knows what all parts of the service can do.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use carillon_proto::Level;

/// The highest level that this gateway has heard of. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterLevel(Arc<AtomicU32>);

impl ClusterLevel {
    pub(crate) fn get(&self) -> Level {
        Level(self.0.load(Ordering::Relaxed))
    }

    /// Levels never fall: a lower one is an older view of the registry.
    pub(crate) fn heard(&self, level: Level) {
        self.0.fetch_max(level.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_view_does_not_lower_it() {
        let level = ClusterLevel::default();
        let other = level.clone();
        level.heard(Level(4));
        other.heard(Level(3));
        assert_eq!((level.get(), other.get()), (Level(4), Level(4)));
    }
}
