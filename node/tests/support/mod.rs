//! Shared parts of the whole-service tests.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod calls;
pub mod certificates;
pub mod cluster;
pub mod command;
pub mod device;
pub mod node;
pub mod people;
pub mod play;
pub mod service;
pub mod websocket;
