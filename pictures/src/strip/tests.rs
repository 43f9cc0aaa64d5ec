use std::io::Cursor;

use image::{DynamicImage, ImageFormat, ImageReader, RgbImage};
use proptest::prelude::*;

use super::*;
use crate::{tells_place, tiff};

const ALL: [(Format, ImageFormat); 4] = [
    (Format::Jpeg, ImageFormat::Jpeg),
    (Format::Png, ImageFormat::Png),
    (Format::Webp, ImageFormat::WebP),
    (Format::Gif, ImageFormat::Gif),
];
/// Nothing of a stripped file has this.
const SECRET: &[u8] = b"xmp:GPSLatitude=52.5 SECRET";

fn picture(format: ImageFormat) -> Vec<u8> {
    let pixels = RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, 128]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(pixels).write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

fn pixels(format: ImageFormat, picture: &[u8]) -> DynamicImage {
    ImageReader::with_format(Cursor::new(picture), format).decode().expect("decodes")
}

/// EXIF with an orientation, and with a place.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif =
        b"MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x88\x25\0\x04\0\0\0\x01\0\0\0\x26\0\0\0\0".to_vec();
    exif[19] = orientation;
    exif.extend_from_slice(b"\0\x01\0\x02\0\x05\0\0\0\x03SECRET");
    exif
}

fn segment(marker: u8, contents: &[u8]) -> Vec<u8> {
    [&[0xff, marker], &(contents.len() as u16 + 2).to_be_bytes()[..], contents].concat()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    [&(data.len() as u32).to_be_bytes(), &*body, &crc32fast::hash(&body).to_be_bytes()].concat()
}

fn riff(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let fill: &[u8] = if data.len().is_multiple_of(2) { b"" } else { b"\0" };
    [kind, &(data.len() as u32).to_le_bytes()[..], data, fill].concat()
}

/// The picture with all that a file of its format may tell beside it.
fn telling(format: Format) -> Vec<u8> {
    let exif = exif(6);
    match format {
        Format::Jpeg => {
            let jpeg = picture(ImageFormat::Jpeg);
            // A JFIF segment comes first; behind it and within the scan's tables there may be anything.
            let first = 4 + usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]])) - 2 + 2;
            let xmp = [b"http://ns.adobe.com/xap/1.0/\0", SECRET].concat();
            let iptc = [b"Photoshop 3.0\08BIM", SECRET].concat();
            let told = [
                segment(0xe1, &[b"Exif\0\0", &*exif].concat()),
                segment(0xe1, &xmp),
                segment(0xed, &iptc),
                segment(0xfe, SECRET),
                segment(0xe2, &[b"MPF\0", SECRET].concat()),
                segment(0xe5, SECRET),
            ];
            [&jpeg[..first], &told.concat(), &jpeg[first..], b"ftypmp42", SECRET].concat()
        }
        Format::Png => {
            let png = picture(ImageFormat::Png);
            let told = [
                chunk(b"tEXt", SECRET),
                chunk(b"iTXt", SECRET),
                chunk(b"zTXt", SECRET),
                chunk(b"tIME", b"1234567"),
                chunk(b"caBX", SECRET),
            ];
            let end = png.len() - 12;
            [&png[..33], &told.concat(), &png[33..end], &chunk(b"eXIf", &exif), &png[end..], SECRET].concat()
        }
        Format::Webp => {
            let webp = picture(ImageFormat::WebP);
            // Flags, and the sides but one.
            let head = riff(b"VP8X", &[0x0c, 0, 0, 0, 39, 0, 0, 29, 0, 0]);
            let told = [riff(b"EXIF", &exif), riff(b"XMP ", SECRET), riff(b"NOTE", SECRET)].concat();
            let body = [b"WEBP", &*head, &webp[12..], &told].concat();
            [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body, SECRET].concat()
        }
        Format::Gif => {
            let gif = picture(ImageFormat::Gif);
            let table = if gif[10] & 0x80 == 0 { 0 } else { 3 << ((gif[10] & 7) + 1) };
            let blocks = [&[SECRET.len() as u8], SECRET, &[0]].concat();
            let told = [&[0x21, 0xfe], &*blocks, &[0x21, 0xff, 11], b"XMP DataXMP", &blocks].concat();
            let repeats = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0";
            let (head, rest) = gif.split_at(13 + table);
            [head, repeats, &told, rest, SECRET].concat()
        }
    }
}

