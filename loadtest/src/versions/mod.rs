//! A release and the one before it in one cluster: its processes are replaced one after the other, forward, back and forward for good,
//! under load.

mod clients;
mod command;
mod roll;

pub use command::VersionsCommand;
