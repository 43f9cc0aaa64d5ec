//! What a run did.

use std::ops::AddAssign;

use crate::{
    model::{Ended, Model},
    schedule::Time,
    world::Event,
};

/// Counts of one run, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash of all that happened, with the times: two runs of one seed have the same.
    pub digest: u64,
    pub events: u64,
    /// Virtual microseconds.
    pub time_us: u64,
    pub sent: u64,
    pub accepted: u64,
    /// Envelopes in all inboxes.
    pub appended: u64,
    /// Envelopes in groups.
    pub in_groups: u64,
    /// Envelopes in all inboxes that were scheduled.
    pub scheduled: u64,
    /// Contents in all inboxes that were removed when their time was over.
    pub expired: u64,
    /// Timelines whose pushes were dropped for lack of room, and told of later.
    pub behind: u64,
    /// Attempts to send that routers refused because they had overtaken another one.
    pub out_of_order: u64,
    /// Messages about which there is something.
    pub annotated: u64,
    /// The same in groups, once for each member.
    pub annotated_in_groups: u64,
    /// Files that were removed.
    pub collected: u64,
    /// Reports that moderators see.
    pub reports: u64,
    /// Number of presences that devices were told.
    pub presences: u64,
    /// Refusals of sends that clients were told of.
    pub refused: u64,
    /// Rows swept out: cursors and sessions.
    pub swept: u64,
    /// Cursors that were moved by commands for all timelines of a device.
    pub moves: u64,
    /// Steps from one set of a shard's voters to the next.
    pub members: u64,
    /// Commands that were refused because their shard's level had not risen yet.
    pub above_level: u64,
}

impl Report {
    pub(crate) fn note(&mut self, now: Time, event: &Event) {
        self.events += 1;
        self.time_us = now;
        let (kind, which) = match event {
            Event::Arrives { wire, to, .. } => (*to as u64, *wire),
            Event::Ends { wire, at } => (2 + *at as u64, *wire),
            Event::Gateway { gateway, .. } => (4, *gateway as u64),
            Event::Router { router, .. } => (5, *router as u64),
            Event::Client { client, .. } => (6, *client as u64),
            Event::Store(_) => (7, 0),
            Event::Lease { .. } => (8, 0),
            Event::Fault(fault) => (9, *fault as u64),
            Event::Heals | Event::Looks => (10, 0),
            Event::Account(_) => (11, 0),
            Event::Group { user, .. } => (12, *user as u64),
        };
        // FNV-1a over whole words.
        for word in [now, kind, which] {
            self.digest = (self.digest ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn count(&mut self, model: &Model) {
        let sends = || model.devices.iter().flat_map(|device| device.sends.values());
        self.sent = sends().count() as u64;
        self.accepted = sends().filter(|ended| matches!(ended, Some(Ended::Accepted(_)))).count() as u64;
        self.in_groups = model.groups.0.values().map(|group| group.entries.len() as u64).sum();
        let entries = model.inboxes.values().flat_map(|inbox| &inbox.entries);
        self.scheduled = entries.filter(|entry| model.is_scheduled(&entry.envelope)).count() as u64;
        self.appended = model.inboxes.values().map(|inbox| inbox.entries.len() as u64).sum();
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.digest ^= other.digest;
        self.events += other.events;
        self.time_us += other.time_us;
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.appended += other.appended;
        self.in_groups += other.in_groups;
        self.scheduled += other.scheduled;
        self.expired += other.expired;
        self.behind += other.behind;
        self.out_of_order += other.out_of_order;
        self.refused += other.refused;
        self.annotated += other.annotated;
        self.annotated_in_groups += other.annotated_in_groups;
        self.presences += other.presences;
        self.reports += other.reports;
        self.collected += other.collected;
        self.swept += other.swept;
        self.moves += other.moves;
        self.members += other.members;
        self.above_level += other.above_level;
    }
}
