use image::{ImageBuffer, Rgba, RgbaImage};

use super::*;
use crate::{strip, tiff};

/// Red on the left, blue on the right.
fn halves(width: u32, height: u32) -> RgbaImage {
    ImageBuffer::from_fn(
        width,
        height,
        |x, _| if x < width / 2 { Rgba([255, 0, 0, 255]) } else { Rgba([0, 0, 255, 255]) },
    )
}

fn encoded(picture: &RgbaImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let picture = DynamicImage::ImageRgba8(picture.clone());
    let picture = if format == ImageFormat::Jpeg { picture.to_rgb8().into() } else { picture };
    picture.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

fn preview(format: Format, picture: &[u8]) -> (u32, u32, image::ImageResult<Vec<u8>>) {
    let opened = open(format, picture).expect("opens");
    (opened.width, opened.height, opened.preview(64 << 20))
}

#[test]
fn each_format_has_its_size_and_a_preview() {
    let picture = halves(800, 200);
    for (format, encoded_as) in [
        (Format::Jpeg, ImageFormat::Jpeg),
        (Format::Png, ImageFormat::Png),
        (Format::Webp, ImageFormat::WebP),
        (Format::Gif, ImageFormat::Gif),
    ] {
        let (width, height, preview) = preview(format, &encoded(&picture, encoded_as));
        assert_eq!((width, height), (800, 200), "{format:?}");
        let preview = image::load_from_memory_with_format(&preview.expect("made"), ImageFormat::Jpeg).expect("a JPEG");
        assert_eq!((preview.width(), preview.height()), (320, 80), "{format:?}");
        let [red, _, blue] = preview.to_rgb8().get_pixel(20, 40).0;
        assert!(red > 200 && blue < 60, "{format:?}: {red} {blue}");
    }
}

#[test]
fn a_preview_is_upright() {
    let jpeg = encoded(&halves(400, 100), ImageFormat::Jpeg);
    // As a camera says that is held upright: turn it by a quarter to the right.
    let exif = [&b"Exif\0\0"[..], &tiff::only_orientation(6)].concat();
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let turned = [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat();
    for picture in [turned.clone(), strip(Format::Jpeg, &turned).expect("stripped")] {
        let (width, height, preview) = preview(Format::Jpeg, &picture);
        assert_eq!((width, height), (100, 400));
        let preview = image::load_from_memory_with_format(&preview.expect("made"), ImageFormat::Jpeg).expect("a JPEG");
        let top = preview.to_rgb8().get_pixel(40, 20).0;
        assert!(preview.height() == 320 && top[0] > 200, "{top:?} on top");
    }
}

#[test]
fn what_is_transparent_is_white_and_noise_is_small_enough() {
    let clear = RgbaImage::from_pixel(400, 400, Rgba([0, 0, 0, 0]));
    let (.., white) = preview(Format::Png, &encoded(&clear, ImageFormat::Png));
    let white = image::load_from_memory_with_format(&white.expect("made"), ImageFormat::Jpeg).expect("a JPEG");
    assert!(white.to_rgb8().get_pixel(9, 9).0.iter().all(|colour| *colour > 250));
    let mut state = 7_u32;
    let noise = RgbaImage::from_fn(500, 500, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [red, green, blue, _] = state.to_be_bytes();
        Rgba([red, green, blue, 255])
    });
    let (.., noise) = preview(Format::Png, &encoded(&noise, ImageFormat::Png));
    let noise = noise.expect("made");
    assert!((1..=MAX_BYTES).contains(&noise.len()), "{} bytes", noise.len());
}

#[test]
fn a_line_has_a_preview() {
    for (width, height) in [(5000, 1), (1, 5000), (1, 1)] {
        let (.., preview) = preview(Format::Png, &encoded(&halves(width, height), ImageFormat::Png));
        assert!(!preview.expect("made").is_empty(), "{width} x {height}");
    }
}

/// A PNG that says that it has this size, and has hardly any pixels.
fn bomb(side: u32) -> Vec<u8> {
    let mut png = encoded(&halves(8, 8), ImageFormat::Png);
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let checksum = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    png
}

#[test]
fn a_picture_that_is_too_large_has_a_size_and_no_preview() {
    let (width, height, preview) = preview(Format::Png, &bomb(60_000));
    assert_eq!((width, height), (60_000, 60_000));
    assert!(preview.is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_picture_or_an_error(bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..300), cut in 8..300_usize) {
        let png = encoded(&halves(9, 9), ImageFormat::Png);
        let jpeg = encoded(&halves(9, 9), ImageFormat::Jpeg);
        for (format, picture) in [(Format::Png, png), (Format::Jpeg, jpeg)] {
            let begin = &picture[..cut.min(picture.len())];
            if let Ok(opened) = open(format, &[begin, &bytes].concat()) {
                let _ = opened.preview(1 << 20);
            }
        }
    }
}
