//! Faults on a local cluster under load, on a timeline, and how long sends and deliveries were interrupted.

pub(crate) mod change;
mod command;
mod damage;
mod fault;
mod inject;
pub(crate) mod load;
mod outage;
mod page;
pub(crate) mod probe;
pub(crate) mod pulse;
mod report;
mod run;
mod schedule;
mod suite;

pub use change::Change;
pub use command::FaultsCommand;
pub(crate) use fault::parse_length;
pub use fault::{Fault, Needs, ParseError, Step, Target};
pub use report::{Outcome, Report, Row, RunRecord};
pub(crate) use run::strike;
pub use run::{FaultMark, RunOptions};
pub use schedule::{Edge, Schedule};
