//! Deterministic simulation: the logic of clients, gateways, routers and the state machines of the store in one world
//! with virtual time and all kinds of failures between them, checked against a model of the promises. A seed determines
//! a run completely. See docs/testing.md.

mod accounts;
mod audience;
mod check;
mod clients;
mod expiring;
mod faults;
mod files;
mod gateways;
mod groups;
mod lease;
mod marks;
mod membership;
mod model;
mod order;
mod presence;
mod random;
mod recalls;
mod references;
mod report;
mod reports;
mod routers;
mod scenario;
mod schedule;
mod scheduled;
mod store;
mod wires;
mod world;

use std::{io, path::Path};

use carillon_storage::simulation::Machines;

pub use order::{Guard, Guards};
pub use report::Report;

/// A bug that is planted in the world, and not in the product, to show that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// The store does not recognise a repeated send.
    DuplicatesForgotten,
    /// The store reverses the order of the writes of a batch.
    ReorderedBatch,
    /// The store answers an append before it is committed.
    AnsweredBeforeCommit,
    /// The store continues with a lane after a refusal.
    LanesStayOpen,
    /// A gap can't be read: entries that were not pushed are not delivered.
    GapsStayOpen,
    /// The store keeps a cursor one position too far.
    CursorTooFar,
    /// The inbox of a deleted user continues under the name's next owner.
    InboxGoesOn,
    /// Messages from sessions of a deleted user are accepted.
    SenderGoesOn,
    /// A message of a user who is banned from its group is taken.
    BannedMayWrite,
    /// The store forgets that something was read.
    MarksForgotten,
    /// The store counts a message as unread for the one who has sent it.
    OwnMessagesCount,
    /// The edit of a message by somebody else stands.
    OthersEdit,
    /// A scheduled message is not taken back, and its user is told that it is.
    CancelledGoOn,
    /// The store forgets when scheduled messages are to be sent.
    SentEarly,
    /// The store takes all messages that expire for ones that end at once.
    RemovedEarly,
    /// A storage node whose disk is gone goes on with an empty one, as the replicas that it had.
    DisksComeBackEmpty,
    /// Routers do not report pushes that they drop.
    DropsUntold,
    /// These guards of order are left out.
    Without(Guards),
    /// Nothing is broken, but gateways stand still for longer than a client waits for its sign-in. It is so without the guard
    /// *attempts*, too: other runs hardly ever need that guard.
    GatewaysStandStill,
    /// Nothing is broken, but all kinds of faults come, twice as often, and users change all the time what they show.
    Hostile,
}

impl Plant {
    pub(crate) fn is_without(self, guard: Guard) -> bool {
        matches!(self, Self::Without(left_out) if left_out.has(guard))
    }

    fn lets_gateways_stand(self) -> bool {
        self == Self::GatewaysStandStill || self.is_without(Guard::Attempts)
    }
}

/// The failure of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub what: String,
    /// Virtual microseconds since the run began.
    pub at_us: u64,
}

/// Carries out runs, one after the other. The engines of the state machines are opened once, and cleared for each run.
pub struct Simulator {
    machines: Machines,
}

impl Simulator {
    /// Keeps the engines' files in this folder. Blocks, as all methods do.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self { machines: Machines::open(dir, store::MAP)? })
    }

    /// Carries out the run of this seed. With `verbose`, prints all its events.
    pub fn run(&mut self, seed: u64, plant: Option<Plant>, verbose: bool) -> Result<Report, Failure> {
        if let Err(error) = self.machines.clear() {
            return Err(Failure { what: format!("the machines can't be cleared: {error}"), at_us: 0 });
        }
        world::World::new(seed, plant, &mut self.machines, verbose).run()
    }
}
