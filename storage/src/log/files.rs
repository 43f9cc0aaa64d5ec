//! The files of the log, as raft-engine sees them: while one of them can't be read, none is cut off.
//!
//! At its opening raft-engine takes everything that it can't read at the end of the last file for a torn write, and cuts it off. If the
//! disk fails for a moment, that would be what was acknowledged.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission};

pub(super) type Engine = raft_engine::Engine<LogFiles>;

/// Clones share their state.
#[derive(Clone, Default)]
pub(super) struct LogFiles {
    failed: Failed,
    #[cfg(test)]
    pub(super) reads_left: Arc<Mutex<Option<usize>>>,
}

/// The first error of reading.
#[derive(Clone, Default)]
struct Failed(Arc<Mutex<Option<io::Error>>>);

impl Failed {
    fn note(&self, error: &io::Error) {
        self.0.lock().get_or_insert_with(|| copy(error));
    }

    fn check(&self) -> io::Result<()> {
        self.0.lock().as_ref().map_or(Ok(()), |error| Err(copy(error)))
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

impl LogFiles {
    /// An error if a file could not be read.
    pub(super) fn check(&self) -> io::Result<()> {
        self.failed.check()
    }
}

type SystemHandle = <DefaultFileSystem as FileSystem>::Handle;
type SystemReader = <DefaultFileSystem as FileSystem>::Reader;

pub(super) struct LogFile {
    file: Arc<SystemHandle>,
    failed: Failed,
}

impl Handle for LogFile {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.failed.check()?;
        self.file.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.file.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

pub(super) struct LogReader {
    reader: SystemReader,
    files: LogFiles,
}

impl Read for LogReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(left) = &mut *self.files.reads_left.lock() {
            let Some(rest) = left.checked_sub(1) else {
                let error = io::Error::from(rustix::io::Errno::IO);
                self.files.failed.note(&error);
                return Err(error);
            };
            *left = rest;
        }
        self.reader.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.files.failed.note(error);
            }
        })
    }
}

impl Seek for LogReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

impl FileSystem for LogFiles {
    type Handle = LogFile;
    type Reader = LogReader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<LogFile> {
        Ok(LogFile { file: DefaultFileSystem.create(path)?.into(), failed: self.failed.clone() })
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<LogFile> {
        Ok(LogFile { file: DefaultFileSystem.open(path, permission)?.into(), failed: self.failed.clone() })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<LogFile>) -> io::Result<LogReader> {
        Ok(LogReader { reader: DefaultFileSystem.new_reader(Arc::clone(&handle.file))?, files: self.clone() })
    }

    fn new_writer(&self, handle: Arc<LogFile>) -> io::Result<Self::Writer> {
        DefaultFileSystem.new_writer(Arc::clone(&handle.file))
    }
}
