//! Pauses between retries, with random jitter, so that many clients that failed together do not retry together.

use std::{cell::RefCell, ops::Range, time::Duration};

use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};

thread_local! {
    /// `None`: jitter comes from the system's random source.
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Between half and one and a half times the given pause.
pub fn around(pause: Duration) -> Duration {
    pause.mul_f64(jitter(0.5..1.5))
}

/// Shorter than the given pause.
pub fn below(longest: Duration) -> Duration {
    longest.mul_f64(jitter(0.0..1.0))
}

/// Exponential back-off: doubles from `min` to `max` with each failure. Jitter takes up to half of it away.
pub fn growing(failures: u32, min: Duration, max: Duration) -> Duration {
    longest(failures, min, max).mul_f64(jitter(0.5..1.0))
}

pub fn growing_by(random: &mut impl Rng, failures: u32, min: Duration, max: Duration) -> Duration {
    longest(failures, min, max).mul_f64(random.random_range(0.5..1.0))
}

/// The jitter of this thread's pauses comes from this seed from now on.
pub(crate) fn set_seed(seed: Option<u64>) {
    SEEDED.set(seed.map(StdRng::seed_from_u64));
}

fn longest(failures: u32, min: Duration, max: Duration) -> Duration {
    min.saturating_mul(1 << failures.min(16)).min(max)
}

fn jitter(range: Range<f64>) -> f64 {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(random) => random.random_range(range),
        None => rand::rng().random_range(range),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_to_their_limit() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(500));
        for (failures, full) in [(0, 10), (1, 20), (3, 80), (6, 500), (u32::MAX, 500)] {
            let pause = growing(failures, min, max).as_millis();
            assert!((full / 2..=full).contains(&pause), "{pause} after {failures}");
        }
    }

    #[test]
    fn pauses_of_one_seed_are_the_same() {
        let of_seed = |seed| {
            set_seed(Some(seed));
            let pauses = [1, 2, 3].map(|failures| (growing(failures, PAUSE, PAUSE * 9), around(PAUSE)));
            set_seed(None);
            pauses
        };
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1), of_seed(2));
    }
}
