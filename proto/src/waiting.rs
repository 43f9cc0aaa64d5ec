//! Tells the operator what a node waits for: once when the wait is long, then at intervals.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// A healthy start waits less than this, and logs nothing.
const PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(30);

/// One for each dependency that a node waits for.
pub struct Waiting {
    what: &'static str,
    since: Option<Instant>,
    told: Option<Instant>,
}

impl Waiting {
    /// `what` follows "waiting for".
    pub fn new(what: &'static str) -> Self {
        Self { what, since: None, told: None }
    }

    /// Another try has failed.
    pub fn still(&mut self, address: impl Display, cause: impl Display) {
        if let Some(since) = self.turn(Instant::now()) {
            let for_s = since.as_secs();
            // A node that restarts is missing for a while; nobody has to act.
            if since < LONG {
                tracing::info!(%address, %cause, for_s, "waiting for {}", self.what);
            } else {
                tracing::warn!(%address, %cause, for_s, "waiting for {}", self.what);
            }
        }
    }

    /// The wait is over.
    pub fn over(&mut self) {
        if let (Some(since), Some(_)) = (self.since.take(), self.told.take()) {
            tracing::info!(for_s = since.elapsed().as_secs(), "no longer waiting for {}", self.what);
        }
    }

    /// How long the wait has lasted, if it should be logged now.
    fn turn(&mut self, now: Instant) -> Option<Duration> {
        let lasts = now.saturating_duration_since(*self.since.get_or_insert(now));
        let is_due = self.told.map_or(lasts >= PATIENCE, |told| now.saturating_duration_since(told) >= AGAIN);
        is_due.then(|| {
            self.told = Some(now);
            lasts
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_when_it_lasts_and_then_now_and_then() {
        let (mut waiting, start) = (Waiting::new("a router"), Instant::now());
        let told: Vec<u64> =
            (0..200).filter(|second| waiting.turn(start + Duration::from_secs(*second)).is_some()).collect();
        assert_eq!(told, [3, 63, 123, 183]);
        waiting.over();
        assert_eq!(waiting.turn(start + Duration::from_secs(300)), None, "a new wait");
    }
}
