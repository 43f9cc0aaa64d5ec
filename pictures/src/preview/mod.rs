//! Small previews of pictures. A small file may have more pixels than a machine has memory, and decoders are the most attacked code that there is.
//! So nobody but [`child`] decodes.

pub mod child;

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage, codecs::jpeg::JpegEncoder,
    metadata::Orientation,
};

use crate::Format;

/// Most bytes of a preview, which stands in messages.
pub const MAX_BYTES: usize = 16 << 10;
/// Sides of the preview and qualities of its JPEG: the first that is small enough counts.
const TRIED: [(u32, u8); 5] = [(320, 70), (320, 45), (240, 45), (160, 40), (96, 30)];

/// A picture of which only the beginning was read.
struct Opened<D> {
    decoder: D,
    orientation: Orientation,
    /// Of the picture as it is seen.
    width: u32,
    height: u32,
}

fn open(format: Format, picture: &[u8]) -> image::ImageResult<Opened<impl ImageDecoder>> {
    let format = match format {
        Format::Jpeg => ImageFormat::Jpeg,
        Format::Png => ImageFormat::Png,
        Format::Webp => ImageFormat::WebP,
        Format::Gif => ImageFormat::Gif,
    };
    let mut reader = ImageReader::with_format(Cursor::new(picture), format);
    reader.no_limits();
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = decoder.dimensions();
    let lies = [Orientation::Rotate90, Orientation::Rotate270, Orientation::Rotate90FlipH, Orientation::Rotate270FlipH];
    let (width, height) = if lies.contains(&orientation) { (height, width) } else { (width, height) };
    Ok(Opened { decoder, orientation, width, height })
}

impl<D: ImageDecoder> Opened<D> {
    /// A JPEG of at most [`MAX_BYTES`], upright and without anything but its pixels; of an animation, its first picture.
    fn preview(mut self, most_pixel_bytes: u64) -> image::ImageResult<Vec<u8>> {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(most_pixel_bytes);
        limits.reserve(self.decoder.total_bytes())?;
        self.decoder.set_limits(limits)?;
        let whole = DynamicImage::from_decoder(self.decoder)?;
        let mut small = whole.thumbnail(TRIED[0].0, TRIED[0].0);
        drop(whole);
        small.apply_orientation(self.orientation);
        let mut preview = Vec::new();
        for (side, quality) in TRIED {
            small = if small.width().max(small.height()) > side { small.thumbnail(side, side) } else { small };
            preview.clear();
            JpegEncoder::new_with_quality(&mut preview, quality).encode_image(&on_white(&small))?;
            if preview.len() <= MAX_BYTES {
                break;
            }
        }
        Ok(preview)
    }
}

/// JPEG has nothing that is transparent.
fn on_white(picture: &DynamicImage) -> RgbImage {
    let picture = picture.to_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|colour| ((colour * alpha + 255 * (255 - alpha)) / 255) as u8))
    })
}

#[cfg(test)]
mod tests;
