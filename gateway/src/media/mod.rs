//! Files over HTTP: uploads and downloads by URLs that sessions give out. See docs/adr/0030-media.md.

mod direct;
mod download;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod pipe;
mod previewer;
mod range;
mod sending;
mod service;
mod transfer;
mod turns;
mod types;
mod upload;
mod whole;

pub(crate) use carillon_media::pass::{PATH, Pass, PassKeys, Purpose};
pub(crate) use direct::Direct;
pub(crate) use service::{MediaBody, MediaService};
pub(crate) use transfer::Transfers;
