//! Films and recordings in boxes (ISO/IEC 14496-12; QuickTime File Format). What they tell of their place is overwritten where it stands, so that
//! every other byte stays at its position, on which the tables of such a file rely.

use memchr::memmem;

use crate::{Damaged, tells_place};

/// Size and kind.
const HEAD_BYTES: usize = 8;
/// Bytes of a box's header with a size of 64 bits.
const LARGE_HEAD_BYTES: usize = 16;
/// Boxes of one file that are searched for EXIF and XMP; real ones have some dozens.
const LOOKS: usize = 256;
/// Kinds that are a place in user data: of QuickTime, of 3GPP (TS 26.244, section 8.2), and the telemetry of a camera.
const PLACES: [&[u8; 4]; 3] = [b"\xa9xyz", b"loci", b"GPMF"];

/// The beginning of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxHead {
    pub kind: [u8; 4],
    /// With the head; `None`: up to the end of the file.
    pub size_bytes: Option<u64>,
    head_bytes: usize,
}

impl BoxHead {
    /// Bytes that a head has at most.
    pub const MAX_BYTES: usize = LARGE_HEAD_BYTES;

    /// Reads it from the first bytes of a box.
    pub fn read(first: &[u8]) -> Result<Self, Damaged> {
        let (size, rest) = first.split_first_chunk().ok_or(Damaged)?;
        let (kind, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (size_bytes, head_bytes) = match u32::from_be_bytes(*size) {
            0 => (None, HEAD_BYTES),
            1 => {
                let size = rest.first_chunk().ok_or(Damaged)?;
                (Some(u64::from_be_bytes(*size)), LARGE_HEAD_BYTES)
            }
            size => (Some(size.into()), HEAD_BYTES),
        };
        if size_bytes.is_some_and(|size| size < head_bytes as u64) {
            return Err(Damaged);
        }
        Ok(Self { kind: *kind, size_bytes, head_bytes })
    }

    /// True for a box of the file itself that may tell a place, and is not large.
    pub fn may_tell_place(&self) -> bool {
        matches!(&self.kind, b"moov" | b"udta" | b"meta" | b"uuid")
    }
}

/// True if a file that begins like this consists of boxes.
pub fn is_in_boxes(first: &[u8]) -> bool {
    let kinds = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"];
    BoxHead::read(first).is_ok_and(|head| kinds.contains(&&head.kind))
}

/// Overwrites what a box of the file itself tells of the place; true if there was something.
///
/// Takes time for each byte, and some memory for each key.
pub fn forget_place(one: &mut [u8]) -> Result<bool, Damaged> {
    let mut walk = Walk { looks: LOOKS };
    children(one, &mut |head, one| walk.file(head, one))
}

/// True if a file that can't be looked through, or a part of it, seems to say where it was made.
pub fn seems_to_tell_place(bytes: &[u8]) -> bool {
    let names = [&b"\xa9xyz"[..], b"com.apple.quicktime.location"];
    tells_place(bytes) || names.into_iter().any(|name| memmem::find(bytes, name).is_some())
}

struct Walk {
    /// Number of boxes that may still be searched for EXIF and XMP.
    looks: usize,
}

impl Walk {
    // One function for each level: a file decides how deep its boxes are, and must not decide how deep the stack gets.

    fn file(&mut self, head: BoxHead, one: &mut [u8]) -> Result<bool, Damaged> {
        match &head.kind {
            b"moov" => children(&mut one[head.head_bytes..], &mut |head, one| self.movie(head, one)),
            _ => self.described(head, one),
        }
    }

    fn movie(&mut self, head: BoxHead, one: &mut [u8]) -> Result<bool, Damaged> {
        match &head.kind {
            b"trak" => children(&mut one[head.head_bytes..], &mut |head, one| self.described(head, one)),
            _ => self.described(head, one),
        }
    }

    /// Walks a box that describes the file, the film or one of its tracks.
    fn described(&mut self, head: BoxHead, one: &mut [u8]) -> Result<bool, Damaged> {
        let within = &mut one[head.head_bytes..];
        match &head.kind {
            b"udta" => children(within, &mut |head, one| self.user_data(head, one)),
            b"meta" => self.meta(within),
            b"uuid" => self.empties_if_it_tells(head, one),
            // Compressed, or where no player looks for them: what they tell is not known.
            b"cmov" | b"moov" | b"trak" => Err(Damaged),
            _ => Ok(false),
        }
    }

    fn user_data(&mut self, head: BoxHead, one: &mut [u8]) -> Result<bool, Damaged> {
        match &head.kind {
            b"meta" => self.meta(&mut one[head.head_bytes..]),
            kind if PLACES.contains(&kind) => Ok(empties(head, one)),
            _ => self.empties_if_it_tells(head, one),
        }
    }

