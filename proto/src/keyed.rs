//! Maps by keys that others choose: hashed quickly, in a way that nobody outside can foresee.

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

/// Hashes with the key of this process.
#[derive(Clone)]
pub struct Keyed(SeedableRandomState);

// From the system's own randomness: by itself the hasher takes addresses, which can be guessed.
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