#[test]
fn nothing_is_left_but_the_pixels_and_their_orientation() {
    for (format, decoded_as) in ALL {
        let before = telling(format);
        assert!(tells_place(&before), "{format:?}");
        let after = strip(format, &before).expect("a whole picture");
        assert!(!tells_place(&after), "{format:?}");
        assert_eq!(memchr::memmem::find(&after, b"SECRET"), None, "{format:?}");
        assert_eq!(pixels(decoded_as, &after), pixels(decoded_as, &picture(decoded_as)), "{format:?}");
        assert_eq!(strip(format, &after).expect("whole"), after, "{format:?}: once is enough");
        assert_eq!(Format::of(infer_type(decoded_as)), Some(format));
    }
}

fn infer_type(format: ImageFormat) -> &'static str {
    format.to_mime_type()
}

#[test]
fn a_picture_that_lies_on_its_side_says_so_afterwards() {
    for (format, decoded_as) in ALL.into_iter().filter(|(format, _)| *format != Format::Gif) {
        let after = strip(format, &telling(format)).expect("a whole picture");
        let mut decoder = ImageReader::with_format(Cursor::new(&after), decoded_as).into_decoder().expect("opens");
        use image::ImageDecoder as _;
        let exif = decoder.exif_metadata().expect("reads").expect("there is one");
        assert_eq!(exif, tiff::only_orientation(6), "{format:?}");
    }
}

#[test]
fn a_plain_picture_stays_as_it_is() {
    for (format, decoded_as) in ALL {
        let plain = picture(decoded_as);
        assert_eq!(strip(format, &plain).expect("whole"), plain, "{format:?}");
    }
}

#[test]
fn an_animation_is_still_one() {
    use image::{
        AnimationDecoder as _, Delay, Frame,
        codecs::gif::{GifDecoder, GifEncoder, Repeat},
    };
    let frame = |shade: u8| {
        let pixels = image::RgbaImage::from_pixel(8, 8, image::Rgba([shade, 0, 0, 255]));
        Frame::from_parts(pixels, 0, 0, Delay::from_numer_denom_ms(70, 1))
    };
    let mut gif = Vec::new();
    {
        let mut encoder = GifEncoder::new(&mut gif);
        encoder.set_repeat(Repeat::Infinite).expect("encodes");
        encoder.encode_frames([frame(0), frame(100), frame(200)]).expect("encodes");
    }
    let after = strip(Format::Gif, &gif).expect("whole");
    assert_eq!(after, gif);
    let frames = GifDecoder::new(Cursor::new(&after)).expect("opens").into_frames().collect_frames().expect("decodes");
    assert_eq!(frames.len(), 3);
}

#[test]
fn a_jpeg_that_was_cut_off_keeps_what_there_is_and_tells_nothing() {
    let jpeg = picture(ImageFormat::Jpeg);
    let told = segment(0xe1, &[b"Exif\0\0", &*exif(6)].concat());
    let cut = [&jpeg[..2], &told, &jpeg[2..jpeg.len() - 100]].concat();
    let after = strip(Format::Jpeg, &cut).expect("there are pixels");
    assert!(!tells_place(&after) && after.len() > jpeg.len() / 2);
}

#[test]
fn a_header_without_flags_is_none() {
    let webp = picture(ImageFormat::WebP);
    let body = [b"WEBP", &*riff(b"VP8X", b""), &webp[12..]].concat();
    let odd = [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat();
    assert_eq!(strip(Format::Webp, &odd), Ok(webp));
}

#[test]
fn what_is_no_picture_is_damaged() {
    for (format, decoded_as) in ALL {
        assert_eq!(strip(format, b""), Err(Damaged));
        assert_eq!(strip(format, b"GIF89a RIFF WEBP \x89PNG \xff\xd8\xff\xd9"), Err(Damaged));
        assert_eq!(strip(format, &picture(decoded_as)[..40]), Err(Damaged), "{format:?}");
    }
}

proptest! {
    #[test]
    fn no_damage_brings_down_who_strips_or_brings_back_what_is_gone(
        which in 0..4_usize, at in any::<prop::sample::Index>(), with in proptest::collection::vec(any::<u8>(), 0..8), is_cut in any::<bool>(),
    ) {
        let format = ALL[which].0;
        let mut bytes = telling(format);
        let at = at.index(bytes.len());
        if is_cut {
            bytes.truncate(at);
        }
        let end = (at + with.len()).min(bytes.len());
        bytes.splice(at..end, with);
        if let Ok(once) = strip(format, &bytes) {
            prop_assert_eq!(strip(format, &once), Ok(once));
        }
    }
}
