//! Polling without a runtime.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// Knows whether a future or stream was woken since its last poll. A new value counts as woken.
pub struct Wakes {
    call: Arc<Call>,
    waker: Waker,
}

struct Call(AtomicBool);

impl Default for Wakes {
    fn default() -> Self {
        let call = Arc::new(Call(AtomicBool::new(true)));
        Self { waker: Waker::from(Arc::clone(&call)), call }
    }
}

impl Wakes {
    pub fn called(&self) -> bool {
        self.call.0.load(Ordering::Acquire)
    }

    /// Polls it. A wake-up during the poll counts for the next one.
    pub fn poll<T>(&self, turn: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.call.0.store(false, Ordering::Release);
        turn(&mut Context::from_waker(&self.waker))
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}
