//! Comparing passwords with keys.

use std::{sync::Arc, thread::available_parallelism};

use carillon_xmpp::sasl::{Keys, Secret};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// A password that is to be compared with the keys of a user: [`super::Dialog::checked`] follows.
pub(crate) struct Check {
    pub(super) keys: Keys,
    pub(super) password: Secret,
}

impl Check {
    /// True if the password is right. Slow by design.
    pub(crate) fn run(&self) -> bool {
        self.keys.accepts(self.password.as_str())
    }
}

/// Turns for checks, one for each two processors: a check takes some milliseconds of a processor, which others need, too. Further checks wait,
/// at most one for each connection.
pub(crate) struct Checks(Arc<Semaphore>);

impl Checks {
    pub(super) fn new() -> Self {
        let turns = available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        Self(Arc::new(Semaphore::new(turns)))
    }

    /// Runs a check on another thread when it has its turn. A check that has begun keeps its turn to its end, even if nobody waits for it any more.
    pub(crate) async fn run(&self, check: impl FnOnce() -> bool + Send + 'static) -> bool {
        let turn = Arc::clone(&self.0).acquire_owned().await;
        let checked = spawn_blocking(move || {
            let _turn = turn;
            check()
        });
        checked.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::mpsc,
        task::Poll,
        time::{Duration, Instant},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_check_whose_client_has_gone_keeps_its_turn_until_it_ends() {
        let checks = Checks::new();
        let turns = checks.0.available_permits();
        let (ends, end) = mpsc::channel();
        {
            let mut checked = pin!(checks.run(move || end.recv().is_ok()));
            // Its turn comes at once.
            let is_pending = poll_fn(|cx| Poll::Ready(checked.as_mut().poll(cx).is_pending())).await;
            assert!(is_pending);
        }
        assert_eq!(checks.0.available_permits(), turns - 1);
        ends.send(()).expect("the check goes on");
        let began = Instant::now();
        while checks.0.available_permits() < turns {
            assert!(began.elapsed() < PATIENCE, "the turn is never given back");
            tokio::task::yield_now().await;
        }
    }
}
