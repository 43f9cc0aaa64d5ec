//! The bounds of what a peer may send.

/// The bounds of one piece. A violation ends the stream with `policy-violation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest first-level element, header or declaration, in bytes. No more than that is kept of what has come in part.
    pub bytes: usize,
    /// Deepest element; the first-level element is at 1.
    pub depth: usize,
    /// Most elements in a first-level element. In a tree each takes many times the bytes of its text.
    pub elements: usize,
    /// Most attributes of an element, with its declarations of namespaces.
    pub attributes: usize,
    /// Longest name of an element, an attribute or a namespace, in bytes.
    pub name_bytes: usize,
    /// Most declarations of namespaces that hold at one place. Looking one up takes a time in proportion.
    pub namespaces: usize,
}

impl Limits {
    /// For peers that have not signed in.
    pub const BEFORE_AUTHENTICATION: Self = Self { bytes: 64 * 1024, ..Self::AFTER_AUTHENTICATION };
    /// For peers that have signed in.
    pub const AFTER_AUTHENTICATION: Self =
        Self { bytes: 256 * 1024, depth: 64, elements: 16 * 1024, attributes: 128, name_bytes: 1024, namespaces: 128 };
    /// No bounds, for text that was read by other limits before.
    pub(crate) const UNLIMITED: Self = Self {
        bytes: usize::MAX,
        depth: usize::MAX,
        elements: usize::MAX,
        attributes: usize::MAX,
        name_bytes: usize::MAX,
        namespaces: usize::MAX,
    };
    /// Longest declarations that a stanza takes over from the stream's header, in bytes. They are put into each stanza that needs
    /// them, so that otherwise a short stanza could make a long one.
    pub(super) const ADOPTED_BYTES: usize = 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Self::AFTER_AUTHENTICATION
    }
}
