//! A gateway over real sockets against a small router of one process, whose store is a map.

mod chat_states;
mod client;
mod contacts;
mod conversations;
mod domains;
mod downloads;
mod expiring;
mod groups;
mod media;
mod pictures;
mod plays;
mod privacy;
mod rebalance;
mod references;
mod reports;
mod resume;
mod router;
mod scheduled;
mod unread;
mod xmpp;
