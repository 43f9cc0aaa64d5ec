//! Pauses between retries, with random jitter, so that many clients that failed together do not retry together.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Between half and one and a half times the given pause.
pub fn around(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

/// Exponential back-off: doubles from `min` to `max` with each failure. Jitter takes up to half of it away.
pub fn growing(failures: u32, min: Duration, max: Duration) -> Duration {
    growing_by(&mut rand::rng(), failures, min, max)
}

pub fn growing_by(random: &mut impl Rng, failures: u32, min: Duration, max: Duration) -> Duration {
    let full = min.saturating_mul(1 << failures.min(16)).min(max);
    full.mul_f64(random.random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(500));
        for (failures, full) in [(0, 10), (1, 20), (3, 80), (6, 500), (u32::MAX, 500)] {
            let pause = growing(failures, min, max).as_millis();
            assert!((full / 2..=full).contains(&pause), "{pause} after {failures}");
        }
    }
}
