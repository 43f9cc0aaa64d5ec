//! Files beside the folder of each engine, read before the engine opens anything: a lock, and a mark that says which
//! format the folder has, and whether the machine has gone down without a sync since it was opened.
//!
//! Most writes of the engines are only handed to the operating system. They survive the process, but not a power
//! failure, after which the files may be a mixture of old and new.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::OpenError;
use crate::machine::keys;

/// Identifies one run of the machine's kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const CLOSED: &str = "closed";

/// Held as long as the engine is open.
pub(crate) struct EngineMark {
    path: PathBuf,
    boot: Option<String>,
    _lock: File,
}

/// How the engine ended the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// The engine was never opened.
    Never,
    /// The engine was closed, or its process ended: all of its writes are there.
    Whole,
    /// The machine may have lost power.
    PowerLost,
}

impl EngineMark {
    /// Locks the folder and reads its mark, which stays as it is until [`EngineMark::opened`].
    pub(crate) fn open(dir: &Path) -> Result<(Self, Before), OpenError> {
        let path = dir.with_extension("mark");
        let failed = |source| OpenError::Mark { path: path.clone(), source };
        let lock = File::create(dir.with_extension("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let boot = fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned());
        let before = match fs::read_to_string(&path) {
            Ok(mark) => read(&mark, boot.as_deref()).map_err(|found| OpenError::format(dir, found))?,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Err(_) if dir.try_exists().map_err(failed)? => return Err(OpenError::format(dir, "none".to_owned())),
            Err(_) => Before::Never,
        };
        Ok((Self { path, boot, _lock: lock }, before))
    }

    /// From now on a power failure leaves a mixture of old and new.
    pub(crate) fn opened(&self) -> Result<(), OpenError> {
        let state = format!("open in boot {}", self.boot.as_deref().unwrap_or("unknown"));
        self.write(&state).map_err(|source| OpenError::Mark { path: self.path.clone(), source })
    }

    /// Everything is synced, and there are no more writes.
    pub(crate) fn closed(&self) -> io::Result<()> {
        self.write(CLOSED)
    }

    fn write(&self, state: &str) -> io::Result<()> {
        let new = self.path.with_extension("mark.new");
        let mut file = File::create(&new)?;
        writeln!(file, "format {}\n{state}", keys::FORMAT)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Checks the format of an engine's folder, which may be open, or not there yet.
pub(crate) fn check_format(dir: &Path) -> Result<(), OpenError> {
    let path = dir.with_extension("mark");
    match fs::read_to_string(&path) {
        Ok(mark) => read(&mark, None).map(drop).map_err(|found| OpenError::format(dir, found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::Mark { path, source }),
    }
}

/// The error names the unknown format.
fn read(mark: &str, boot: Option<&str>) -> Result<Before, String> {
    let mut lines = mark.lines();
    let found = lines.next().and_then(|line| line.strip_prefix("format ")).unwrap_or("unknown");
    if !found.parse().is_ok_and(|format: u32| (keys::OLDEST_FORMAT..=keys::FORMAT).contains(&format)) {
        return Err(found.to_owned());
    }
    Ok(match (lines.next(), boot) {
        (Some(CLOSED), _) => Before::Whole,
        (Some(state), Some(boot)) if state.strip_prefix("open in boot ") == Some(boot) => Before::Whole,
        _ => Before::PowerLost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_older_versions_wrote_is_opened_and_what_newer_ones_wrote_is_not() {
        let dir = tempfile::tempdir().expect("folder");
        let engine = dir.path().join("engine");
        for format in 1..=keys::FORMAT + 1 {
            fs::write(engine.with_extension("mark"), format!("format {format}\n{CLOSED}\n")).expect("writes");
            let opened = EngineMark::open(&engine).map(|(_, before)| before);
            assert_eq!(opened.is_ok(), format <= keys::FORMAT, "format {format}: {opened:?}");
        }
    }

    #[test]
    fn the_mark_tells_how_the_engine_ended() {
        let dir = tempfile::tempdir().expect("folder");
        let engine = dir.path().join("engine");
        let reopened = || EngineMark::open(&engine).expect("opens");
        let (mark, before) = reopened();
        assert_eq!(before, Before::Never);
        mark.opened().expect("writes");
        fs::create_dir(&engine).expect("folder");
        drop(mark);
        let (mark, before) = reopened();
        // Where the kernel has no boot id, the end of a process can't be told from that of the machine.
        assert_eq!(before, if mark.boot.is_some() { Before::Whole } else { Before::PowerLost });
        drop(mark);
        fs::write(engine.with_extension("mark"), "format 1\nopen in boot another\n").expect("writes");
        let (mark, before) = reopened();
        assert_eq!(before, Before::PowerLost);
        mark.closed().expect("writes");
        drop(mark);
        assert_eq!(reopened().1, Before::Whole);
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let engine = dir.path().join("engine");
        for (mark, found) in [
            ("format 4\nclosed\n", "format 4,"),
            ("format 0\n", "format 0,"),
            ("format 11\n", "format 11,"),
            ("\0", "unknown"),
        ] {
            fs::write(engine.with_extension("mark"), mark).expect("writes");
            let error = EngineMark::open(&engine).err().expect("refused").to_string();
            assert!(error.contains(found) && error.contains("reads formats up to 3"), "{error}");
        }
        fs::remove_file(engine.with_extension("mark")).expect("removes");
        fs::create_dir(&engine).expect("folder");
        let error = EngineMark::open(&engine).err().expect("a folder of something else").to_string();
        assert!(error.contains("format none"), "{error}");
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let engine = dir.path().join("engine");
        let first = EngineMark::open(&engine).expect("opens");
        assert!(matches!(EngineMark::open(&engine), Err(OpenError::InUse { .. })));
        drop(first);
        EngineMark::open(&engine).expect("free again");
    }
}
