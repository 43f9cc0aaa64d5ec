//! A timer whose deadline changes often.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use carillon_proto::{
    Woken,
    clock::{self, Sleep},
};
use tokio::time::Instant;

/// Keeps one timer, and resets it only if it would fire too late: a task that waits for many things asks for the
/// deadline after each step.
pub(crate) struct Due {
    timer: Woken<Sleep>,
    /// When the timer fires, until that was handled.
    set: Option<Instant>,
}

impl Due {
    pub(crate) fn new() -> Self {
        Self { timer: Woken::new(clock::sleep_until(clock::now())), set: None }
    }

    /// Ready at `at`; pending with `None`. The `at` of the last call counts.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        loop {
            if self.set.is_none_or(|set| at < set) {
                self.timer.get_mut().reset(at);
                self.set = Some(at);
            }
            ready!(Pin::new(&mut self.timer).poll(context));
            if self.set.take().is_some_and(|set| set >= at) {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test]
    async fn the_moment_of_the_last_call_counts() {
        let (mut due, start) = (Due::new(), Instant::now());
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let waits = |due: &mut Due, at| {
            assert!(due.poll(&mut Context::from_waker(std::task::Waker::noop()), at).is_pending());
        };
        waits(&mut due, None);
        waits(&mut due, Some(start + Duration::from_secs(3600)));
        for tenths in [1, 2, 1] {
            poll_fn(|context| due.poll(context, Some(at(tenths)))).await;
            assert!(Instant::now() >= at(tenths), "sooner than it was set, later, and long ago");
        }
        waits(&mut due, Some(at(3)));
        tokio::time::sleep(Duration::from_millis(200)).await;
        waits(&mut due, None);
        let later = Instant::now() + Duration::from_millis(100);
        poll_fn(|context| due.poll(context, Some(later))).await;
        assert!(Instant::now() >= later, "set in vain meanwhile");
        assert!(Instant::now() < start + Duration::from_secs(60), "not as late as it was set at first");
    }
}
