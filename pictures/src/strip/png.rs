//! PNG: chunks of a length, a type, data and a checksum (PNG, third edition, section 5).

use super::{Damaged, take};
use crate::tiff;

const BEGIN: &[u8] = b"\x89PNG\r\n\x1a\n";
const KEPT: [&[u8; 4]; 20] = [
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV",
    b"cLLI", b"bKGD", b"hIST", b"pHYs", b"sPLT", b"acTL", b"fcTL", b"fdAT",
];

pub(super) fn strip(picture: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut turned = None;
    each(picture, |kind, whole| {
        if kind == b"eXIf" {
            turned = turned.or_else(|| tiff::orientation(&whole[8..whole.len() - 4]));
        }
    })?;
    let mut out = Vec::with_capacity(picture.len());
    out.extend_from_slice(BEGIN);
    each(picture, |kind, whole| {
        if KEPT.contains(&kind) {
            out.extend_from_slice(whole);
        }
        // Chunks that stand before the pixels come right behind the first one.
        if kind == b"IHDR"
            && let Some(orientation) = turned.take()
        {
            put_exif(&mut out, orientation);
        }
    })?;
    Ok(out)
}

fn put_exif(out: &mut Vec<u8>, orientation: u8) {
    let data = tiff::only_orientation(orientation);
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let checked = out.len();
    out.extend_from_slice(b"eXIf");
    out.extend_from_slice(&data);
    let checksum = crc32fast::hash(&out[checked..]);
    out.extend_from_slice(&checksum.to_be_bytes());
}

/// Type and whole of each chunk, up to the end of the picture.
fn each<'a>(picture: &'a [u8], mut chunk: impl FnMut(&'a [u8; 4], &'a [u8])) -> Result<(), Damaged> {
    let mut rest = picture.strip_prefix(BEGIN).ok_or(Damaged)?;
    loop {
        let [a, b, c, d, kind @ ..] = rest.first_chunk::<8>().ok_or(Damaged)?;
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let whole = take(&mut rest, length.checked_add(12).ok_or(Damaged)?)?;
        let kind = kind.first_chunk().ok_or(Damaged)?;
        chunk(kind, whole);
        if kind == b"IEND" {
            return Ok(());
        }
    }
}
