//! So that many who wait do not all come back at once.

use std::time::Duration;

use rand::RngExt as _;

/// Half to one and a half times as long.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}
