//! The little that is read of EXIF, which is a TIFF file without pixels (TIFF 6.0, section 2).

use memchr::memmem;

const ORIENTATION: u16 = 0x0112;
/// Where the fields of the place are (EXIF 2.32, section 4.6.3).
const GPS: u16 = 0x8825;
const SHORT: u16 = 3;
/// Fields of one directory that are looked at: real ones have some dozens.
const FIELDS: usize = 512;
/// Most places in one file that look like the beginning of EXIF and are looked at.
const BEGINS: usize = 1024;

/// How the picture has to be turned to be seen upright, 2 to 8; `None` if it is upright or does not say.
pub(crate) fn orientation(tiff: &[u8]) -> Option<u8> {
    let file = Tiff::new(tiff)?;
    let value = file.field(ORIENTATION).filter(|field| file.u16(*field + 2) == Some(SHORT))?;
    u8::try_from(file.u16(value + 8)?).ok().filter(|value| (2..=8).contains(value))
}

/// EXIF that says nothing but this.
pub(crate) fn only_orientation(orientation: u8) -> [u8; 26] {
    let mut tiff = *b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0";
    tiff[19] = orientation;
    tiff
}

/// True if a file, or a part of it, says in EXIF or XMP where it was made. Whatever is around that does not matter.
pub fn tells_place(bytes: &[u8]) -> bool {
    let begins = [&b"II*\0"[..], b"MM\0*"];
    let in_exif = |begin: &[u8]| {
        let mut begins = memmem::find_iter(bytes, begin).take(BEGINS);
        begins.any(|at| Tiff::new(&bytes[at..]).is_some_and(|file| file.field(GPS).is_some()))
    };
    // The names of properties (XMP, part 2; IPTC photo metadata).
    let in_xmp = [&b"GPSLatitude"[..], b"LocationCreated", b"LocationShown"];
    begins.into_iter().any(in_exif) || in_xmp.into_iter().any(|name| memmem::find(bytes, name).is_some())
}

struct Tiff<'a> {
    bytes: &'a [u8],
    is_little: bool,
}

impl<'a> Tiff<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let is_little = match bytes.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        Some(Self { bytes, is_little })
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let two = self.bytes.get(at..)?.first_chunk().copied()?;
        Some(if self.is_little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let four = self.bytes.get(at..)?.first_chunk().copied()?;
        Some(if self.is_little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) })
    }

    /// Where the field with this tag begins in the first directory.
    fn field(&self, tag: u16) -> Option<usize> {
        let directory = self.u32(4)? as usize;
        let count = usize::from(self.u16(directory)?).min(FIELDS);
        (0..count).map(|number| directory + 2 + number * 12).find(|at| self.u16(*at) == Some(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for turned in 2..=8 {
            assert_eq!(orientation(&only_orientation(turned)), Some(turned));
        }
        assert_eq!(orientation(&only_orientation(1)), None, "upright");
        assert_eq!(orientation(&only_orientation(9)), None, "none that there is");
        assert!(!tells_place(&only_orientation(6)));
    }

    #[test]
    fn a_place_is_found_wherever_it_stands() {
        let little = b"II*\0\x08\0\0\0\x01\0\x25\x88\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x88\x25\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0";
        for place in [&little[..], big, b"<x exif:GPSLatitude='50'/>"] {
            assert!(tells_place(&[b"before", place, b"behind"].concat()));
            assert!(!tells_place(&place[..9]));
        }
    }

    #[test]
    fn directories_outside_of_the_file_are_none() {
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(orientation(b"MM\0*\0\0\0\x08\xff\xff"), None);
        assert!(!tells_place(b"MM\0*"));
    }
}
