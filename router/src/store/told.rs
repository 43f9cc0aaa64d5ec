//! Replies of the storage node in this process: any thread adds them, one task takes them.

use std::{
    mem,
    task::{Context, Poll, Waker},
};

use carillon_proto::pb::store::StoreReply;
use parking_lot::Mutex;

/// Bounded by the requests that the dispatch has in flight, which are bounded for each shard.
#[derive(Default)]
pub(super) struct Told(Mutex<Untaken>);

#[derive(Default)]
struct Untaken {
    replies: Vec<StoreReply>,
    /// The task that takes them, if it has found none and waits.
    taker: Option<Waker>,
}

impl Told {
    pub(super) fn tell(&self, reply: StoreReply) {
        let mut waiting = self.0.lock();
        waiting.replies.push(reply);
        let taker = waiting.taker.take();
        // Not woken under the lock: the task may be polled at once.
        drop(waiting);
        if let Some(taker) = taker {
            taker.wake();
        }
    }

    /// Puts all replies into `taken`, in the order in which they were added. `taken` must be empty. Only one task may call this.
    pub(super) fn poll_take(&self, context: &Context<'_>, taken: &mut Vec<StoreReply>) -> Poll<()> {
        let mut waiting = self.0.lock();
        if waiting.replies.is_empty() {
            waiting.taker = Some(context.waker().clone());
            return Poll::Pending;
        }
        mem::swap(&mut waiting.replies, taken);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc, time::Duration};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn each_reply_is_taken_once_and_in_the_order_of_its_thread() {
        const THREADS: u64 = 3;
        const EACH: u64 = 20_000;
        let told = Arc::new(Told::default());
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let told = Arc::clone(&told);
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        told.tell(StoreReply { id: thread * EACH + number, result: None });
                        if number % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next: Vec<u64> = (0..THREADS).map(|thread| thread * EACH).collect();
        let mut taken = Vec::new();
        let take_all = async {
            for _ in 0..THREADS * EACH {
                while taken.is_empty() {
                    poll_fn(|context| told.poll_take(context, &mut taken)).await;
                    for StoreReply { id, .. } in &taken {
                        let next = &mut next[(id / EACH) as usize];
                        assert_eq!(id, next);
                        *next += 1;
                    }
                }
                taken.pop();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), take_all).await.expect("a wake was lost");
        threads.into_iter().for_each(|thread| thread.join().expect("has told all"));
    }
}
