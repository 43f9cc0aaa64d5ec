//! A load that several processes make together: a coordinator, which makes none, and workers, each with its share of the users and of
//! the rate.
//!
//! Users write to users of the same worker. So each worker checks its messages by itself, with one clock, and the checker's findings of
//! all workers add up to those of the whole.

mod coordinator;
mod crew;
mod handshake;
mod message;
mod together;
mod wire;
mod worker;

pub(crate) use self::{
    coordinator::{Coordinator, coordinate},
    handshake::Secret,
    worker::{WorkerConfig, work},
};
