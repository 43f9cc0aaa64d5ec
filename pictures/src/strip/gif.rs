//! GIF: blocks of sub-blocks (GIF89a, sections 15 to 27).

use super::{Damaged, take};

const IMAGE: u8 = 0x2c;
const EXTENSION: u8 = 0x21;
const END: u8 = 0x3b;
/// How long, and over what, a picture of an animation is shown.
const CONTROL: u8 = 0xf9;
const APPLICATION: u8 = 0xff;
/// Applications whose extensions say how often an animation is repeated, in few bytes.
const REPETITIONS: [&[u8]; 2] = [b"\x0bNETSCAPE2.0", b"\x0bANIMEXTS1.0"];
const REPETITIONS_BYTES: usize = 24;
const PROFILE: &[u8] = b"\x0bICCRGBG1012";

pub(super) fn strip(picture: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut rest = picture;
    let head = take(&mut rest, 13)?;
    if !head.starts_with(b"GIF") {
        return Err(Damaged);
    }
    let colours = take(&mut rest, table_bytes(head[10]))?;
    let mut out = Vec::with_capacity(picture.len());
    out.extend_from_slice(head);
    out.extend_from_slice(colours);
    loop {
        let before = rest;
        match take(&mut rest, 1)?[0] {
            IMAGE => {
                let image = take(&mut rest, 9)?;
                // With the size of the codes.
                take(&mut rest, table_bytes(image[8]) + 1)?;
                skip_blocks(&mut rest)?;
                out.extend_from_slice(&before[..before.len() - rest.len()]);
            }
            EXTENSION => {
                let label = take(&mut rest, 1)?[0];
                let blocks = rest;
                skip_blocks(&mut rest)?;
                if is_kept(label, &blocks[..blocks.len() - rest.len()]) {
                    out.extend_from_slice(&before[..before.len() - rest.len()]);
                }
            }
            END => {
                out.push(END);
                return Ok(out);
            }
            _ => return Err(Damaged),
        }
    }
}

fn is_kept(label: u8, blocks: &[u8]) -> bool {
    let repeats = |blocks: &[u8]| REPETITIONS.iter().any(|application| blocks.starts_with(application));
    match label {
        CONTROL => true,
        APPLICATION => blocks.starts_with(PROFILE) || blocks.len() <= REPETITIONS_BYTES && repeats(blocks),
        _ => false,
    }
}

/// Of the table of colours that these flags tell of.
fn table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn skip_blocks(rest: &mut &[u8]) -> Result<(), Damaged> {
    while let length @ 1.. = take(rest, 1)?[0] {
        take(rest, length.into())?;
    }
    Ok(())
}
