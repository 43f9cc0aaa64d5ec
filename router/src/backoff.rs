//! Pauses between tries.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Doubles with each failure from `min` to `max`; a random half of it is left out, so that many who failed together do
/// not come back together.
pub(crate) fn pause(failures: u32, min: Duration, max: Duration) -> Duration {
    pause_by(&mut rand::rng(), failures, min, max)
}

pub(crate) fn pause_by(random: &mut impl Rng, failures: u32, min: Duration, max: Duration) -> Duration {
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
            let pause = pause(failures, min, max).as_millis();
            assert!((full / 2..=full).contains(&pause), "{pause} after {failures}");
        }
    }
}
