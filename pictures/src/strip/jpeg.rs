//! JPEG: segments that begin with a marker (ITU-T T.81, appendix B).

use memchr::memchr;

use super::{Damaged, take};
use crate::tiff;

const END: u8 = 0xd9;
const SCAN: u8 = 0xda;
const EXIF: &[u8] = b"Exif\0\0";
/// Of a JFIF segment without a picture within.
const JFIF_BYTES: usize = 14;

struct Segment<'a> {
    marker: u8,
    /// Behind the length.
    contents: &'a [u8],
    /// Of a scan: the encoded pixels.
    pixels: &'a [u8],
}

pub(super) fn strip(picture: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut turned = None;
    each(picture, |segment| {
        let exif = segment.contents.strip_prefix(EXIF).filter(|_| segment.marker == 0xe1);
        turned = turned.or_else(|| exif.and_then(tiff::orientation));
    })?;
    let mut out = Vec::with_capacity(picture.len());
    out.extend_from_slice(b"\xff\xd8");
    each(picture, |segment| {
        let Some(kept) = kept(&segment) else { return };
        // A JFIF segment is the first one.
        if segment.marker != 0xe0
            && let Some(orientation) = turned.take()
        {
            put(&mut out, 0xe1, &[EXIF, &tiff::only_orientation(orientation)]);
        }
        put(&mut out, segment.marker, &kept);
        out.extend_from_slice(segment.pixels);
    })?;
    out.extend_from_slice(&[0xff, END]);
    Ok(out)
}

/// The parts of the segment's contents that are kept; `None`: nothing of it.
fn kept<'a>(segment: &Segment<'a>) -> Option<[&'a [u8]; 2]> {
    let contents = segment.contents;
    let is_kept = match segment.marker {
        // The picture within goes.
        0xe0 if contents.starts_with(b"JFIF\0") && contents.len() >= JFIF_BYTES => {
            return Some([&contents[..JFIF_BYTES - 2], b"\0\0"]);
        }
        0xe2 => contents.starts_with(b"ICC_PROFILE\0"),
        // Without it the colours would be others.
        0xee => contents.starts_with(b"Adobe") && contents.len() <= 12,
        // Frames, tables and scans.
        0xc0..=0xcf | 0xda..=0xdf => true,
        _ => false,
    };
    is_kept.then_some([contents, b""])
}

fn put(out: &mut Vec<u8>, marker: u8, contents: &[&[u8]; 2]) {
    let [first, second] = contents;
    // Never longer than the segment that it is made of.
    let length = (first.len() + second.len() + 2) as u16;
    out.extend_from_slice(&[0xff, marker]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(first);
    out.extend_from_slice(second);
}

/// Up to the end of the picture, or of the file if it ends within a scan: decoders show as much as there is.
fn each<'a>(picture: &'a [u8], mut segment: impl FnMut(Segment<'a>)) -> Result<(), Damaged> {
    let mut rest = picture.strip_prefix(b"\xff\xd8").ok_or(Damaged)?;
    let mut has_pixels = false;
    loop {
        // Decoders skip what is no marker.
        let Some(at) = memchr(0xff, rest) else { return if has_pixels { Ok(()) } else { Err(Damaged) } };
        rest = &rest[at..];
        while let [0xff, 0xff, ..] = rest {
            rest = &rest[1..];
        }
        match rest {
            [_, END, ..] if has_pixels => return Ok(()),
            [_, END, ..] => return Err(Damaged),
            // Filling, and markers without contents.
            [_, 0x00 | 0x01 | 0xd0..=0xd8, after @ ..] => rest = after,
            [_, marker, after @ ..] => {
                rest = after;
                let contents = contents(&mut rest)?;
                let pixels = if *marker == SCAN { pixels(&mut rest) } else { b"" };
                has_pixels |= *marker == SCAN;
                segment(Segment { marker: *marker, contents, pixels });
            }
            _ => rest = b"",
        }
    }
}

fn contents<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Damaged> {
    let length = take(rest, 2)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    take(rest, length.checked_sub(2).ok_or(Damaged)?)
}

/// Up to the next marker that does not belong to the pixels.
fn pixels<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let ends = |at: &usize| !matches!(rest.get(at + 1), Some(0x00 | 0xd0..=0xd7));
    let end = memchr::memchr_iter(0xff, rest).find(ends).unwrap_or(rest.len());
    let (pixels, after) = rest.split_at(end);
    *rest = after;
    pixels
}
