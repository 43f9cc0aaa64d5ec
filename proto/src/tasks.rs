//! The one place where tasks are spawned. Each task has a name, is awaited at shutdown, and its panic is logged.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Turns, Woken, turns::Spawned};

/// A task's future. Boxed, because a future stores its arguments and the futures that it awaits side by side; and without its
/// type, so that the runtime's code for tasks is compiled once, here, and not for each future.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns and ends tasks. Clones share one group. [`Tasks::child`] makes a group that ends with its parent, and that
/// can be ended before it.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<std::sync::OnceLock<String>>,
    /// `Some`: there is no runtime.
    by_turns: Option<Spawned>,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// For a simulation: the tasks of this group run only when they are given a turn. Panics are not caught, and the end of a
    /// critical task is one.
    pub fn by_turns() -> (Self, Turns) {
        let turns = Turns::default();
        (Self { by_turns: Some(turns.spawned()), ..Self::default() }, turns)
    }

    /// A child group.
    pub fn child(&self) -> Self {
        Self { stop: self.stop.child_token(), ..self.clone() }
    }

    /// Runs `work` until it returns or the group is stopped. On a stop the future is dropped at an await point, so it must
    /// not own anything that needs an orderly end. A panic is logged and ends only this task.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_stoppable(name, false, Box::pin(work));
    }

    /// Like `spawn`, but the task watches [`Tasks::stopping`] itself and ends in order.
    pub fn spawn_graceful(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(name, Box::pin(work));
    }

    /// Like `spawn`, for a task that the process can't do without: if it panics, or returns before the group is stopped,
    /// everything stops.
    pub fn spawn_critical(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_stoppable(name, true, Box::pin(work));
    }

    fn spawn_boxed(&self, name: &'static str, work: Work) {
        self.track(name, false, work);
    }

    fn spawn_stoppable(&self, name: &'static str, critical: bool, mut work: Work) {
        let mut stopped = Woken::new(Box::pin(self.stop.clone().cancelled_owned()));
        // No `async` block here and below: it stores its arguments and the futures that it awaits side by side, and gateways
        // have a task for each client.
        let until_stopped = poll_fn(move |context| match stopped.poll_unpin(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => work.poll_unpin(context),
        });
        self.track(name, critical, until_stopped);
    }

    fn track(&self, name: &'static str, critical: bool, work: impl Future<Output = ()> + Send + Unpin + 'static) {
        if let Some(spawned) = &self.by_turns {
            let stop = self.stop.clone();
            return spawned
                .add(Box::pin(work.map(move |()| assert!(!critical || stop.is_cancelled(), "task {name} ended"))));
        }
        // `Some` if the whole process ends with this task.
        let whole = critical.then(|| self.clone());
        // Unwind-safe: a task owns its state alone, or the whole process ends with it.
        let mut work = AssertUnwindSafe(work).catch_unwind();
        #[allow(clippy::disallowed_methods, reason = "this is the tracker")]
        self.tracker.spawn(poll_fn(move |context| {
            let result = ready!(work.poll_unpin(context));
            if let Err(panic) = &result {
                let text = panic.downcast_ref::<&str>().copied();
                let why = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown");
                tracing::error!(task = name, why, "task panicked");
            }
            if let Some(whole) = whole.as_ref().filter(|whole| !whole.stop.is_cancelled()) {
                let how = if result.is_err() { "panicked" } else { "ended" };
                whole.fail(format!("task {name} {how}"));
            }
            Poll::Ready(())
        }));
    }

    /// Stops everything after a failure that the process can't survive.
    pub fn fail(&self, why: String) {
        tracing::error!(%why, "stopping");
        // Only the first reason is kept.
        let _ = self.failed.set(why);
        self.stop.cancel();
    }

    /// The failure that stopped everything, if there was one.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Resolves when the group is told to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells the group to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops the group, then waits until all tasks of the process's tracker, those of parent groups included, have
    /// ended. False if they had not by the deadline.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_panic_ends_only_its_task_unless_it_is_critical() {
        let tasks = Tasks::new();
        let other = tasks.child();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        other.spawn("other", async move {
            let _tell = tell;
            std::future::pending::<()>().await;
        });
        let (panicking, panicked) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("panics", async move {
            let _panicking = panicking;
            panic!("on purpose");
        });
        panicked.await.expect_err("dropped by the panic");
        assert!(!tasks.is_stopping() && told.is_empty());
        tasks.spawn_critical("critical", async { panic!("on purpose") });
        tokio::time::timeout(PATIENCE, tasks.stopping()).await.expect("stops");
        assert_eq!(tasks.failure(), Some("task critical panicked"));
        told.await.expect_err("stopped with the rest");
        assert!(tasks.finish(PATIENCE).await);
    }

    #[tokio::test]
    async fn a_graceful_task_ends_in_its_own_time() {
        let tasks = Tasks::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        let stopping = tasks.clone();
        tasks.spawn_graceful("graceful", async move {
            stopping.stopping().await;
            tokio::task::yield_now().await;
            let _ = tell.send("in order");
        });
        assert!(tasks.finish(PATIENCE).await);
        assert_eq!(told.await, Ok("in order"));
    }
}
