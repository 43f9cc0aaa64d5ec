//! Inputs of the dispatch and the effects that they have. `world.rs` plays the connections and routers.

mod chain;
mod requests;
mod sessions;
mod world;
