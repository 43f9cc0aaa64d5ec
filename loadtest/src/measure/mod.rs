//! Measures what a run costs and how long things take.

pub mod admin;
pub mod gateways;
pub mod generator;
pub mod latencies;
pub mod proc;
pub mod sampler;
pub mod servers;
pub mod window;
