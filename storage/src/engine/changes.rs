//! The writes of one batch.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Bound, RangeInclusive},
};

use crate::machine::keys::RowBytes;

/// The last write of each key in one batch. Later commands of the batch look here before they ask the engine. Bounded
/// by the number of entries that are applied at once.
#[derive(Default)]
pub(crate) struct Changes(BTreeMap<RowBytes, Option<RowBytes>>);

impl Changes {
    pub(crate) fn put(&mut self, key: impl Into<RowBytes>, value: impl Into<RowBytes>) {
        self.0.insert(key.into(), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, key: impl Into<RowBytes>) {
        self.0.insert(key.into(), None);
    }

    /// `None`: not touched by this batch. `Some(None)`: deleted by it.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.0.get(key).map(Option::as_deref)
    }

    /// The touched keys with this prefix, in order.
    pub(crate) fn with_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (&**key, value.as_deref()))
    }

    /// The touched keys of this range, in order.
    pub(crate) fn within(&self, range: &RangeInclusive<RowBytes>) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.range(range.clone()).map(|(key, value)| (&**key, value.as_deref()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl IntoIterator for Changes {
    type Item = (RowBytes, Option<RowBytes>);
    type IntoIter = btree_map::IntoIter<RowBytes, Option<RowBytes>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
