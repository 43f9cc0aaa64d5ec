//! Hash maps for keys that others choose: a fast hash with a secret seed, so that outsiders can't construct collisions.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::LazyLock,
};

use foldhash::{
    SharedSeed,
    fast::{FoldHasher, SeedableRandomState},
};

pub type KeyedMap<K, V> = HashMap<K, V, Keyed>;
pub type KeyedSet<K> = HashSet<K, Keyed>;

/// Hashes with the secret seed of this process.
#[derive(Clone)]
pub struct Keyed(SeedableRandomState);

// Seeded from the system's random source: by default the hasher takes addresses, which can be guessed.
static SHARED: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(rand::random()));
static KEYED: LazyLock<Keyed> = LazyLock::new(|| Keyed(SeedableRandomState::with_seed(rand::random(), &SHARED)));

impl Default for Keyed {
    fn default() -> Self {
        KEYED.clone()
    }
}

impl BuildHasher for Keyed {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}
