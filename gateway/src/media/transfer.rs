//! For how long an HTTP connection may stay, while a file is transferred on it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::listener::Answers;

/// The transfers of one connection, one after another.
#[derive(Clone)]
pub(crate) struct Transfers(Arc<Inner>);

struct Inner {
    waits: Mutex<Waits>,
    /// Without a transfer, and between two.
    between: Duration,
    idle: Duration,
    answers: Answers,
    /// The deadline is an earlier one now, or there is one again.
    sooner: Notify,
}

/// The cause for which the connection waits, and since when.
#[derive(Clone, Copy)]
enum Waits {
    Request(Instant),
    Client(Instant),
    /// The place for files, whose operations have deadlines of their own.
    Place,
}

/// A transfer on its way, which ends when this is dropped.
pub(crate) struct Transfer {
    of: Transfers,
    began: Instant,
    /// Time that was not the client's.
    waited: Duration,
    waits_since: Option<Instant>,
}

/// Bytes a second of the slowest client.
const SLOWEST: u64 = 1024;

impl Transfers {
    /// `between`: how long a request may let itself be waited for. `idle`: the time in which a transfer must make progress.
    pub(crate) fn new(between: Duration, idle: Duration, answers: Answers) -> Self {
        Self(Arc::new(Inner {
            waits: Mutex::new(Waits::Request(Instant::now())),
            between,
            idle,
            answers,
            sooner: Notify::new(),
        }))
    }

    /// When the connection ends, unless something happens before; `None` while nobody but the service is awaited.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match *self.0.waits.lock() {
            Waits::Request(since) => Some(since + self.0.between),
            Waits::Client(since) => Some(since + self.0.idle),
            Waits::Place => None,
        }
    }

    /// Resolves when `deadline` has to be asked again. Cancel-safe.
    pub(crate) async fn sooner(&self) {
        self.0.sooner.notified().await;
    }

    pub(crate) fn answers(&self) -> &Answers {
        &self.0.answers
    }

    fn wait_for(&self, waits: Waits) {
        let before = std::mem::replace(&mut *self.0.waits.lock(), waits);
        if !matches!((before, waits), (Waits::Client(_), Waits::Client(_))) {
            self.0.sooner.notify_one();
        }
    }

    pub(crate) fn begin(&self) -> Transfer {
        self.0.answers.hold(true);
        let began = Instant::now();
        self.wait_for(Waits::Client(began));
        Transfer { of: self.clone(), began, waited: Duration::ZERO, waits_since: None }
    }
}

impl Transfer {
    /// The client is awaited, and has just made progress.
    pub(crate) fn waits_for_client(&mut self) {
        let now = Instant::now();
        if let Some(since) = self.waits_since.take() {
            self.waited += now - since;
        }
        self.of.wait_for(Waits::Client(now));
    }

    pub(crate) fn waits_for_place(&mut self) {
        self.waits_since = Some(Instant::now());
        self.of.wait_for(Waits::Place);
    }

    /// True if the client has moved these bytes since the beginning, and others should not wait for the rest.
    pub(crate) fn is_too_slow(&self, bytes: u64) -> bool {
        let taken = self.began.elapsed().saturating_sub(self.waited);
        taken > self.of.0.idle && bytes < taken.as_secs() * SLOWEST
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.of.wait_for(Waits::Request(Instant::now()));
        self.of.0.answers.hold(false);
    }
}
