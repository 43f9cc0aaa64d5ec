//! Load on a running service, and the checker that finds what was lost, doubled, reordered, invented or corrupted.

pub mod checker;
pub mod direct;
pub mod payload;
pub mod token;
