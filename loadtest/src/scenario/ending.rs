//! The end of a run before its time.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Ends a run early. Its parts end in order, and what they have found counts.
#[derive(Clone)]
pub struct Ending(watch::Sender<State>);

#[derive(Clone, Copy)]
enum State {
    Goes,
    /// There is nothing left to do.
    Ended,
    /// Somebody wants no more of it.
    Interrupted(Instant),
}

impl Default for Ending {
    fn default() -> Self {
        Self(watch::Sender::new(State::Goes))
    }
}

impl State {
    fn is_ended(self) -> bool {
        !matches!(self, Self::Goes)
    }
}

impl Ending {
    pub(crate) fn end(&self) {
        self.0.send_if_modified(|state| {
            let goes = !state.is_ended();
            if goes {
                *state = State::Ended;
            }
            goes
        });
    }

    /// The run ends because somebody has said so, and not because it is over.
    pub(crate) fn interrupt(&self) {
        self.0.send_replace(State::Interrupted(Instant::now()));
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.0.borrow().is_ended()
    }

    /// `None` if the run was not interrupted.
    pub(crate) fn interrupted_at(&self) -> Option<Instant> {
        match *self.0.borrow() {
            State::Interrupted(at) => Some(at),
            State::Goes | State::Ended => None,
        }
    }

    /// Resolves when the run ends early.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as this value.
        let _ = self.0.subscribe().wait_for(|state| state.is_ended()).await;
    }

    /// Resolves after this time, or when the run ends early. True if the time has passed.
    pub(crate) async fn within(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.ended()).await.is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_no_interruption_and_does_not_hide_one() {
        let ending = Ending::default();
        assert!(ending.within(Duration::from_millis(1)).await && !ending.is_ended());
        ending.end();
        assert!(!ending.within(Duration::from_secs(3600)).await && ending.interrupted_at().is_none());
        ending.clone().interrupt();
        ending.end();
        assert!(ending.interrupted_at().is_some());
    }
}
