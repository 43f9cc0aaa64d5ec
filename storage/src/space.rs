//! Watches the free space on the data disk. Below a mark, sends are refused, so that accepted messages stay, history
//! can be read, and the node has room to tidy up.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use carillon_proto::pb::store::{Full, store_error::Why};
use rand::RngExt as _;
use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs};
use tokio::time::sleep;

use crate::metrics as names;

const INTERVAL: Duration = Duration::from_secs(1);
/// The reserve is at most this fraction of a small disk.
const PART: u64 = 5;
/// Hysteresis: space is sufficient again only this fraction above the mark.
const MORE: u64 = 20;
/// A file that a start on a full disk deletes, because it has to write some small files before anyone can read.
const BALLAST_BYTES: u64 = 64 << 20;
/// A range for the retry delay: by then someone may have made space.
const RETRY_AFTER_MS: std::ops::Range<u32> = 5_000..15_000;

/// How full the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Enough,
    /// Below the mark: only writes that follow from an accepted one are taken.
    Low,
    /// Below half of the mark.
    Out,
}

/// The sizes of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Space {
    path: Arc<Path>,
    reserve_bytes: u64,
    level: Arc<AtomicU8>,
}

impl Space {
    /// Measures once.
    pub(crate) fn open(path: &Path, reserve_bytes: u64) -> Self {
        let space = Self { path: path.into(), reserve_bytes, level: Arc::new(AtomicU8::new(Level::Enough as u8)) };
        space.look();
        space
    }

    /// Why an append is not taken now, if so.
    pub(crate) fn refusal(&self, follows: bool) -> Option<Why> {
        let level = self.level.load(Ordering::Relaxed);
        if level == Level::Enough as u8 || (follows && level == Level::Low as u8) {
            return None;
        }
        Some(Why::Full(Full { retry_after_ms: rand::rng().random_range(RETRY_AFTER_MS) }))
    }

    pub(crate) fn is_low(&self) -> bool {
        self.level.load(Ordering::Relaxed) != Level::Enough as u8
    }

    /// Runs as long as the node.
    pub(crate) async fn watch(self) {
        loop {
            let this = self.clone();
            // A disk may hang.
            if let Err(error) = tokio::task::spawn_blocking(move || this.look()).await {
                tracing::error!(%error, "looking at the disk panicked");
            }
            sleep(INTERVAL).await;
        }
    }

    fn look(&self) {
        let measured = match measure(&self.path) {
            Ok(measured) => measured,
            Err(error) => return tracing::debug!(%error, "the space on the disk is not known"),
        };
        let before = match self.level.load(Ordering::Relaxed) {
            0 => Level::Enough,
            1 => Level::Low,
            _ => Level::Out,
        };
        let level = level(measured, self.reserve_bytes, before);
        self.level.store(level as u8, Ordering::Relaxed);
        metrics::gauge!(names::DISK_FREE).set(measured.free as f64);
        metrics::gauge!(names::DISK_TOTAL).set(measured.total as f64);
        metrics::gauge!(names::DISK_FULL).set(if level == Level::Enough { 0.0 } else { 1.0 });
        let (path, free_bytes, mark_bytes) = (self.path.display(), measured.free, mark(measured, self.reserve_bytes));
        if level == Level::Enough {
            if before != Level::Enough {
                tracing::info!(%path, free_bytes, "the disk has enough space again: sends are taken");
            }
            if measured.free > mark_bytes + 2 * BALLAST_BYTES {
                self.lay_in_ballast();
            }
        } else if before == Level::Enough {
            tracing::error!(%path, free_bytes, mark_bytes, "the disk is nearly full: sends are refused, history can be read; make space");
        }
    }

    /// A missing ballast does no harm until the disk is full.
    fn lay_in_ballast(&self) {
        let path = ballast(&self.path);
        if path.exists() {
            return;
        }
        let made = File::create(&path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES).map(|()| file)?))
            .and_then(|file| file.sync_all());
        if let Err(error) = made {
            tracing::debug!(path = %path.display(), %error, "no space can be kept back for a start on a full disk");
        }
    }
}

/// Frees space if there is none, before anything else is opened in the folder.
pub(crate) fn make_room(folder: &Path) {
    let Ok(measured) = measure(folder) else { return };
    if measured.free < BALLAST_BYTES && fs::remove_file(ballast(folder)).is_ok() {
        tracing::info!(path = %folder.display(), free_bytes = measured.free, "the disk is full: space that was kept back is given up, so that this node can start");
    }
}

fn ballast(folder: &Path) -> PathBuf {
    folder.join("ballast")
}

/// The free space below which sends are refused.
pub(crate) fn mark(measured: Measured, reserve_bytes: u64) -> u64 {
    reserve_bytes.min(measured.total / PART)
}

fn level(measured: Measured, reserve_bytes: u64, before: Level) -> Level {
    let mark = mark(measured, reserve_bytes);
    if measured.free < mark / 2 {
        Level::Out
    } else if measured.free < mark || (before != Level::Enough && measured.free < mark + mark / MORE) {
        Level::Low
    } else {
        Level::Enough
    }
}

pub(crate) fn measure(path: &Path) -> io::Result<Measured> {
    let StatVfs { f_frsize, f_blocks, f_bavail, .. } = statvfs(path)?;
    // Space reserved for root is not available to us.
    Ok(Measured { total: f_blocks.saturating_mul(f_frsize), free: f_bavail.saturating_mul(f_frsize) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn below_the_mark_the_disk_is_low_until_there_is_clearly_more() {
        let at = |free, before| level(Measured { total: 10_000 * MIB, free: free * MIB }, 500 * MIB, before);
        assert_eq!(at(500, Level::Enough), Level::Enough);
        assert_eq!(at(499, Level::Enough), Level::Low);
        assert_eq!(at(510, Level::Low), Level::Low);
        assert_eq!(at(525, Level::Low), Level::Enough);
        assert_eq!(at(249, Level::Enough), Level::Out);
        assert_eq!(at(0, Level::Out), Level::Out);
    }

    #[test]
    fn a_small_disk_is_not_kept_back_as_a_whole() {
        let at = |free| level(Measured { total: 500 * MIB, free: free * MIB }, 1000 * MIB, Level::Enough);
        assert_eq!((at(100), at(99), at(49)), (Level::Enough, Level::Low, Level::Out));
    }

    #[test]
    fn what_follows_is_taken_for_longer() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = Space::open(folder.path(), 0);
        let takes = |level: Level, follows| {
            space.level.store(level as u8, Ordering::Relaxed);
            space.refusal(follows).is_none()
        };
        assert!(takes(Level::Enough, false) && takes(Level::Enough, true));
        assert!(!takes(Level::Low, false) && takes(Level::Low, true));
        assert!(!takes(Level::Out, false) && !takes(Level::Out, true));
    }

    #[test]
    fn a_folder_is_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let Measured { total, free } = measure(folder.path()).expect("is measured");
        assert!(0 < free && free <= total, "{free} of {total}");
    }
}
