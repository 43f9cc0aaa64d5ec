//! The one place where tasks are spawned: each has a name, is awaited at shutdown, and its panic is an event.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Spawns tasks and ends them. Clones share one group; [`Tasks::child`] makes a group that ends with its parent but
/// can be ended before it.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<std::sync::OnceLock<String>>,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group within this one.
    pub fn child(&self) -> Self {
        Self { tracker: self.tracker.clone(), stop: self.stop.child_token(), failed: Arc::clone(&self.failed) }
    }

    /// Runs until it returns or the group is stopped, whichever is first: it is dropped at an await then, so it must
    /// own nothing that needs an orderly end. A panic is logged and ends only this task.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.track(name, false, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Like `spawn`, but the task watches [`Tasks::stopping`] itself and ends in order.
    pub fn spawn_graceful(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.track(name, false, work);
    }

    /// Without this task the process is of no use: when it ends by panic or returns before the stop, all stops.
    pub fn spawn_critical(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.track(name, true, work);
    }

    fn track(&self, name: &'static str, critical: bool, work: impl Future<Output = ()> + Send + 'static) {
        let this = self.clone();
        #[allow(clippy::disallowed_methods, reason = "this is the tracker")]
        self.tracker.spawn(async move {
            // Awaiting the inner task is how its panic is seen.
            let panicked = match tokio::spawn(work).await {
                Ok(()) => false,
                Err(error) => {
                    tracing::error!(task = name, %error, "task panicked");
                    error.is_panic()
                }
            };
            if critical && !this.stop.is_cancelled() {
                let how = if panicked { "panicked" } else { "ended" };
                this.fail(format!("task {name} {how}"));
            }
        });
    }

    /// Stops everything, because going on would be wrong.
    pub fn fail(&self, why: String) {
        tracing::error!(%why, "stopping");
        // The first reason is the one that matters.
        let _ = self.failed.set(why);
        self.stop.cancel();
    }

    /// Why everything was stopped, if it was by a failure.
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

    /// Stops, then waits until all tasks have ended; false if they had not in time.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}
