//! WebP: chunks of RIFF (RFC 9649, section 2).

use super::{Damaged, take};
use crate::tiff;

/// Bits in the first byte of VP8X.
const HAS_EXIF: u8 = 0x08;
const HAS_XMP: u8 = 0x04;
/// Bytes in a frame of an animation before its chunks.
const FRAME_BYTES: usize = 16;

pub(super) fn strip(picture: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut rest = picture.strip_prefix(b"RIFF").ok_or(Damaged)?;
    let length = length(&mut rest)?;
    // Bytes behind the end of the file are dropped.
    let mut rest = take(&mut rest, length)?.strip_prefix(b"WEBP").ok_or(Damaged)?;
    let mut out = Vec::with_capacity(picture.len());
    out.extend_from_slice(b"RIFF\0\0\0\0WEBP");
    let (mut flags, mut turned) = (None, None);
    while !rest.is_empty() {
        let (kind, data) = chunk(&mut rest)?;
        match kind {
            b"VP8X" if !data.is_empty() => {
                flags.get_or_insert(out.len() + 8);
                put(&mut out, kind, data);
            }
            b"VP8 " | b"VP8L" | b"ALPH" | b"ICCP" | b"ANIM" => put(&mut out, kind, data),
            b"ANMF" => put_frame(&mut out, data)?,
            b"EXIF" => turned = turned.or_else(|| tiff::orientation(data.strip_prefix(b"Exif\0\0").unwrap_or(data))),
            _ => {}
        }
    }
    if let Some(flags) = flags.and_then(|at| out.get_mut(at)) {
        *flags &= !(HAS_EXIF | HAS_XMP);
        if let Some(orientation) = turned {
            *flags |= HAS_EXIF;
            put(&mut out, b"EXIF", &tiff::only_orientation(orientation));
        }
    }
    put_length(&mut out, 4);
    Ok(out)
}

/// A frame, without what is none of its pixels.
fn put_frame(out: &mut Vec<u8>, mut data: &[u8]) -> Result<(), Damaged> {
    let begin = out.len();
    out.extend_from_slice(b"ANMF\0\0\0\0");
    out.extend_from_slice(take(&mut data, FRAME_BYTES)?);
    while !data.is_empty() {
        let (kind, data) = chunk(&mut data)?;
        if matches!(kind, b"ALPH" | b"VP8 " | b"VP8L") {
            put(out, kind, data);
        }
    }
    put_length(out, begin + 4);
    Ok(())
}

fn put(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    out.extend_from_slice(kind);
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out.extend_from_slice(data);
    if !data.len().is_multiple_of(2) {
        out.push(0);
    }
}

/// Writes how many bytes stand behind these four.
fn put_length(out: &mut [u8], at: usize) {
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn chunk<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8; 4], &'a [u8]), Damaged> {
    let kind = take(rest, 4)?.first_chunk().ok_or(Damaged)?;
    let length = length(rest)?;
    let data = take(rest, length)?;
    if !length.is_multiple_of(2) {
        // The last one may lack it.
        *rest = rest.get(1..).unwrap_or_default();
    }
    Ok((kind, data))
}

fn length(rest: &mut &[u8]) -> Result<usize, Damaged> {
    let bytes = take(rest, 4)?.first_chunk().ok_or(Damaged)?;
    Ok(u32::from_le_bytes(*bytes) as usize)
}
