//! Where the outcome of a request goes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use carillon_proto::{
    pb::store::{StoreError, StoreReply, Unknown, store_error::Why},
    stream::Tell,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::Span;

use super::count_refusal;
use crate::machine::Outcome;

/// Takes exactly one outcome. If it is dropped without one, the asker is told that nothing is known.
pub(crate) struct Responder {
    to: Option<To>,
    /// Ends with the answer.
    _span: Option<Span>,
}

enum To {
    Stream { id: u64, replies: mpsc::Sender<Reply>, permit: OwnedSemaphorePermit },
    Near { id: u64, caller: Arc<NearCaller> },
    Once(oneshot::Sender<Outcome>),
}

/// A reply on its way out. The request counts as in flight until the reply is dropped.
pub(crate) struct Reply {
    pub(crate) reply: StoreReply,
    _permit: OwnedSemaphorePermit,
}

/// Makes the responders of one stream, with a bound on the open ones.
pub(crate) struct Replies {
    in_flight: Arc<Semaphore>,
    replies: mpsc::Sender<Reply>,
}

impl Replies {
    pub(crate) fn new(in_flight: usize) -> (Self, mpsc::Receiver<Reply>) {
        // As long as there are permits, so it is never full.
        let (replies, receiver) = mpsc::channel(in_flight);
        (Self { in_flight: Arc::new(Semaphore::new(in_flight)), replies }, receiver)
    }

    /// Waits while too many are open.
    pub(crate) async fn answer(&self, id: u64, span: Option<Span>) -> Option<Responder> {
        let permit = Arc::clone(&self.in_flight).acquire_owned().await.ok()?;
        Some(Responder { to: Some(To::Stream { id, replies: self.replies.clone(), permit }), _span: span })
    }
}

/// A router in this process, which receives the answers to its calls through a function.
pub(crate) struct NearCaller {
    tell: Tell<StoreReply>,
    /// Calls without an answer, and how many are allowed.
    open: AtomicUsize,
    most: usize,
}

impl NearCaller {
    pub(crate) fn new(most: usize, tell: Tell<StoreReply>) -> Arc<Self> {
        Arc::new(Self { tell, open: AtomicUsize::new(0), most })
    }

    /// `None` if too many are open.
    pub(crate) fn answer(self: &Arc<Self>, id: u64, span: Option<Span>) -> Option<Responder> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Responder { to: Some(To::Near { id, caller: Arc::clone(self) }), _span: span })
    }
}

impl Responder {
    pub(crate) fn once() -> (Self, oneshot::Receiver<Outcome>) {
        let (tell, outcome) = oneshot::channel();
        (Self { to: Some(To::Once(tell)), _span: None }, outcome)
    }

    pub(crate) fn give(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    pub(crate) fn refuse(self, why: Why) {
        count_refusal(&why);
        self.give(Outcome::Error(StoreError { why: Some(why) }));
    }

    fn send(&mut self, outcome: Outcome) {
        // The asker may have gone.
        match self.to.take() {
            Some(To::Stream { id, replies, permit }) => {
                let reply = StoreReply { id, result: Some(outcome) };
                let _ = replies.try_send(Reply { reply, _permit: permit });
            }
            Some(To::Near { id, caller }) => {
                caller.open.fetch_sub(1, Ordering::Relaxed);
                (caller.tell)(StoreReply { id, result: Some(outcome) });
            }
            Some(To::Once(tell)) => {
                let _ = tell.send(outcome);
            }
            None => {}
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.to.is_some() {
            let why = Why::Unknown(Unknown { why: "this node is stopping".to_owned() });
            self.send(Outcome::Error(StoreError { why: Some(why) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn so_many_calls_are_open_at_once_and_each_is_answered_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = Arc::clone(&told);
        let caller = NearCaller::new(2, Arc::new(move |reply: StoreReply| tells.lock().push(reply)));
        let (first, second) = (caller.answer(1, None).expect("room"), caller.answer(2, None).expect("room"));
        for _ in 0..3 {
            assert!(caller.answer(3, None).is_none(), "two are open");
        }
        first.refuse(Why::Unknown(Unknown { why: "on purpose".to_owned() }));
        drop(second);
        assert!(caller.answer(3, None).is_some() && caller.answer(4, None).is_some());
        let told: Vec<u64> = told.lock().iter().map(|reply| reply.id).collect();
        assert_eq!(told, [1, 2, 3, 4]);
    }
}
