//! Puts load on a running service, measures the costs, and finds messages that were lost, doubled, reordered, invented
//! or corrupted.

pub mod checker;
pub mod cli;
pub mod cluster;
pub mod drill;
pub mod faults;
pub mod flush_probe;
pub mod measure;
pub mod payload;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod token;
pub mod versions;

pub use scenario::direct;
