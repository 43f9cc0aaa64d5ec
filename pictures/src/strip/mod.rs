//! Removes what a picture tells beside itself: where, when, by whom and with what it was taken, comments, the pictures within, and what stands
//! behind its end. Its pixels stay as they are, with the colour profile, and with the orientation, without which it would lie on its side.
//!
//! Each format has a list of what is kept; the rest goes, known or not.

mod gif;
mod jpeg;
mod png;
mod webp;

#[cfg(test)]
mod tests;

/// A format whose pictures are stripped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Png,
    Webp,
    Gif,
}

/// The file ends or goes on where it should not, so that nobody can say what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the picture is damaged")]
pub struct Damaged;

impl Format {
    /// Of files of this media type.
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "image/jpeg" => Some(Self::Jpeg),
            "image/png" => Some(Self::Png),
            "image/webp" => Some(Self::Webp),
            "image/gif" => Some(Self::Gif),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Gif => "gif",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Jpeg, Self::Png, Self::Webp, Self::Gif].into_iter().find(|format| format.name() == name)
    }
}

/// The picture without what it tells beside itself. What is stripped once stays as it is.
///
/// Stripping takes time for each byte, and memory for one copy.
pub fn strip(format: Format, picture: &[u8]) -> Result<Vec<u8>, Damaged> {
    match format {
        Format::Jpeg => jpeg::strip(picture),
        Format::Png => png::strip(picture),
        Format::Webp => webp::strip(picture),
        Format::Gif => gif::strip(picture),
    }
}

/// Takes the first `count` bytes from `rest`.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Damaged> {
    let (taken, after) = rest.split_at_checked(count).ok_or(Damaged)?;
    *rest = after;
    Ok(taken)
}
