//! Paths, headers and names of HTTP requests for files, with the properties that must hold for all of them.

use super::{
    PassKeys,
    range::{self, Asked, Sent},
    types,
};

/// `text`: a path, a header and a name. `first`: how a file begins.
pub(crate) fn requests(text: &str, first: &[u8], size: u64) {
    assert!(PassKeys::new([[1; 32]]).open(text, 0).is_err(), "nobody has the key");
    if let Asked::Part(range) = range::asked(Some(text), size.max(1)) {
        assert!(range.start < range.end && range.end <= size.max(1), "{text}: {range:?} of {size}");
    }
    if let Some(Sent::Bytes { range, size }) = range::sent(text) {
        assert!(range.start < range.end && range.end <= size, "{text}: {range:?} of {size}");
    }
    let (media_type, is_shown) = types::served(types::of_content(first));
    let header = types::disposition(is_shown, text);
    assert!(header.bytes().chain(media_type.bytes()).all(|byte| (0x20..0x7f).contains(&byte)), "{header}");
}
