//! A bounded map of the entries used last.

use std::{borrow::Borrow, hash::Hash, mem};

use carillon_proto::KeyedMap;

/// Keeps at least the `capacity / 2` entries used last, and at most `capacity`: when the young half is full, the old
/// half is dropped, and the young one becomes the old one.
pub(crate) struct RecentMap<K, V> {
    half: usize,
    young: KeyedMap<K, V>,
    old: KeyedMap<K, V>,
}

impl<K: Hash + Eq, V> RecentMap<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { half: (capacity / 2).max(1), young: KeyedMap::default(), old: KeyedMap::default() }
    }

    /// Takes an entry out. The caller puts it back.
    pub(crate) fn take<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays_and_the_size_is_bounded() {
        let mut recent = RecentMap::new(10);
        for key in 0..100 {
            recent.put(key, key);
            assert!(recent.young.len() + recent.old.len() <= 10);
            for last in (0..=key).rev().take(5) {
                let value = recent.take(&last).expect("kept");
                recent.put(last, value);
            }
        }
        assert_eq!(recent.take(&1), None);
    }
}
