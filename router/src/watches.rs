//! Operators who watch users' traffic. Nobody waits for one: what does not fit into its buffer is dropped and counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use carillon_proto::{KeyedMap, UserId, pb::admin::WatchEvent};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;

/// Events that wait for an operator to read them.
const EVENTS: usize = 1024;

/// Who watches whom, in one partition. Bounded by the number of operators at a time.
#[derive(Default)]
pub(crate) struct Watches(KeyedMap<UserId, Vec<Watcher>>);

/// An operator who watches one user. All partitions have a copy, because messages that the user sends pass through those of
/// their recipients.
#[derive(Clone)]
pub(crate) struct Watcher {
    pub(crate) user: UserId,
    events: mpsc::Sender<WatchEvent>,
    dropped: Arc<AtomicU64>,
}

impl Watcher {
    /// The stream ends when all copies of the watcher are dropped.
    pub(crate) fn new(user: UserId) -> (Self, impl Stream<Item = WatchEvent> + use<>) {
        let (events, queue) = mpsc::channel(EVENTS);
        let dropped = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&dropped);
        let count = move |event| WatchEvent { dropped: counted.swap(0, Ordering::Relaxed), ..event };
        (Self { user, events, dropped }, ReceiverStream::new(queue).map(count))
    }

    /// False if nobody reads any more.
    pub(crate) fn tell(&self, event: WatchEvent) -> bool {
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl Watches {
    pub(crate) fn add(&mut self, watcher: Watcher) {
        self.0.entry(watcher.user.clone()).or_default().push(watcher);
    }

    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.0.contains_key(user)
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &UserId> {
        self.0.keys()
    }

    pub(crate) fn tell(&mut self, user: &UserId, event: &WatchEvent) {
        if let Some(watchers) = self.0.get_mut(user) {
            watchers.retain(|watcher| watcher.tell(event.clone()));
        }
    }

    /// Forgets who has gone. False if nobody is left.
    pub(crate) fn sweep(&mut self) -> bool {
        self.0.retain(|_, watchers| {
            watchers.retain(|watcher| !watcher.events.is_closed());
            !watchers.is_empty()
        });
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> UserId {
        UserId::new("alice").expect("valid")
    }

    #[tokio::test]
    async fn what_is_not_read_is_dropped_and_counted_once() {
        let (watcher, events) = Watcher::new(alice());
        let mut events = std::pin::pin!(events);
        for seq in 1..=EVENTS as u64 + 7 {
            assert!(watcher.tell(WatchEvent { seq, ..WatchEvent::default() }));
        }
        let first = events.next().await.expect("there");
        assert_eq!((first.seq, first.dropped), (1, 7));
        watcher.tell(WatchEvent { seq: 5000, ..WatchEvent::default() });
        drop(watcher);
        let rest: Vec<WatchEvent> = events.collect().await;
        assert_eq!((rest.len(), rest.last().map(|last| last.seq)), (EVENTS, Some(5000)));
        assert!(rest.iter().all(|event| event.dropped == 0));
    }

    #[test]
    fn nobody_is_told_and_kept_who_has_gone() {
        let (mut watches, (gone, events)) = (Watches::default(), Watcher::new(alice()));
        watches.add(gone.clone());
        assert!(watches.has(&alice()) && watches.sweep());
        drop(events);
        assert!(!gone.tell(WatchEvent::default()));
        assert!(!watches.sweep() && !watches.has(&alice()));
    }
}
