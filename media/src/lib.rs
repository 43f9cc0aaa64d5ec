//! Where the bytes of files are kept: a folder, or storage that is compatible with S3. Used by gateways, which take and give them, by
//! routers, which remove what nobody needs, and by backups.

use std::ffi::OsString;

mod bucket;
mod config;
mod files;
mod folder;
mod http;
pub mod pass;
mod threads;

pub use config::{MediaConfig, PlaceError, ToldPlace};
pub use files::{CHUNK_BYTES, Files, FilesError, Kept, Version};
pub use folder::{Folder, NewChunk, OpenChunk};
pub use http::{Connector, ConnectorError};

/// The place for files, with its settings.
#[derive(Debug, Clone)]
pub struct Media {
    pub files: Files,
    pub config: MediaConfig,
    /// The program that makes previews and its first arguments, before what `carillon_pictures::preview::child` is told. Empty: none are made.
    pub previewer: Vec<OsString>,
}