    /// `meta` of ISO begins with version and flags, that of QuickTime does not.
    fn meta(&mut self, within: &mut [u8]) -> Result<bool, Damaged> {
        let begin = if within.get(4..8) == Some(b"hdlr") { 0 } else { 4 };
        let within = within.get_mut(begin..).ok_or(Damaged)?;
        let mut places = Vec::new();
        let names = children(within, &mut |head, one| {
            if head.kind == *b"keys" {
                places.extend(forget_keys(&mut one[head.head_bytes..])?);
            }
            Ok(!places.is_empty())
        })?;
        let values = children(within, &mut |head, one| match &head.kind {
            b"ilst" => children(&mut one[head.head_bytes..], &mut |head, one| {
                let is_place = PLACES.contains(&&head.kind) || places.contains(&u32::from_be_bytes(head.kind));
                if is_place { Ok(empties(head, one)) } else { self.empties_if_it_tells(head, one) }
            }),
            b"hdlr" | b"keys" => Ok(false),
            _ => self.empties_if_it_tells(head, one),
        })?;
        Ok(names || values)
    }

    fn empties_if_it_tells(&mut self, head: BoxHead, one: &mut [u8]) -> Result<bool, Damaged> {
        self.looks = self.looks.checked_sub(1).ok_or(Damaged)?;
        Ok(tells_place(&one[head.head_bytes..]) && empties(head, one))
    }
}

/// Overwrites the names of the keys of places, such as `com.apple.quicktime.location.ISO6709`, and returns their numbers, from 1 on.
fn forget_keys(keys: &mut [u8]) -> Result<Vec<u32>, Damaged> {
    // Version, flags, and how many there are.
    let mut rest = keys.get_mut(8..).ok_or(Damaged)?;
    let mut places = Vec::new();
    for number in 1.. {
        let Some(size) = rest.first_chunk() else { break };
        let size = u32::from_be_bytes(*size) as usize;
        let (key, after) = rest.split_at_mut_checked(size).ok_or(Damaged)?;
        let name = key.get_mut(HEAD_BYTES..).ok_or(Damaged)?;
        let lower = name.to_ascii_lowercase();
        if [&b"location"[..], b"gps"].into_iter().any(|word| memmem::find(&lower, word).is_some()) {
            name.fill(b'-');
            places.push(number);
        }
        rest = after;
    }
    Ok(places)
}

type Each<'a> = dyn FnMut(BoxHead, &mut [u8]) -> Result<bool, Damaged> + 'a;

/// The results of all boxes within, taken together.
fn children(mut rest: &mut [u8], each: &mut Each<'_>) -> Result<bool, Damaged> {
    let mut changes = false;
    // QuickTime may end a list with four zero bytes.
    while rest.iter().any(|byte| *byte != 0) {
        let head = BoxHead::read(rest)?;
        let size = match head.size_bytes {
            None => rest.len(),
            Some(size) => usize::try_from(size).map_err(|_| Damaged)?,
        };
        let (one, after) = rest.split_at_mut_checked(size).ok_or(Damaged)?;
        changes |= each(head, one)?;
        rest = after;
    }
    Ok(changes)
}

/// Makes the box one that nobody reads.
fn empties(head: BoxHead, one: &mut [u8]) -> bool {
    one[4..HEAD_BYTES].copy_from_slice(b"free");
    one[head.head_bytes..].fill(0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: &[u8] = b"+52.5200+013.4050/";

    fn one(kind: &[u8; 4], within: &[&[u8]]) -> Vec<u8> {
        let within = within.concat();
        [&(within.len() as u32 + 8).to_be_bytes(), &kind[..], &within].concat()
    }

    fn keys(names: &[&str]) -> Vec<u8> {
        let mut within = [[0; 4], (names.len() as u32).to_be_bytes()].concat();
        for name in names {
            within.extend_from_slice(&(name.len() as u32 + 8).to_be_bytes());
            within.extend_from_slice(b"mdta");
            within.extend_from_slice(name.as_bytes());
        }
        one(b"keys", &[&within])
    }

    fn value(number: u32, text: &[u8]) -> Vec<u8> {
        one(&number.to_be_bytes(), &[&one(b"data", &[&[0, 0, 0, 1, 0, 0, 0, 0], text])])
    }

    /// As a phone writes it: its place in four ways, between what has to stay.
    fn moov() -> Vec<u8> {
        let names = ["com.apple.quicktime.make", "com.apple.quicktime.location.ISO6709", "com.apple.quicktime.title"];
        let items = [value(1, b"a maker"), value(2, PLACE), value(3, b"a title")].concat();
        let handler = one(b"hdlr", &[&[0; 8], b"mdta", &[0; 12]]);
        let meta = one(b"meta", &[&handler, &keys(&names), &one(b"ilst", &[&items])]);
        let of_itunes = one(b"meta", &[&[0; 4], &one(b"ilst", &[&one(b"\xa9nam", &[b"a song"])])]);
        let user_data = one(
            b"udta",
            &[&one(b"\xa9xyz", &[b"\0\x12\x15\xc7", PLACE]), &one(b"\xa9too", &[b"a tool"]), &of_itunes, &[0; 4]],
        );
        let of_track = one(b"udta", &[&one(b"loci", &[&[0; 6], PLACE])]);
        let track = one(b"trak", &[&one(b"tkhd", &[&[7; 80]]), &of_track, &one(b"mdia", &[b"tables"])]);
        let xmp = one(b"uuid", &[&[9; 16], b"<x exif:GPSLatitude='52'/>", PLACE]);
        one(b"moov", &[&one(b"mvhd", &[&[1; 100]]), &track, &user_data, &meta, &xmp])
    }

    fn has(bytes: &[u8], part: &[u8]) -> bool {
        memmem::find(bytes, part).is_some()
    }

    #[test]
    fn the_place_goes_and_everything_else_stays_where_it_was() {
        let before = moov();
        let mut after = before.clone();
        assert_eq!(forget_place(&mut after), Ok(true));
        assert_eq!(after.len(), before.len());
        assert!(has(&before, PLACE) && !has(&after, PLACE) && !seems_to_tell_place(&after));
        for stays in [&b"a maker"[..], b"a title", b"a song", b"a tool", b"tables", b"com.apple.quicktime.title"] {
            assert_eq!(memmem::find(&after, stays), memmem::find(&before, stays), "{stays:?}");
        }
        // Nothing is longer or shorter, so that others find what they look for.
        let mut kinds = Vec::new();
        children(&mut after.clone()[8..], &mut |head, _| {
            kinds.push(head.kind);
            Ok(false)
        })
        .expect("boxes");
        assert_eq!(kinds, [*b"mvhd", *b"trak", *b"udta", *b"meta", *b"free"]);
        let once = after.clone();
        assert_eq!((forget_place(&mut after), after == once), (Ok(false), true));
    }

    #[test]
    fn a_film_without_a_place_is_not_changed() {
        let before = one(b"moov", &[&one(b"mvhd", &[&[1; 100]]), &one(b"udta", &[&one(b"\xa9too", &[b"a tool"])])]);
        let mut after = before.clone();
        assert_eq!((forget_place(&mut after), after == before), (Ok(false), true));
    }

    #[test]
    fn heads_are_read_in_both_sizes() {
        let large = [&1_u32.to_be_bytes()[..], b"mdat", &5_000_000_000_u64.to_be_bytes()].concat();
        let head = BoxHead::read(&large).expect("a head");
        assert_eq!((head.kind, head.size_bytes, head.may_tell_place()), (*b"mdat", Some(5_000_000_000), false));
        assert_eq!(BoxHead::read(b"\0\0\0\0mdat").expect("a head").size_bytes, None);
        for damaged in [&b"\0\0\0\x07moov"[..], b"\0\0\0\x01moov\0\0\0\0\0\0\0\x0f", b"\0\0\0\x01moov", b"\0\0\0"] {
            assert_eq!(BoxHead::read(damaged), Err(Damaged), "{damaged:?}");
        }
        assert!(is_in_boxes(b"\0\0\0\x18ftypmp42") && !is_in_boxes(b"\x89PNG\r\n\x1a\n"));
    }

    #[test]
    fn a_box_that_is_longer_than_what_it_is_in_is_damaged() {
        let longer = one(b"udta", &[b"\0\0\0\xff\xa9xyz", PLACE]);
        assert_eq!(forget_place(&mut one(b"moov", &[&longer])), Err(Damaged));
        assert_eq!(forget_place(&mut one(b"moov", &[&one(b"cmov", &[b"compressed"])])), Err(Damaged));
    }

    #[test]
    fn boxes_within_boxes_without_end_are_damaged() {
        for kind in [b"moov", b"trak", b"udta", b"meta"] {
            let mut deep = Vec::new();
            for level in 0..200_000_u32 {
                deep.extend_from_slice(&(8 * (200_000 - level)).to_be_bytes());
                deep.extend_from_slice(kind);
            }
            let mut film = one(b"moov", &[&deep]);
            assert!(forget_place(&mut film).is_err() || !seems_to_tell_place(&film), "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_it_is_its_length_stays_and_once_is_enough(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            let mut film = moov();
            for (at, byte) in flips {
                let at = at.index(film.len());
                film[at] = byte;
            }
            let length = film.len();
            if forget_place(&mut film).is_ok() {
                prop_assert_eq!(film.len(), length);
                prop_assert_eq!(forget_place(&mut film), Ok(false));
            }
        }
    }
}
