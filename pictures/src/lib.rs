//! Pictures of messages: all that tells where and by whom they were taken is removed ([`strip()`]), and a small preview is made of
//! them ([`preview`]). See docs/adr/0030-media.md.
//!
//! Stripping copies pieces of the file and decodes nothing. A preview needs the pixels, of which a small file may have many: that is for a
//! process of its own, [`preview::child`].

pub mod film;
pub mod preview;
mod strip;
mod tiff;

pub use strip::{Damaged, Format, strip};
pub use tiff::tells_place;
