//! Load on a running service, and the checker that finds what was lost, doubled, reordered, invented or corrupted.

pub mod checker;
pub mod cluster;
pub mod direct;
pub mod faults;
pub mod payload;
pub mod token;
