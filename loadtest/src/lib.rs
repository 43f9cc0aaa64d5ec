//! Puts load on a running service, measures the costs, and finds messages that were lost, doubled, reordered, invented
//! or corrupted.

mod capacity;
mod chaos;
pub mod checker;
pub mod cli;
pub mod cluster;
pub mod credentials;
pub mod drill;
pub mod faults;
pub mod flush_probe;
pub mod measure;
pub mod payload;
mod progress;
pub mod relay;
pub mod report;
pub mod scenario;
mod scenario_file;
mod session;
pub mod token;
pub mod versions;
mod workers;

pub use scenario::direct;
