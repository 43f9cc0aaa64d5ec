//! The store through the end of its process and of its machine, at any moment. See docs/testing.md.
//!
//! `cargo test` runs each for some rounds; `.ci/crash` runs them long. CARILLON_TEST_ROUNDS sets how many.

mod cluster;
mod kills;
mod ledger;
mod load;
mod moves;
mod node;
mod power;
mod soak;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests of whole clusters")]
mod support;

use std::{env, path::PathBuf, time::Duration};

/// CARILLON_TEST_ROUNDS, or `short`, which fits into `cargo test`.
fn rounds(short: u64) -> u64 {
    env::var("CARILLON_TEST_ROUNDS").ok().map_or(short, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Random moments for kills: the same ones with the same CARILLON_TEST_SEED.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = env::var("CARILLON_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("CARILLON_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.next() % (longest.as_micros() as u64).max(1))
    }
}

/// A folder of this test, which is deleted unless the test failed.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("carillon-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what is on disk is kept in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
