//! The process that decodes a picture of which nothing is known: it gets the picture on its standard input, gives back what it has seen on its
//! standard output, and may do nothing else.
//!
//! The child writes: width and height as u32, the length of the preview as u16, each big-endian, and the preview. If it ends after the first
//! two, it had no time or memory for more, or the picture is damaged.

use std::{
    fs,
    io::{self, Read, Write},
};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{MAX_BYTES, open};
use crate::Format;

/// Most bytes that the process writes.
pub const MAX_OUTPUT_BYTES: usize = SIZE_BYTES + 2 + MAX_BYTES;
const SIZE_BYTES: usize = 8;

/// Size and preview of a picture.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Pixels, as it is seen: upright. 0: unknown.
    pub width: u32,
    pub height: u32,
    /// A JPEG of at most [`MAX_BYTES`]; empty: there is none.
    pub preview: Vec<u8>,
}

/// Bounds of the process.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Beside the program itself.
    pub memory_bytes: u64,
    pub cpu_s: u64,
}

impl Seen {
    /// From what the process has written.
    pub fn parse(output: &[u8]) -> Option<Self> {
        let (size, rest) = output.split_first_chunk::<SIZE_BYTES>()?;
        let [width, height] =
            [&size[..4], &size[4..]].map(|four| four.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
        let preview = rest.split_first_chunk().filter(|(length, preview)| {
            let length = usize::from(u16::from_be_bytes(**length));
            length == preview.len() && length <= MAX_BYTES
        });
        Some(Self { width, height, preview: preview.map(|(_, preview)| preview.to_vec()).unwrap_or_default() })
    }
}

/// Decodes the picture. Call it first in the process, which ends with it: from here on the process opens no files and starts no others.
pub fn run(format: Format, bounds: Bounds) -> io::Result<()> {
    confine(bounds)?;
    look(format, bounds.memory_bytes / 2, &mut io::stdin().lock(), &mut io::stdout().lock())
}

fn look(format: Format, most_pixel_bytes: u64, input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut picture = Vec::new();
    input.read_to_end(&mut picture)?;
    let opened = open(format, &picture).map_err(io::Error::other)?;
    output.write_all(&[opened.width.to_be_bytes(), opened.height.to_be_bytes()].concat())?;
    output.flush()?;
    let preview = opened.preview(most_pixel_bytes).map_err(io::Error::other)?;
    let length = u16::try_from(preview.len()).map_err(io::Error::other)?;
    output.write_all(&length.to_be_bytes())?;
    output.write_all(&preview)?;
    output.flush()
}

fn confine(bounds: Bounds) -> io::Result<()> {
    // When a machine has no memory left, it is to be taken from here. Systems without that go on without.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let limits = [
        (Resource::As, mapped_bytes()?.saturating_add(bounds.memory_bytes)),
        (Resource::Cpu, bounds.cpu_s),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        // Files that are open already stay open.
        (Resource::Nofile, 3),
    ];
    for (resource, most) in limits {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// Of the program and what it is made of.
fn mapped_bytes() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB"));
    let kib = line.and_then(|kib| kib.trim().parse::<u64>().ok());
    Ok(kib.ok_or_else(|| io::Error::other("/proc/self/status does not say how large the process is"))? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_preview_is_one() {
        let size = [0, 0, 1, 2, 0, 0, 0, 7];
        let seen = |preview: &[u8]| Seen { width: 258, height: 7, preview: preview.to_vec() };
        assert_eq!(Seen::parse(&size), Some(seen(b"")));
        assert_eq!(Seen::parse(&[&size[..], &[0, 3], b"jpg"].concat()), Some(seen(b"jpg")));
        for cut in [&[0][..], &[0, 3], &[0, 3, b'j', b'p'], &[0, 1, b'j', b'p']] {
            assert_eq!(Seen::parse(&[&size[..], cut].concat()), Some(seen(b"")), "{cut:?}");
        }
        assert_eq!(Seen::parse(&size[..7]), None);
        let long = [&size[..], &[0x40, 1], &vec![0; MAX_BYTES + 1]].concat();
        assert_eq!(Seen::parse(&long), Some(seen(b"")), "longer than messages may have");
    }
}
