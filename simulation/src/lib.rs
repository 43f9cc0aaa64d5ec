//! Deterministic simulation: the logic of clients, gateways, routers and the state machines of the store in one world
//! with virtual time, where whatever can go wrong between them does, against a model of what is promised. One seed is
//! one run, always the same. See docs/testing.md.

mod accounts;
mod check;
mod clients;
mod faults;
mod gateways;
mod lease;
mod model;
mod order;
mod random;
mod report;
mod routers;
mod scenario;
mod schedule;
mod store;
mod wires;
mod world;

use std::{io, path::Path};

use carillon_storage::simulation::Machines;

pub use order::{Guard, Guards};
pub use report::Report;

/// A bug that the world has and the product has not, to see that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// The store does not recognise a repeated send.
    DuplicatesForgotten,
    /// The store turns the writes of a batch round.
    ReorderedBatch,
    /// The store answers an append before it is committed.
    AnsweredBeforeCommit,
    /// The store goes on with a lane after a refusal.
    LanesStayOpen,
    /// A gap can't be read: what was not pushed is not delivered.
    GapsStayOpen,
    /// A cursor is stored one too far.
    CursorTooFar,
    /// The inbox of a deleted user goes on under the name's next owner.
    InboxGoesOn,
    /// Messages from sessions of a deleted user are accepted.
    SenderGoesOn,
    /// Routers do not report pushes that they drop.
    DropsUntold,
    /// These guards of message order are left out.
    Without(Guards),
}

/// What a run found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub what: String,
    /// Virtual microseconds since the run began.
    pub at_us: u64,
}

/// Makes runs, one after the other. The engines under the machines are opened once and cleared for each.
pub struct Simulator {
    machines: Machines,
}

impl Simulator {
    /// Keeps the engines' files in this folder. Blocking, as all of this.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self { machines: Machines::open(dir, store::MAP)? })
    }

    /// The run of this seed. `verbose`: prints everything that happens in it.
    pub fn run(&mut self, seed: u64, plant: Option<Plant>, verbose: bool) -> Result<Report, Failure> {
        if let Err(error) = self.machines.clear() {
            return Err(Failure { what: format!("the machines can't be cleared: {error}"), at_us: 0 });
        }
        world::World::new(seed, plant, &mut self.machines, verbose).run()
    }
}
