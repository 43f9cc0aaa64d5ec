//! Where the bytes of files are kept: a folder, or storage that is compatible with S3. Used by gateways, which take and give them, by
//! routers, which remove what nobody needs, and by backups.

mod config;
mod files;
mod http;

pub use config::{MediaConfig, PlaceError};
pub use files::{CHUNK_BYTES, Files, FilesError};
pub use http::{Connector, ConnectorError};

/// What a gateway has for files.
#[derive(Debug, Clone)]
pub struct Media {
    pub files: Files,
    pub config: MediaConfig,
}
