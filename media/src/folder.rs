//! A folder as the place for files. Its chunks are files, which the kernel sends to a socket and fills from a pipe without this program seeing
//! the bytes.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    ops::Range,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use carillon_proto::MediaId;
use rustix::{
    fs::OFlags,
    io::Errno,
    pipe::{SpliceFlags, splice},
};

use crate::{
    files::{CHUNK_BYTES, FilesError, Version, chunk_name, folder_names},
    threads::Threads,
};

/// A file that is there while the folder is: a share that is not mounted leaves an empty folder behind.
pub(crate) const MARK: &str = "carillon-media";
const ABOUT_MARK: &str = "Carillon keeps files of messages in this folder. While this file is missing, it takes the folder for one that is away, \
                          such as a share that is not mounted.\n";
const NO_LINKS: i32 = OFlags::NOFOLLOW.bits() as i32;
/// Bytes of two files that are compared at once.
const COMPARED: u64 = 128 * 1024;
/// Attempts to make a folder that others remove meanwhile, since it was empty.
const MADE_ANEW: usize = 8;

/// Cheap to clone.
#[derive(Clone)]
pub struct Folder {
    path: Arc<Path>,
    threads: Arc<Threads>,
}

/// Bytes of one chunk. Whoever reads them may wait for the disk.
#[derive(Debug)]
pub struct OpenChunk {
    pub file: File,
    /// In the file.
    pub range: Range<u64>,
}

/// A chunk that grows until it is whole, and is seen by nobody before. It is removed when this is dropped.
#[derive(Debug)]
pub struct NewChunk {
    folder: Folder,
    file: File,
    growing: PathBuf,
    place: PathBuf,
    written: u64,
    size_bytes: u64,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl Folder {
    /// A missing folder is made, for its owner alone.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mark = path.join(MARK);
        if !mark.try_exists()? {
            fs::write(&mark, ABOUT_MARK)?;
        }
        Ok(Self { path: path.into(), threads: Arc::new(Threads::new()?) })
    }

