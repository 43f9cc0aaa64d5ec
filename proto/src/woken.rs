//! Parts of a task that are polled only after they were woken. Otherwise a task that waits for many things polls all of
//! them whenever one is ready.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::Stream;
use parking_lot::Mutex;

/// Part of a task: a future or stream that is polled only if it was woken since the last poll, if it was ready then, or
/// if another task polls it now. Otherwise it is pending, as it would report itself.
pub struct Woken<F> {
    inner: F,
    call: Arc<Call>,
    /// A waker for `call`.
    waker: Waker,
    /// The task that `call` wakes.
    task: Option<Waker>,
}

/// Records that the part was woken, and wakes the task.
struct Call {
    called: AtomicBool,
    task: Mutex<Waker>,
}

impl<F> Woken<F> {
    pub fn new(inner: F) -> Self {
        let call = Arc::new(Call { called: AtomicBool::new(true), task: Mutex::new(Waker::noop().clone()) });
        Self { inner, waker: Waker::from(Arc::clone(&call)), call, task: None }
    }

    /// For a change that may make the part ready: it is polled next time.
    pub fn get_mut(&mut self) -> &mut F {
        self.call.called.store(true, Ordering::Relaxed);
        &mut self.inner
    }

    /// Polls with a function, for parts that are neither a future nor a stream. The function follows the same contract:
    /// when it returns pending, it has arranged a wake-up.
    pub fn poll_by<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut F, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.task.as_ref().is_none_or(|task| !task.will_wake(context.waker())) {
            self.task = Some(context.waker().clone());
            self.call.task.lock().clone_from(context.waker());
        } else if !self.call.called.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        // A wake-up during the poll counts for the next one. Acquire: the poll sees everything done before the wake-up.
        self.call.called.swap(false, Ordering::AcqRel);
        let polled = poll(&mut self.inner, &mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            self.call.called.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<F: Future + Unpin> Future for Woken<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.get_mut().poll_by(context, |inner, context| Pin::new(inner).poll(context))
    }
}

impl<S: Stream + Unpin> Stream for Woken<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.get_mut().poll_by(context, |inner, context| Pin::new(inner).poll_next(context))
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        // Woken outside of the lock: the task may be polled at once.
        let task = self.task.lock().clone();
        task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, time::Duration};

    use tokio::sync::mpsc;

    use super::*;
    use crate::tasks::Tasks;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_has_not_called_is_not_asked_again() {
        let mut asked = 0;
        let mut called = None;
        let mut part = Woken::new(());
        let tasks: [Arc<Counted>; 2] = Default::default();
        let mut ask = |part: &mut Woken<()>, task: &Arc<Counted>, answer: Poll<()>| {
            let waker = Waker::from(Arc::clone(task));
            let polled = part.poll_by(&mut Context::from_waker(&waker), |(), context| {
                asked += 1;
                called = Some(context.waker().clone());
                answer
            });
            (polled, asked, called.clone().expect("asked at first"))
        };
        let (polled, asked, waker) = ask(&mut part, &tasks[0], Poll::Pending);
        assert_eq!((polled, asked), (Poll::Pending, 1));
        assert_eq!(ask(&mut part, &tasks[0], Poll::Ready(())).1, 1, "it has not called");
        waker.wake_by_ref();
        assert_eq!(tasks[0].0.load(Ordering::Relaxed), 1);
        let (polled, asked, waker) = ask(&mut part, &tasks[0], Poll::Ready(()));
        assert_eq!((polled, asked), (Poll::Ready(()), 2));
        assert_eq!(ask(&mut part, &tasks[0], Poll::Pending).1, 3, "it was ready, and may be so again");
        assert_eq!(ask(&mut part, &tasks[1], Poll::Pending).1, 4, "another task must be woken from now on");
        waker.wake_by_ref();
        assert_eq!(tasks[1].0.load(Ordering::Relaxed), 1);
        assert_eq!(ask(&mut part, &tasks[1], Poll::Pending).1, 5);
        assert_eq!(ask(&mut part, &tasks[1], Poll::Pending).1, 5);
        part.get_mut();
        assert_eq!(ask(&mut part, &tasks[1], Poll::Pending).1, 6, "it was changed");
    }

    /// The second call comes while the task takes what the first one told.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_call_is_lost_among_threads() {
        const QUEUES: usize = 4;
        const ITEMS: usize = 20_000;
        let tasks = Tasks::new();
        let (all_seen, mut seen) = mpsc::channel(QUEUES);
        for _ in 0..QUEUES {
            let (tx, rx) = mpsc::channel(8);
            tasks.spawn("says", async move {
                for item in 0..ITEMS {
                    tx.send(item).await.expect("open");
                    if item % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            });
            let (mut queue, all_seen) = (Woken::new(rx), all_seen.clone());
            tasks.spawn("hears", async move {
                for item in 0..ITEMS {
                    let next = poll_fn(|context| queue.poll_by(context, mpsc::Receiver::poll_recv)).await;
                    assert_eq!(next, Some(item), "in order");
                }
                all_seen.send(()).await.expect("open");
            });
        }
        for _ in 0..QUEUES {
            let seen = tokio::time::timeout(Duration::from_secs(60), seen.recv()).await;
            assert_eq!(seen, Ok(Some(())), "a call was lost");
        }
    }
}
