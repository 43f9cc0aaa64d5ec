//! Threads for work that may wait for a disk.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::timeout,
};

use crate::files::{FilesError, OPERATION};

/// Most threads. Further work waits for one.
const MOST: usize = 32;

/// Threads apart from the process's other ones for such work: a folder that does not answer holds up nothing but files.
pub(crate) struct Threads {
    handle: Handle,
    /// Has nothing but these threads. `None` only while `Threads` is dropped.
    runtime: Option<Runtime>,
    waiting: Arc<AtomicUsize>,
}

/// Counts work as waiting for a thread until this is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Threads {
    pub(crate) fn new() -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.max_blocking_threads(MOST).thread_name("carillon-files").build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime), waiting: Arc::default() })
    }

    /// The work gets its turn at once, and goes on if nobody waits for it any more.
    pub(crate) fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, FilesError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> Result<T, FilesError> + Send + 'static,
    {
        self.waiting.fetch_add(1, Relaxed);
        let waiting = Waiting(Arc::clone(&self.waiting));
        let working = self.handle.spawn_blocking(move || {
            drop(waiting);
            work()
        });
        async {
            match timeout(OPERATION, working).await {
                Ok(Ok(done)) => done,
                Ok(Err(ended)) => Err(io::Error::other(ended).into()),
                Err(_) => Err(FilesError::Late),
            }
        }
    }

    /// True if work waits for a thread.
    pub(crate) fn are_awaited(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime that waits for its threads must not be dropped in a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{Barrier, mpsc},
        time::Duration,
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    /// As with a share whose server is gone.
    #[tokio::test]
    async fn work_that_hangs_holds_up_other_work_for_files_and_nothing_else() {
        let threads = Threads::new().expect("made");
        let (all_began, all_end) = (Arc::new(Barrier::new(MOST + 1)), Arc::new(Barrier::new(MOST + 1)));
        let hanging: Vec<_> = (0..MOST)
            .map(|_| {
                let (began, end) = (Arc::clone(&all_began), Arc::clone(&all_end));
                threads.run(move || {
                    began.wait();
                    end.wait();
                    Ok(())
                })
            })
            .collect();
        all_began.wait();
        assert!(!threads.are_awaited(), "all have begun");
        let (says, hears) = mpsc::channel();
        let further = threads.run(move || says.send(()).map_err(io::Error::other).map_err(FilesError::from));
        assert!(threads.are_awaited());
        timeout(PATIENCE, tokio::task::spawn_blocking(|| ())).await.expect("in time").expect("others have threads");
        hears.try_recv().expect_err("no thread was free");
        all_end.wait();
        timeout(PATIENCE, further).await.expect("in time").expect("has its turn");
        assert!(!threads.are_awaited());
        for ended in hanging {
            ended.await.expect("ends");
        }
    }

    #[tokio::test]
    async fn work_has_its_turn_without_being_waited_for() {
        let threads = Threads::new().expect("made");
        let (says, hears) = mpsc::channel();
        drop(threads.run(move || says.send(()).map_err(io::Error::other).map_err(FilesError::from)));
        hears.recv_timeout(PATIENCE).expect("is done");
    }
}
