//! The file of a bundle: tar (POSIX.1-1988 ustar) within gzip. Every text passes through the redactor.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

use crate::redact::Redactor;

const BLOCK: usize = 512;
/// The longest name that a header has room for, and the longest path before it.
const NAME: usize = 100;
const PREFIX: usize = 155;

pub(super) struct Archive {
    place: Place,
    to: GzEncoder<BufWriter<Box<dyn Write>>>,
    /// The folder in the archive.
    folder: String,
    time_s: u64,
    redactor: Redactor,
    names: Vec<String>,
}

enum Place {
    StandardOutput,
    /// Written beside its place, and put there when it is whole.
    File {
        path: PathBuf,
        unfinished: PathBuf,
        file: File,
    },
}

impl Archive {
    /// `-` is standard output. Fails if there is a file of this name.
    pub(super) fn create(path: &Path, folder: &str, time_s: u64, redactor: Redactor) -> io::Result<Self> {
        let (place, to): (_, Box<dyn Write>) = if path == Path::new("-") {
            (Place::StandardOutput, Box::new(io::stdout()))
        } else {
            let (place, file) = Place::beside(path)?;
            (place, Box::new(file))
        };
        let to = GzEncoder::new(BufWriter::new(to), Compression::default());
        Ok(Self { place, to, folder: folder.to_owned(), time_s, redactor, names: Vec::new() })
    }

    pub(super) fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.redactor.redact(text);
        let header = header(&format!("{}/{name}", self.folder), text.len() as u64, self.time_s)?;
        self.to.write_all(&header)?;
        self.to.write_all(text.as_bytes())?;
        self.to.write_all(&[0; BLOCK][..text.len().next_multiple_of(BLOCK) - text.len()])?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// The files that are in it.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        // Two empty blocks are the end.
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.finish()?.flush()?;
        match self.place {
            Place::StandardOutput => Ok(()),
            Place::File { path, unfinished, file } => {
                file.sync_all()?;
                fs::rename(unfinished, path)
            }
        }
    }
}

impl Place {
    fn beside(path: &Path) -> io::Result<(Self, File)> {
        if path.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is such a file already"));
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".part");
        let unfinished = PathBuf::from(unfinished);
        // What an interrupted attempt has left is of no use. A link or a file of another user that stands there is not written to.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let writer = file.try_clone()?;
        Ok((Self::File { path: path.to_owned(), unfinished, file }, writer))
    }
}

/// The path as a header has it: what stands before one of its slashes, unless all of it fits, and the rest.
fn in_two(path: &str) -> Option<(&str, &str)> {
    if path.len() <= NAME {
        return Some(("", path));
    }
    let mut cuts = path.match_indices('/').map(|(at, _)| (&path[..at], &path[at + 1..]));
    cuts.find(|(prefix, name)| prefix.len() <= PREFIX && name.len() <= NAME)
}

fn header(path: &str, bytes: u64, time_s: u64) -> io::Result<[u8; BLOCK]> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is too long for an archive"));
    let (prefix, name) = in_two(path).ok_or_else(too_long)?;
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{bytes:011o}\0").as_bytes());
    put(136, format!("{:011o}\0", time_s & 0o77_777_777_777).as_bytes());
    // The sum is made with blanks in its own place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_what_is_written_and_no_secret_is_in_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("bundle.tar.gz");
        let redactor = Redactor::new(["a-very-secret-text".to_owned()]);
        let mut archive = Archive::create(&path, "bundle", 1_700_000_000, redactor).expect("created");
        let long = "line\n".repeat(1000);
        archive.add("README.txt", "read me\n").expect("written");
        archive.add("nodes/storage-1/log.txt", &format!("{long}a-very-secret-text\n")).expect("written");
        archive.add("empty.txt", "").expect("written");
        let deep = format!("nodes/storage-{}/configuration.toml", "s_0.storage.chat.svc.cluster.local_".repeat(3));
        archive.add(&deep, "deep\n").expect("written");
        assert!(archive.add(&"x".repeat(NAME + 1), "").is_err(), "no name is cut off");
        assert!(!path.exists(), "it is not whole yet");
        archive.finish().expect("written");
        let done = Command::new("tar").arg("xzf").arg(&path).current_dir(folder.path()).status().expect("tar runs");
        assert!(done.success());
        let text = |name: &str| fs::read_to_string(folder.path().join("bundle").join(name)).expect("unpacked");
        assert_eq!(text("README.txt"), "read me\n");
        assert_eq!(text("nodes/storage-1/log.txt"), format!("{long}[secret]\n"));
        assert_eq!(text("empty.txt"), "");
        assert_eq!(text(&deep), "deep\n");
        let again = Archive::create(&path, "bundle", 0, Redactor::default()).err().expect("refused");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_stands_in_the_place_of_the_unfinished_file_is_left_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, other) = (folder.path().join("bundle.tar.gz"), folder.path().join("other"));
        fs::write(&other, "mine").expect("written");
        std::os::unix::fs::symlink(&other, folder.path().join("bundle.tar.gz.part")).expect("linked");
        Archive::create(&path, "bundle", 0, Redactor::default()).expect("created").finish().expect("written");
        assert_eq!(fs::read_to_string(&other).expect("read"), "mine");
        assert!(path.exists());
    }
}
