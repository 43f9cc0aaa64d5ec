//! What goes in, what comes out. `world.rs` is the stage.

mod requests;
mod sessions;
mod world;
