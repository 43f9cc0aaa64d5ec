//! A gateway over real sockets against a small router of one process, whose store is a map.

mod client;
mod contacts;
mod conversations;
mod groups;
mod media;
mod plays;
mod rebalance;
mod references;
mod resume;
mod router;
mod unread;
