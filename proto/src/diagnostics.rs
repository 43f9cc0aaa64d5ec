//! What a node tells the operator of itself, whichever way it is asked: at its internal listener, or over a gateway's link.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tonic::{Request, Response, Status};

use crate::pb::diagnostics::{DescribeRequest, Description, ReadRequest, Reading, clock_server, diagnostics_server};

/// Least time between two descriptions: each costs what a scrape costs.
const PAUSE: Duration = Duration::from_millis(200);
/// Questions that wait for their turn; further ones are refused.
const QUESTIONS: usize = 16;

type Describe = dyn Fn() -> Description + Send + Sync;

/// Makes descriptions of this process, one at a time. Cheap to clone.
#[derive(Clone)]
pub struct Diagnostics {
    describe: Arc<Describe>,
    /// Questions that are being answered or wait.
    places: Arc<Semaphore>,
    turn: Arc<tokio::sync::Mutex<()>>,
    last: Arc<Mutex<Option<Instant>>>,
    pause: Duration,
}

/// More questions wait than are answered soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{QUESTIONS} questions wait for the description of this process: ask again later")]
pub struct Crowded;

impl Diagnostics {
    /// `describe` may block for as long as a scrape takes.
    pub fn new(describe: impl Fn() -> Description + Send + Sync + 'static) -> Self {
        Self {
            describe: Arc::new(describe),
            places: Arc::new(Semaphore::new(QUESTIONS)),
            turn: Arc::default(),
            last: Arc::default(),
            pause: PAUSE,
        }
    }

    pub async fn describe(&self) -> Result<Description, Crowded> {
        let _place = self.places.try_acquire().map_err(|_| Crowded)?;
        let _turn = self.turn.lock().await;
        let earliest = self.last.lock().map(|last| last + self.pause);
        if let Some(earliest) = earliest {
            sleep_until(earliest).await;
        }
        let describe = Arc::clone(&self.describe);
        // A panic tells nothing of this process.
        let description = spawn_blocking(move || describe()).await.unwrap_or_default();
        *self.last.lock() = Some(Instant::now());
        Ok(description)
    }
}

#[tonic::async_trait]
impl diagnostics_server::Diagnostics for Diagnostics {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        let described = Self::describe(self).await;
        described.map(Response::new).map_err(|crowded| Status::resource_exhausted(crowded.to_string()))
    }
}

/// Tells the time of this machine.
#[derive(Debug, Clone, Copy)]
pub struct WallClock;

#[tonic::async_trait]
impl clock_server::Clock for WallClock {
    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<Reading>, Status> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Response::new(Reading { time_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn descriptions_are_made_one_after_the_other_and_questions_are_bounded() {
        let made = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&made);
        let mut diagnostics = Diagnostics::new(move || Description {
            pid: counter.fetch_add(1, Ordering::Relaxed) + 1,
            ..Description::default()
        });
        diagnostics.pause = Duration::from_millis(20);
        let begun = Instant::now();
        let answers = join_all((0..QUESTIONS + 3).map(|_| diagnostics.describe())).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!((refused, made.load(Ordering::Relaxed)), (3, QUESTIONS as u32));
        assert!(begun.elapsed() >= diagnostics.pause * (QUESTIONS as u32 - 1), "{:?}", begun.elapsed());
        assert!(diagnostics.describe().await.is_ok(), "there is room again");
    }
}
