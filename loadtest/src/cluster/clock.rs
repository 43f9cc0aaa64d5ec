//! A wall clock that can jump under a running process (libfaketime). The monotonic clock is not affected.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{ClusterError, tool};

pub(crate) struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    pub(crate) fn new(file: PathBuf) -> Result<Self, ClusterError> {
        tool::require(&[("faketime", "faketime")])?;
        let missing = ClusterError::Missing { tool: "libfaketimeMT.so.1", package: "libfaketime" };
        let library = fs::read_dir("/usr/lib").map_err(ClusterError::io("/usr/lib"))?.flatten();
        let library = library.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let library = library.into_iter().find(|path| path.exists()).ok_or(missing)?;
        let clock = Self { file, library };
        clock.set(0)?;
        Ok(clock)
    }

    /// Within a second, the process sees the real time plus this many seconds.
    pub(crate) fn set(&self, seconds: i64) -> Result<(), ClusterError> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).map_err(ClusterError::io(&new))?;
        fs::rename(&new, &self.file).map_err(ClusterError::io(&self.file))
    }

    pub(crate) fn environment(&self) -> [(&'static str, &Path); 5] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", &self.file),
            ("FAKETIME_CACHE_DURATION", Path::new("1")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
            ("NO_FAKE_STAT", Path::new("1")),
        ]
    }
}
