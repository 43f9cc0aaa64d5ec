//! Consistent views over an engine that has none: before a write, the old value is kept for every view that has not
//! reached the key yet, and the view returns it in the key's place.

use std::{collections::BTreeMap, io};

/// Keys that a view reads at once. The writer waits meanwhile.
const PIECE: usize = 256;
/// Bytes of old values kept for one view. Beyond it the view ends with an error, and its maker tries again later:
/// writes never wait for a slow reader.
const MAX_KEPT_BYTES: usize = 256 * 1024 * 1024;

/// The open views of one shard.
pub(crate) struct Views {
    next_id: u64,
    open: Vec<View>,
    max_kept_bytes: usize,
}

impl Default for Views {
    fn default() -> Self {
        Self { next_id: 0, open: Vec::new(), max_kept_bytes: MAX_KEPT_BYTES }
    }
}

/// Names an open view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ViewId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Sound,
    Overflown,
    Replaced,
}

struct View {
    id: ViewId,
    /// The last key that was returned. The view no longer needs keys up to it.
    passed: Vec<u8>,
    /// Values that keys after `passed` had when the view was opened; `None` for keys that did not exist.
    kept: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    kept_bytes: usize,
    health: Health,
}

/// Records in the order of their keys.
pub(crate) type Piece = Vec<(Vec<u8>, Vec<u8>)>;

impl Views {
    /// Opens a view of all keys after `from`.
    pub(crate) fn open(&mut self, from: Vec<u8>) -> ViewId {
        let id = ViewId(self.next_id);
        self.next_id += 1;
        let kept = BTreeMap::new();
        self.open.push(View { id, passed: from, kept, kept_bytes: 0, health: Health::Sound });
        id
    }

    pub(crate) fn close(&mut self, id: ViewId) {
        self.open.retain(|view| view.id != id);
    }

    /// Call it before each write of `key`, with a way to read the present value.
    pub(crate) fn before_write(
        &mut self,
        key: &[u8],
        read: impl Fn() -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<()> {
        for view in &mut self.open {
            if view.health != Health::Sound || key <= view.passed.as_slice() || view.kept.contains_key(key) {
                continue;
            }
            let old = read()?;
            view.kept_bytes += key.len() + old.as_ref().map_or(0, Vec::len);
            view.kept.insert(key.to_vec(), old);
            if view.kept_bytes > self.max_kept_bytes {
                view.health = Health::Overflown;
                view.kept.clear();
            }
        }
        Ok(())
    }

    /// Ends all views, because all content is about to be replaced.
    pub(crate) fn before_replace(&mut self) {
        for view in &mut self.open {
            view.health = Health::Replaced;
            view.kept.clear();
        }
    }

    /// The next records of the view; `None` at its end. `read(after, n)` returns the first n records after a key.
    pub(crate) fn next_piece(
        &mut self,
        id: ViewId,
        read: impl Fn(&[u8], usize) -> io::Result<Piece>,
    ) -> io::Result<Option<Piece>> {
        let Some(at) = self.open.iter().position(|view| view.id == id) else {
            return Ok(None);
        };
        let view = &mut self.open[at];
        match view.health {
            Health::Sound => {}
            Health::Overflown => {
                return Err(io::Error::other(format!(
                    "view of the directory fell behind by {} bytes of writes: make it again",
                    self.max_kept_bytes
                )));
            }
            Health::Replaced => {
                return Err(io::Error::other("view of the directory ended because a snapshot was installed"));
            }
        }
        let now = read(&view.passed, PIECE)?;
        let kept = if now.len() < PIECE {
            self.open.remove(at).kept
        } else {
            // PIECE is not 0.
            let last = now.last().map(|(key, _)| key.clone()).unwrap_or_default();
            let mut later = view.kept.split_off(&last);
            let mut kept = std::mem::take(&mut view.kept);
            if let Some(old) = later.remove(&last) {
                kept.insert(last.clone(), old);
            }
            view.kept = later;
            view.kept_bytes -=
                kept.iter().map(|(key, old)| key.len() + old.as_ref().map_or(0, Vec::len)).sum::<usize>();
            view.passed = last;
            kept
        };
        if kept.is_empty() {
            return Ok(if now.is_empty() { None } else { Some(now) });
        }
        let mut then: BTreeMap<_, _> = now.into_iter().collect();
        for (key, old) in kept {
            match old {
                Some(value) => then.insert(key, value),
                None => then.remove(&key),
            };
        }
        Ok(Some(then.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    type Records = BTreeMap<Vec<u8>, Vec<u8>>;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u16, Option<u8>),
        Begin,
        Read(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (0..2000u16, proptest::option::of(any::<u8>())).prop_map(|(key, value)| Step::Write(key, value)),
            1 => Just(Step::Begin),
            1 => any::<usize>().prop_map(Step::Read),
        ]
    }

    fn read_from(records: &Records) -> impl Fn(&[u8], usize) -> io::Result<Piece> {
        |after, n| {
            let later = records.range::<[u8], _>((Bound::Excluded(after), Bound::Unbounded));
            Ok(later.take(n).map(|(key, value)| (key.clone(), value.clone())).collect())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_view_gives_what_was_there_when_it_began(
            full in proptest::collection::vec(any::<bool>(), 2000),
            steps in proptest::collection::vec(step(), 0..1500),
        ) {
            let mut records = Records::new();
            for (key, full) in full.iter().enumerate() {
                if *full {
                    records.insert((key as u16).to_be_bytes().to_vec(), vec![0]);
                }
            }
            let mut views = Views::default();
            let mut reading: Vec<(ViewId, Records, Piece)> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(key, value) => {
                        let key = key.to_be_bytes().to_vec();
                        views.before_write(&key, || Ok(records.get(&key).cloned())).expect("sound");
                        match value {
                            Some(value) => records.insert(key, vec![value]),
                            None => records.remove(&key),
                        };
                    }
                    Step::Begin => reading.push((views.open(Vec::new()), records.clone(), Vec::new())),
                    Step::Read(which) => {
                        let count = reading.len().max(1);
                        if let Some((id, _, seen)) = reading.get_mut(which % count) {
                            seen.extend(views.next_piece(*id, read_from(&records)).expect("sound").unwrap_or_default());
                        }
                    }
                }
            }
            for (id, then, mut seen) in reading {
                while let Some(piece) = views.next_piece(id, read_from(&records)).expect("sound") {
                    seen.extend(piece);
                }
                prop_assert_eq!(seen, then.into_iter().collect::<Piece>());
            }
            prop_assert!(views.open.is_empty());
        }
    }

    #[test]
    fn a_view_ends_with_an_error_when_all_is_replaced() {
        let mut views = Views::default();
        let id = views.open(Vec::new());
        views.before_replace();
        assert!(views.next_piece(id, read_from(&Records::new())).is_err());
    }

    #[test]
    fn a_view_that_falls_behind_is_given_up() {
        let mut views = Views { max_kept_bytes: 1000, ..Views::default() };
        let id = views.open(Vec::new());
        let old = vec![0; 300];
        for key in 1..=4u8 {
            views.before_write(&[key], || Ok(Some(old.clone()))).expect("writes go on");
        }
        assert!(views.next_piece(id, read_from(&Records::new())).is_err());
        views.close(id);
        assert!(views.open.is_empty());
    }
}
