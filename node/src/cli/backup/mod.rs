//! Commands that make, check, list and restore backups. See docs/adr/0019-backup.md.
//!
//! ```text
//! create.rs     reads the shards from their leaders
//! retention.rs  which older backups go, and remains of attempts that were interrupted
//! verify.rs, list.rs, restore.rs
//! manifest.rs   what says that a backup is whole
//! shard_reader.rs  the bytes of a shard, checked while they are read
//! target.rs, http.rs   a folder, or storage that is compatible with S3
//! ```

mod create;
mod list;
mod manifest;
mod restore;
mod retention;
mod shard_reader;
mod target;
mod verify;

use clap::{Args, Subcommand};

use self::target::Target;
use crate::Config;

#[derive(Subcommand)]
pub(super) enum Backup {
    /// Makes a backup of the whole cluster while it runs. A backup of this name that is whole is left as it is.
    Create(create::Create),
    /// Reads backups back: every checksum, every record.
    Verify(verify::Verify),
    /// Lists backups, also those that are not whole.
    List(list::List),
    /// Makes the data folder of a new cluster of one storage node out of a backup.
    Restore(restore::Restore),
}

/// Why a command did not do what it was asked for. Each has an exit code of its own, for schedulers.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    /// Something is missing or wrong in the backup: it can't be restored.
    #[error("{0}")]
    Damaged(String),
    /// It would harm something, or this program can't do it: another attempt will not help.
    #[error("{0}")]
    Refused(String),
}

impl BackupError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Damaged(_) => 3,
            Self::Refused(_) => 4,
        }
    }
}

/// Where backups are.
#[derive(Args)]
struct Place {
    /// A folder, or s3://BUCKET/PREFIX with credentials, region and endpoint in the AWS_… variables.
    #[arg(long, value_name = "FOLDER|URL")]
    from: String,
}

impl Backup {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        // A backup holds everything that the cluster holds.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        match self {
            Self::Create(create) => create.run(config).await,
            Self::Verify(verify) => verify.run().await,
            Self::List(list) => list.run().await,
            Self::Restore(restore) => restore.run(config).await,
        }
    }
}

impl Place {
    fn open(&self) -> anyhow::Result<Target> {
        Target::open(&self.from)
    }
}

/// Names a backup; it is also a folder.
fn check_name(name: &str) -> Result<String, String> {
    let is_right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=100).contains(&name.len()) && name.bytes().all(is_right) && !name.starts_with('.') {
        return Ok(name.to_owned());
    }
    Err("a name has 1 to 100 letters, digits, dashes, underscores and dots, and does not begin with a dot".to_owned())
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_folder_and_nothing_else() {
        for right in ["nightly-2026-11-29", "a", "2026-11-29T061500Z"] {
            assert_eq!(check_name(right).as_deref(), Ok(right));
        }
        for wrong in ["", ".", "..", ".a", "a/b", "a b", "é", &"a".repeat(101)] {
            check_name(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([0, 1023, 1536, 5 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
