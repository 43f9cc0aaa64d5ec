//! The channel by which openraft publishes the newest value of something.
//!
//! The core of each group sends to seven of them at each turn, and hardly ever is there a waiting receiver. tokio's
//! channel then looks at eight lists of waiters; this one looks at one.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use openraft::{
    OptionalSend, OptionalSync,
    async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender},
};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// Names the channels.
pub(crate) struct Newest;

struct Shared<T> {
    value: RwLock<T>,
    /// Counts the sends. Changes while the value is locked for writing.
    version: AtomicU64,
    /// The last sender is gone.
    closed: AtomicBool,
    /// Notified after each of these changes.
    changed: Notify,
}

/// Shared by the senders; each receiver holds what is inside.
struct Senders<T>(Arc<Shared<T>>);

pub(crate) struct Sender<T>(Arc<Senders<T>>);

pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version seen last.
    seen: u64,
}

impl Watch for Newest {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        });
        (Sender(Arc::new(Senders(Arc::clone(&shared)))), Receiver { shared, seen: 0 })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Newest, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if Arc::strong_count(&self.0.0) == 1 {
            // No receiver is left.
            return Err(SendError(value));
        }
        let mut value = value;
        self.send_if_modified(|current| {
            std::mem::swap(current, &mut value);
            true
        });
        // The old value is dropped after the lock is released.
        drop(value);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let shared = &*self.0.0;
        let mut value = shared.value.write();
        let modified = modify(&mut value);
        if modified {
            shared.version.fetch_add(1, Ordering::SeqCst);
        }
        drop(value);
        if modified {
            shared.changed.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.0.value.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { shared: Arc::clone(&self.0.0), seen: self.0.0.version.load(Ordering::SeqCst) }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<Newest, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Notified by anything that happens after it was created, so it is created before the channel is looked at.
            let woken = pin!(self.shared.changed.notified());
            // Read before the version: the last value is delivered before the end.
            let closed = self.shared.closed.load(Ordering::SeqCst);
            let version = self.shared.version.load(Ordering::SeqCst);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if closed {
                return Err(RecvError(()));
            }
            woken.await;
        }
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.version.load(Ordering::SeqCst);
        value
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Senders<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use openraft::AsyncRuntime as _;

    use super::*;
    use crate::raft::runtime::Runtime;

    #[tokio::test]
    async fn a_change_is_told_once() {
        let (sender, mut receiver) = Newest::channel(0);
        assert!(receiver.changed().now_or_never().is_none());
        sender.send(1).expect("somebody listens");
        sender.send(2).expect("somebody listens");
        let mut other = receiver.clone();
        receiver.changed().await.expect("sent");
        assert_eq!(*receiver.borrow_watched(), 2);
        assert!(receiver.changed().now_or_never().is_none());
        assert!(sender.subscribe().changed().now_or_never().is_none(), "was there before");
        assert_eq!(*other.borrow_and_update(), 2);
        assert!(other.changed().now_or_never().is_none(), "seen");
        assert!(!sender.send_if_different(2));
        assert!(!sender.send_if_modified(|value| {
            *value = 3;
            false
        }));
        assert!(receiver.changed().now_or_never().is_none(), "nothing to tell");
        assert_eq!(*receiver.borrow_watched(), 3);
    }

    #[tokio::test]
    async fn the_end_of_all_senders_is_told_after_the_last_change() {
        let (sender, mut receiver) = Newest::channel(0);
        let other = sender.clone();
        let mut waiting = receiver.clone();
        let waits = async { waiting.changed().await.is_ok() && waiting.changed().await.is_err() };
        let ends = async {
            drop(sender);
            assert!(receiver.changed().now_or_never().is_none(), "one is left");
            other.send(1).expect("somebody listens");
            drop(other);
        };
        assert!(tokio::join!(waits, ends).0);
        receiver.changed().await.expect("sent before the end");
        receiver.changed().await.expect_err("nobody is left");
    }

    #[test]
    fn nothing_is_sent_to_nobody() {
        let (sender, receiver) = Newest::channel(0);
        let other = receiver.clone();
        drop(receiver);
        sender.send(1).expect("one is left");
        drop(other);
        assert_eq!(sender.send(2).expect_err("nobody").0, 2);
        let receiver = sender.subscribe();
        sender.send(3).expect("somebody came");
        assert_eq!(*receiver.borrow_watched(), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn whoever_waits_misses_no_change() {
        const LAST: u64 = 20_000;
        let (sender, receiver) = Newest::channel(0u64);
        let (told, mut tell) = Newest::channel(0u64);
        // One change at a time, each only after the one before has been seen by the other.
        let follows = Runtime::spawn(follow(receiver, told, LAST));
        for number in 1..=LAST {
            sender.send(number).expect("somebody listens");
            let seen = tell.wait_until_ge(&number);
            tokio::time::timeout(Duration::from_secs(30), seen).await.expect("was not missed").expect("goes on");
        }
        follows.await.expect("ends");
    }

    async fn follow(mut receiver: Receiver<u64>, told: Sender<u64>, last: u64) {
        loop {
            receiver.changed().await.expect("goes on");
            let number = *receiver.borrow_watched();
            // The other one goes when it has seen the last.
            let _ = told.send(number);
            if number == last {
                return;
            }
        }
    }
}
