//! Numbers of bytes.

use std::{fmt, fs, io, os::unix::fs::MetadataExt as _, path::Path, str::FromStr};

/// A number of bytes, written as `500k`, `200m` or `5g`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(super) struct Size(pub(super) u64);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of bytes: 500k, 200m and 5g are")]
pub(super) struct NoSize(String);

const UNITS: [(&str, u64); 4] = [("", 1), ("k", 1000), ("m", 1_000_000), ("g", 1_000_000_000)];

impl FromStr for Size {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = UNITS.iter().find(|(name, _)| text[digits.len()..].eq_ignore_ascii_case(name));
        let bytes = unit.and_then(|(_, unit)| digits.parse::<u64>().ok()?.checked_mul(*unit));
        bytes.map(Self).ok_or_else(|| NoSize(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ ..1_000_000 => write!(f, "{:.1} kB", bytes as f64 / 1e3),
            bytes @ ..1_000_000_000 => write!(f, "{:.1} MB", bytes as f64 / 1e6),
            bytes => write!(f, "{:.2} GB", bytes as f64 / 1e9),
        }
    }
}

/// The space that a folder takes on its disk: files may have room in them that nothing was written to. 0 if there is no such folder.
pub(super) fn on_disk(folder: &Path) -> io::Result<Size> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(folder) {
        Err(error) if missing(&error) => return Ok(Size(0)),
        entries => entries?,
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        // A file may be deleted meanwhile.
        match entry.metadata() {
            Err(error) if missing(&error) => {}
            Ok(metadata) if metadata.is_dir() => bytes += on_disk(&entry.path())?.0,
            metadata => bytes += metadata?.blocks() * 512,
        }
    }
    Ok(Size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        let of = |text: &str| text.parse::<Size>().ok();
        assert_eq!(of("5g"), Some(Size(5_000_000_000)));
        assert_eq!(of("200M"), Some(Size(200_000_000)));
        assert_eq!(of("17"), Some(Size(17)));
        for wrong in ["", "g", "5t", "-1", "1.5g", "99999999999g"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_is_written_takes_space() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join("inner")).expect("made");
        fs::write(folder.path().join("inner/written"), vec![7; 100_000]).expect("written");
        fs::File::create(folder.path().join("room")).and_then(|file| file.set_len(50_000_000)).expect("made");
        let Size(bytes) = on_disk(folder.path()).expect("measured");
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        assert_eq!(on_disk(&folder.path().join("none")).expect("nothing"), Size(0));
    }
}
