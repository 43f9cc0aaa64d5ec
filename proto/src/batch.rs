//! A queue as a stream of batches: the slower the reader, the larger the batch, without a timer. An item that arrives
//! at an empty queue is held until every ready task has run once, to collect the items that come with it: one write to
//! a connection costs more than that.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use tokio::sync::mpsc;

use crate::limits;

/// Ends when the queue is closed and empty.
pub struct Batches<T> {
    queue: mpsc::Receiver<T>,
    /// Taken from the queue, not yet handed out.
    taken: Vec<T>,
    weigh: fn(&T) -> usize,
    /// True if the last poll found the queue empty.
    idle: bool,
}

impl<T> Batches<T> {
    /// `weigh` estimates an item's encoded size in bytes.
    pub fn new(queue: mpsc::Receiver<T>, weigh: fn(&T) -> usize) -> Self {
        Self { queue, taken: Vec::new(), weigh, idle: false }
    }

    /// At most `BATCH_ITEMS` items, and at most `BATCH_BYTES` unless a single item is larger.
    fn cut(&mut self) -> Vec<T> {
        let mut bytes = 0;
        let count = self
            .taken
            .iter()
            .take(limits::BATCH_ITEMS)
            .take_while(|item| {
                let first = bytes == 0;
                bytes += (self.weigh)(item).max(1);
                first || bytes <= limits::BATCH_BYTES
            })
            .count();
        if count == self.taken.len() { mem::take(&mut self.taken) } else { self.taken.drain(..count).collect() }
    }
}

impl<T: Unpin> Stream for Batches<T> {
    type Item = Vec<T>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<T>>> {
        let this = self.get_mut();
        let room = limits::BATCH_ITEMS - this.taken.len().min(limits::BATCH_ITEMS);
        if room > 0 {
            this.taken.reserve(this.queue.len().min(room));
            match this.queue.poll_recv_many(context, &mut this.taken, room) {
                Poll::Ready(0) if this.taken.is_empty() => return Poll::Ready(None),
                Poll::Pending if this.taken.is_empty() => {
                    this.idle = true;
                    return Poll::Pending;
                }
                Poll::Ready(_) | Poll::Pending => {}
            }
        }
        if mem::take(&mut this.idle) && this.taken.len() < limits::BATCH_ITEMS {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(this.cut()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn what_comes_one_turn_later_goes_together_with_the_first() {
        let (tx, rx) = mpsc::channel(10);
        let mut batches = Batches::new(rx, |_| 1);
        let sending = async {
            tx.send(1).await.expect("open");
            tokio::task::yield_now().await;
            tx.send(2).await.expect("open");
        };
        let (first, ()) = futures_util::join!(batches.next(), sending);
        assert_eq!(first, Some(vec![1, 2]));
        tx.send(3).await.expect("open");
        assert_eq!(batches.next().await, Some(vec![3]));
    }

    #[tokio::test]
    async fn batches_keep_order_and_stay_below_both_limits() {
        let (tx, rx) = mpsc::channel(2000);
        for item in 0..1000usize {
            tx.send(if item == 500 { limits::BATCH_BYTES * 2 } else { item }).await.expect("open");
        }
        drop(tx);
        let batches: Vec<Vec<usize>> = Batches::new(rx, |item| *item).collect().await;
        let flat: Vec<usize> = batches.iter().flatten().copied().collect();
        assert_eq!(flat.len(), 1000);
        assert!(flat.iter().enumerate().all(|(i, item)| i == *item || i == 500));
        for batch in &batches {
            assert!(batch.len() <= limits::BATCH_ITEMS && !batch.is_empty());
            assert!(batch.len() == 1 || batch.iter().sum::<usize>() <= limits::BATCH_BYTES);
        }
    }
}
