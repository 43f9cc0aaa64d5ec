//! Texts that the engine may still have.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::pb::{
    client::{Envelope, Text, content},
    store::Append,
};
use prost::Message as _;

/// A text that the engine has.
#[derive(Debug, Clone)]
pub(super) struct Alive {
    pub(super) text: String,
    /// `None`: it does not expire.
    pub(super) due_ms: Option<u64>,
    /// The position of what it edits.
    pub(super) edits: Option<u64>,
}

#[derive(Default)]
pub(super) struct Model {
    /// By number of the timeline and position.
    pub(super) alive: BTreeMap<(u64, u64), Alive>,
    /// Times, numbers and positions.
    pub(super) rows: BTreeSet<(u64, u64, u64)>,
    pub(super) expired: BTreeSet<(u64, u64)>,
    /// The engine has their texts, and readers do not get them.
    pub(super) recalled: BTreeSet<(u64, u64)>,
    /// The present inboxes, by user.
    pub(super) living: BTreeMap<usize, Living>,
    numbers: u64,
    /// The least incarnation that each inbox may have.
    pub(super) least: BTreeMap<usize, u64>,
}

#[derive(Clone, Copy)]
pub(super) struct Living {
    pub(super) number: u64,
    pub(super) incarnation: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Model {
    pub(super) fn forget(&mut self, number: u64, seq: u64) {
        if let Some(Alive { due_ms: Some(due_ms), .. }) = self.alive.remove(&(number, seq)) {
            self.rows.remove(&(due_ms, number, seq));
        }
    }

    pub(super) fn is_living(&self, number: u64) -> bool {
        self.living.values().any(|living| living.number == number)
    }

    pub(super) fn appended(&mut self, owner: usize, op: &Append, seq: u64, due_ms: Option<u64>, edits: Option<u64>) {
        let living = self.living.get(&owner).copied().filter(|living| living.incarnation == op.incarnation);
        let mut living = living.unwrap_or_else(|| {
            self.numbers += 1;
            Living { number: self.numbers, incarnation: op.incarnation, first: 1, last: 0 }
        });
        living.last += 1;
        assert_eq!(living.last, seq);
        self.living.insert(owner, living);
        let said = Envelope::decode(op.envelope.clone()).expect("was made here");
        let Some(content::Body::Text(Text { body: text })) = said.content.and_then(|content| content.body) else {
            panic!("a text")
        };
        self.rows.extend(due_ms.map(|due_ms| (due_ms, living.number, seq)));
        self.alive.insert((living.number, seq), Alive { text, due_ms, edits });
    }
}