    /// Does work that may wait for the disk, on one of a few threads for such work. It gets its turn at once, and goes on if nobody waits for it
    /// any more.
    pub fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, FilesError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Self) -> Result<T, FilesError> + Send + 'static,
    {
        let this = self.clone();
        self.threads.run(move || work(&this))
    }

    /// True if other work waits for a thread. Whoever has one and waits for something else than the disk gives it back.
    pub fn lacks_threads(&self) -> bool {
        self.threads.are_awaited()
    }

    /// Opens a chunk for the bytes from the beginning of this range up to the end of the range or of the chunk. Only for a thread that may wait
    /// for the disk.
    pub fn open_chunk(&self, id: &MediaId, version: Version, range: Range<u64>) -> Result<OpenChunk, FilesError> {
        let number = range.start / CHUNK_BYTES;
        let begin = number * CHUNK_BYTES;
        let path = self.of_file(id).join(chunk_name(version, number));
        // A link could lead out of the folder.
        let file = match OpenOptions::new().read(true).custom_flags(NO_LINKS).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.is_there()?;
                return Err(FilesError::NotFound);
            }
            file => file?,
        };
        let within = range.start - begin..(range.end - begin).min(file.metadata()?.len()).min(CHUNK_BYTES);
        if within.is_empty() { Err(FilesError::NotFound) } else { Ok(OpenChunk { file, range: within }) }
    }

    /// Begins a chunk of an upload that will have this size.
    pub async fn new_chunk(&self, id: MediaId, number: u64, size_bytes: u64) -> Result<NewChunk, FilesError> {
        self.run(move |this| this.begin(&id, Version::Uploaded, number, size_bytes)).await
    }

    pub(crate) async fn put_chunk(
        &self,
        id: MediaId,
        version: Version,
        number: u64,
        bytes: Bytes,
    ) -> Result<(), FilesError> {
        self.run(move |this| {
            let mut chunk = this.begin(&id, version, number, bytes.len() as u64)?;
            chunk.append(&bytes)?;
            chunk.publish()
        })
        .await
    }

    pub(crate) async fn replace_chunk(&self, id: MediaId, number: u64, bytes: Bytes) -> Result<(), FilesError> {
        self.run(move |this| {
            let mut chunk = this.begin(&id, Version::Uploaded, number, bytes.len() as u64)?;
            chunk.append(&bytes)?;
            chunk.replace()
        })
        .await
    }

    pub(crate) async fn read(&self, id: MediaId, version: Version, range: Range<u64>) -> Result<Bytes, FilesError> {
        self.run(move |this| {
            let OpenChunk { file, range } = this.open_chunk(&id, version, range)?;
            let mut bytes = BytesMut::zeroed((range.end - range.start) as usize);
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes.freeze())
        })
        .await
    }

    /// Names and sizes of a file's chunks.
    pub(crate) async fn list(&self, id: MediaId) -> Result<Vec<(String, u64)>, FilesError> {
        self.run(move |this| {
            this.is_there()?;
            let entries = match fs::read_dir(this.of_file(&id)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut chunks = Vec::new();
            for entry in entries {
                let entry = entry?;
                match entry.metadata() {
                    // A chunk that grows has got its name.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    found => chunks.push((entry.file_name().to_string_lossy().into_owned(), found?.len())),
                }
            }
            Ok(chunks)
        })
        .await
    }

    /// Removes the chunks with such names, also those that have never become whole, whose names have `#` and a number behind.
    pub(crate) async fn remove(
        &self,
        id: MediaId,
        which: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), FilesError> {
        self.run(move |this| {
            this.is_there()?;
            let folder = this.of_file(&id);
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if which(name.split_once('#').map_or(&name, |(name, _)| name)) {
                    gone(fs::remove_file(entry.path()))?;
                }
            }
            // Folders with something in them stay.
            let _ = fs::remove_dir(&folder);
            let _ = folder.parent().map(fs::remove_dir);
            Ok(())
        })
        .await
    }

    /// An error if the folder is not the one that it was.
    fn is_there(&self) -> Result<(), FilesError> {
        if self.path.join(MARK).try_exists()? { Ok(()) } else { Err(FilesError::Away) }
    }

    fn of_file(&self, id: &MediaId) -> PathBuf {
        let [shard, name] = folder_names(id);
        self.path.join(shard).join(name)
    }

    fn begin(&self, id: &MediaId, version: Version, number: u64, size_bytes: u64) -> Result<NewChunk, FilesError> {
        self.is_there()?;
        let folder = self.of_file(id);
        let place = folder.join(chunk_name(version, number));
        let (mut attempt, mut made) = (1, 0);
        loop {
            let growing = folder.join(format!("{}#{attempt}", chunk_name(version, number)));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&growing) {
                Ok(file) => {
                    return Ok(NewChunk { folder: self.clone(), file, growing, place, written: 0, size_bytes });
                }
                // Another attempt of the same upload, or one of a process that has ended.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound && made < MADE_ANEW => {
                    made += 1;
                    self.make(&folder)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes the folder of a file, so that it is still there after a loss of power.
    fn make(&self, folder: &Path) -> Result<(), FilesError> {
        // Not the place itself, if that is away.
        self.is_there()?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        for changed in folder.ancestors().skip(1).take(2) {
            match sync(changed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
        Ok(())
    }
}

impl NewChunk {
    pub fn missing_bytes(&self) -> u64 {
        self.size_bytes - self.written
    }

    /// Appends these bytes, of which there are not more than are missing.
    pub async fn write(mut self, bytes: Bytes) -> Result<Self, FilesError> {
        let folder = self.folder.clone();
        folder.run(move |_| self.append(&bytes).map(|()| self)).await
    }

    /// Appends so many bytes that are in the pipe.
    pub async fn write_from(mut self, pipe: Arc<OwnedFd>, count: usize) -> Result<Self, FilesError> {
        let folder = self.folder.clone();
        folder.run(move |_| self.append_from(&pipe, count).map(|()| self)).await
    }

    /// Gives the chunk its name, unless it is there. When the result comes, it is where nothing is lost. The work begins at once.
    pub fn finish(self) -> impl Future<Output = Result<(), FilesError>> + Send + 'static {
        let folder = self.folder.clone();
        folder.run(move |_| self.publish())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn append_from(&mut self, pipe: &OwnedFd, mut count: usize) -> Result<(), FilesError> {
        while count > 0 {
            match splice(pipe, None, &self.file, Some(&mut self.written), count, SpliceFlags::MOVE) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(moved) => count -= moved,
                Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    fn replace(self) -> Result<(), FilesError> {
        match fs::symlink_metadata(&self.place) {
            Ok(there) if there.len() == self.size_bytes => {}
            Ok(_) => return Err(FilesError::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FilesError::NotFound),
            Err(error) => return Err(error.into()),
        }
        self.file.sync_data()?;
        fs::rename(&self.growing, &self.place)?;
        sync(self.place.parent().unwrap_or(Path::new("/")))?;
        Ok(())
    }

    fn publish(self) -> Result<(), FilesError> {
        if self.missing_bytes() > 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.file.sync_data()?;
        match fs::hard_link(&self.growing, &self.place) {
            // An earlier attempt of the same upload.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A link could lead out of the folder.
                if !fs::symlink_metadata(&self.place)?.is_file() {
                    return Err(FilesError::Other);
                }
                let kept = OpenOptions::new().read(true).custom_flags(NO_LINKS).open(&self.place)?;
                if !has_same_bytes(&self.file, &kept, self.size_bytes)? {
                    return Err(FilesError::Other);
                }
            }
            linked => linked?,
        }
        sync(self.place.parent().unwrap_or(Path::new("/")))?;
        Ok(())
    }
}

impl Drop for NewChunk {
    fn drop(&mut self) {
        // A whole chunk has another name by now. What stays goes with the file.
        let _ = fs::remove_file(&self.growing);
    }
}

/// True if both files have this length and the same bytes.
fn has_same_bytes(one: &File, other: &File, size_bytes: u64) -> io::Result<bool> {
    if other.metadata()?.len() != size_bytes {
        return Ok(false);
    }
    let mut pieces = [vec![0; COMPARED as usize], vec![0; COMPARED as usize]];
    for begin in (0..size_bytes).step_by(COMPARED as usize) {
        let length = COMPARED.min(size_bytes - begin) as usize;
        for (file, piece) in [one, other].into_iter().zip(&mut pieces) {
            file.read_exact_at(&mut piece[..length], begin)?;
        }
        if pieces[0][..length] != pieces[1][..length] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Files;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn a_link_is_no_chunk() {
        let (place, elsewhere) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let secret = elsewhere.path().join("secret");
        fs::write(&secret, "secret").expect("writes");
        let files = Files::in_folder(place.path()).expect("opens");
        let (folder, id) = (files.folder().expect("a folder"), MediaId::new(3, [1; 14]));
        let of_file = folder.of_file(&id);
        fs::create_dir_all(&of_file).expect("made");
        symlink(&secret, of_file.join("000000")).expect("linked");
        files.read(&id, Version::Uploaded, 0..6).await.expect_err("leads out of the folder");
        folder.open_chunk(&id, Version::Uploaded, 0..6).expect_err("leads out of the folder");
        let put = files.put_chunk(&id, Version::Uploaded, 0, Bytes::from_static(b"public")).await;
        assert!(matches!(put, Err(FilesError::Other)), "{put:?}");
        files.replace_chunk(&id, 0, Bytes::from_static(b"public")).await.expect_err("is none");
        assert_eq!(fs::read(&secret).expect("reads"), b"secret");
    }
}
