//! The time that tasks read and wait for: the system's, or virtual time on a thread of a simulation ([`VirtualTime`]). A loop
//! that uses only this module for time runs in a simulation unchanged.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use tokio::time::{self, Instant};

use crate::pause;

thread_local! {
    /// `None`: time is the system's.
    static NOW: Cell<Option<Now>> = const { Cell::new(None) };
    /// Futures that wait for virtual time.
    static SLEEPERS: RefCell<Sleepers> = const { RefCell::new(Sleepers { last: 0, waiting: BTreeMap::new() }) };
}

#[derive(Clone, Copy)]
struct Now {
    instant: Instant,
    unix_ms: u64,
}

struct Sleepers {
    last: u64,
    /// By time; at the same time in the order of their first poll.
    waiting: BTreeMap<(Instant, u64), Waker>,
}

/// Monotonic time, for measuring and waiting.
pub fn now() -> Instant {
    NOW.get().map_or_else(Instant::now, |now| now.instant)
}

/// Milliseconds since 1970, for timestamps of new data. Never used to decide ownership.
pub fn now_ms() -> u64 {
    let since_1970 = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    NOW.get().map_or_else(|| since_1970().map_or(0, |since| since.as_millis() as u64), |now| now.unix_ms)
}

/// Waits until `at`.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep(match NOW.get() {
        None => Clock::System(Box::pin(time::sleep_until(at))),
        Some(_) => Clock::Virtual(Box::new(Virtual { at, place: None })),
    })
}

/// Waits for so long.
pub fn sleep(pause: Duration) -> Sleep {
    sleep_until(now() + pause)
}

/// `None`: the work had not ended at `at`.
pub async fn timeout_at<F: Future>(at: Instant, work: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = sleep_until(at) => None,
    }
}

/// `None`: the work took longer than this.
pub async fn timeout<F: Future>(longest: Duration, work: F) -> Option<F::Output> {
    timeout_at(now() + longest, work).await
}

/// Ready at its time.
pub struct Sleep(Clock);

/// Boxed both, so that the tasks that hold it are small.
enum Clock {
    System(Pin<Box<time::Sleep>>),
    Virtual(Box<Virtual>),
}

struct Virtual {
    at: Instant,
    /// Its place among `Sleepers`.
    place: Option<u64>,
}

impl Sleep {
    /// Changes its time.
    pub fn reset(&mut self, at: Instant) {
        self.give_place_up();
        match &mut self.0 {
            Clock::System(sleep) => sleep.as_mut().reset(at),
            Clock::Virtual(sleep) => sleep.at = at,
        }
    }

    /// True if its time has come.
    pub fn is_elapsed(&self) -> bool {
        match &self.0 {
            Clock::System(sleep) => sleep.is_elapsed(),
            Clock::Virtual(sleep) => sleep.at <= now(),
        }
    }

    fn give_place_up(&mut self) {
        if let Clock::Virtual(sleep) = &mut self.0
            && let Some(place) = sleep.place.take()
        {
            SLEEPERS.with_borrow_mut(|sleepers| sleepers.waiting.remove(&(sleep.at, place)));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.give_place_up();
        match &mut self.0 {
            Clock::System(sleep) => sleep.as_mut().poll(context),
            Clock::Virtual(sleep) if sleep.at <= now() => Poll::Ready(()),
            Clock::Virtual(sleep) => {
                SLEEPERS.with_borrow_mut(|sleepers| {
                    sleepers.last += 1;
                    sleepers.waiting.insert((sleep.at, sleepers.last), context.waker().clone());
                    sleep.place = Some(sleepers.last);
                });
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.give_place_up();
    }
}

/// While this value lives, its thread has virtual time, which passes only by [`VirtualTime::set`], and the jitter of pauses
/// (see [`pause`]) comes from a seed.
pub struct VirtualTime {
    /// Makes the type `!Send`: virtual time is that of one thread.
    _here: PhantomData<*const ()>,
}

impl VirtualTime {
    pub fn begin(instant: std::time::Instant, unix_ms: u64, seed: u64) -> Self {
        pause::set_seed(Some(seed));
        NOW.set(Some(Now { instant: instant.into(), unix_ms }));
        Self { _here: PhantomData }
    }

    /// Sets the time and wakes the futures whose time has come.
    pub fn set(&self, instant: std::time::Instant, unix_ms: u64) {
        let instant = Instant::from_std(instant);
        NOW.set(Some(Now { instant, unix_ms }));
        while let Some(waker) = SLEEPERS.with_borrow_mut(|sleepers| {
            let first = sleepers.waiting.first_entry()?;
            (first.key().0 <= instant).then(|| first.remove())
        }) {
            waker.wake();
        }
    }

    /// The earliest time that a future waits for.
    pub fn next(&self) -> Option<std::time::Instant> {
        SLEEPERS.with_borrow(|sleepers| sleepers.waiting.keys().next().map(|(at, _)| at.into_std()))
    }
}

impl Drop for VirtualTime {
    fn drop(&mut self) {
        NOW.set(None);
        pause::set_seed(None);
        SLEEPERS.with_borrow_mut(|sleepers| sleepers.waiting.clear());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::Wakes;

    #[test]
    fn virtual_time_wakes_the_futures_whose_time_has_come_and_no_others() {
        let start = std::time::Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let time = VirtualTime::begin(start, 5, 1);
        assert_eq!((now().into_std(), now_ms(), time.next()), (start, 5, None));
        let (first, second) = (Wakes::default(), Wakes::default());
        let mut moved = sleep_until(at(10).into());
        let mut work = pin!(timeout_at(at(20).into(), std::future::pending::<()>()));
        assert!(first.poll(|context| Pin::new(&mut moved).poll(context)).is_pending());
        assert!(second.poll(|context| work.as_mut().poll(context)).is_pending());
        moved.reset(at(30).into());
        assert!(first.poll(|context| Pin::new(&mut moved).poll(context)).is_pending());
        assert_eq!(time.next(), Some(at(20)));
        time.set(at(20), 25);
        assert_eq!((first.called(), second.called()), (false, true));
        assert_eq!(second.poll(|context| work.as_mut().poll(context)), Poll::Ready(None));
        assert_eq!((time.next(), now_ms()), (Some(at(30)), 25));
        drop(moved);
        assert_eq!(time.next(), None, "no future waits any more");
    }
}
