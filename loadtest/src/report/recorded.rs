//! Figures of a run that one process gives to another.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::times::pairs;
use crate::measure::latencies::histogram;

/// Counters of the whole run, the warm-up included.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub accepted: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Deliveries to devices, each device counted.
    pub delivered: u64,
    /// Connections that are signed in now.
    pub signed_in: u64,
    /// Sends with a time of their own that only the generator could delay, and how many of them went out late.
    pub scheduled: u64,
    pub late: u64,
}

/// Figures of another process since its last report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recorded {
    /// `signed_in` is their present number.
    pub counts: Counts,
    #[serde(with = "pairs")]
    pub acceptance: Histogram<u64>,
    #[serde(with = "pairs")]
    pub acceptance_once_sent: Histogram<u64>,
    #[serde(with = "pairs")]
    pub delivery: Histogram<u64>,
    #[serde(with = "pairs")]
    pub away: Histogram<u64>,
    pub marks: Vec<String>,
}

impl Recorded {
    /// Nothing but counts.
    pub fn of(counts: Counts) -> Self {
        let [acceptance, acceptance_once_sent, delivery, away] = [(); 4].map(|()| histogram());
        Self { counts, acceptance, acceptance_once_sent, delivery, away, marks: Vec::new() }
    }
}

impl Counts {
    /// Adds what others have counted.
    pub fn add(&mut self, other: &Self) {
        let Self { accepted, refused, unknown, delivered, signed_in, scheduled, late } = other;
        self.accepted += accepted;
        self.refused += refused;
        self.unknown += unknown;
        self.delivered += delivered;
        self.signed_in += signed_in;
        self.scheduled += scheduled;
        self.late += late;
    }

    /// The counts since `before`; `signed_in` is the current number.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            accepted: self.accepted - before.accepted,
            refused: self.refused - before.refused,
            unknown: self.unknown - before.unknown,
            delivered: self.delivered - before.delivered,
            signed_in: self.signed_in,
            scheduled: self.scheduled - before.scheduled,
            late: self.late - before.late,
        }
    }
}
