//! Finds the end of the next element of a stream. Every byte is looked at once, however the bytes come in.

use crate::error::{StreamCondition, StreamError};

/// The kind of a piece whose end was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// `<?...?>`
    Declaration,
    /// A start tag, the stream's header; its element has no content if it is empty.
    Header { empty: bool },
    /// An element with all that is in it.
    Element,
    /// An end tag without a start tag before it, which can only be that of the stream.
    End,
}

/// The kinds of pieces that may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The XML declaration or the stream's header.
    Prolog,
    /// Elements of a stream, or its end.
    Content,
}

/// The place in the text of one piece. The piece begins with `<`.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    state: State,
    wanted: Wanted,
    /// Elements that are open.
    depth: usize,
    max_depth: usize,
    /// The byte before the ones that come next.
    last: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begin,
    Text,
    /// Behind `<`.
    Markup,
    StartTag,
    Quoted(u8),
    EndTag,
    /// Behind `<!` and so many bytes of `[CDATA[`.
    Bang(usize),
    /// In a CDATA section, behind so many brackets.
    CData(usize),
    Declaration,
}

const CDATA: &[u8] = b"[CDATA[";

#[cfg(test)]
thread_local! {
    /// Bytes that were looked at by this thread.
    pub(crate) static TAKEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Scan {
    pub(crate) fn new(wanted: Wanted, max_depth: usize) -> Self {
        Self { state: State::Begin, wanted, depth: 0, max_depth, last: 0 }
    }

    /// Takes the bytes that come next. Answers with the count of those that belong to the piece, once its end is among them.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Option<(Piece, usize)>, StreamError> {
        #[cfg(test)]
        TAKEN.with(|taken| taken.set(taken.get() + bytes.len()));
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            // How many bytes belong to this step.
            let (step, found) = match self.state {
                State::Begin => {
                    self.state = State::Markup;
                    (1, None)
                }
                State::Text => match memchr::memchr(b'<', rest) {
                    Some(before) => {
                        self.state = State::Markup;
                        (before + 1, None)
                    }
                    None => (rest.len(), None),
                },
                State::Markup => (self.markup(rest[0])?, None),
                State::StartTag => self.start_tag(rest)?,
                State::Quoted(quote) => match memchr::memchr(quote, rest) {
                    Some(before) => {
                        self.state = State::StartTag;
                        (before + 1, None)
                    }
                    None => (rest.len(), None),
                },
                State::EndTag => match memchr::memchr(b'>', rest) {
                    Some(before) => (before + 1, self.end_tag()),
                    None => (rest.len(), None),
                },
                State::Bang(matched) => {
                    if rest[0] != CDATA[matched] {
                        return Err(restricted());
                    }
                    self.state = if matched + 1 == CDATA.len() { State::CData(0) } else { State::Bang(matched + 1) };
                    (1, None)
                }
                State::CData(brackets) => (self.cdata(brackets, rest), None),
                State::Declaration => match memchr::memchr(b'>', rest) {
                    Some(before) => {
                        let last = if before > 0 { rest[before - 1] } else { self.last };
                        (before + 1, (last == b'?').then_some(Piece::Declaration))
                    }
                    None => (rest.len(), None),
                },
            };
            at += step;
            if at > 0 {
                self.last = bytes[at - 1];
            }
            if let Some(piece) = found {
                return Ok(Some((piece, at)));
            }
        }
        Ok(None)
    }

    /// The byte behind `<`. It is part of the next step, if that is a start tag.
    fn markup(&mut self, byte: u8) -> Result<usize, StreamError> {
        let step = match byte {
            b'/' => {
                self.state = State::EndTag;
                1
            }
            b'?' if self.wanted == Wanted::Prolog && self.depth == 0 => {
                self.state = State::Declaration;
                1
            }
            b'!' if self.depth > 0 => {
                self.state = State::Bang(0);
                1
            }
            // RFC 6120, section 11.1: "If an XMPP implementation receives characters matching such features over an XML stream,
            // it MUST close the stream with a stream error, which SHOULD be <restricted-xml/>".
            b'?' | b'!' => return Err(restricted()),
            _ => {
                self.state = State::StartTag;
                0
            }
        };
        Ok(step)
    }

    fn start_tag(&mut self, rest: &[u8]) -> Result<(usize, Option<Piece>), StreamError> {
        let Some(before) = memchr::memchr3(b'>', b'"', b'\'', rest) else { return Ok((rest.len(), None)) };
        if rest[before] != b'>' {
            self.state = State::Quoted(rest[before]);
            return Ok((before + 1, None));
        }
        let empty = b'/' == if before > 0 { rest[before - 1] } else { self.last };
        if self.wanted == Wanted::Prolog {
            return Ok((before + 1, Some(Piece::Header { empty })));
        }
        if self.depth >= self.max_depth {
            return Err(StreamError::new(StreamCondition::PolicyViolation).with_text("elements are nested too deep"));
        }
        self.depth += usize::from(!empty);
        self.state = State::Text;
        Ok((before + 1, (self.depth == 0).then_some(Piece::Element)))
    }

    fn end_tag(&mut self) -> Option<Piece> {
        self.state = State::Text;
        let Some(depth) = self.depth.checked_sub(1) else { return Some(Piece::End) };
        self.depth = depth;
        (depth == 0).then_some(Piece::Element)
    }

    fn cdata(&mut self, brackets: usize, rest: &[u8]) -> usize {
        match (brackets, rest[0]) {
            (_, b']') => {
                self.state = State::CData((brackets + 1).min(2));
                1
            }
            (2, b'>') => {
                self.state = State::Text;
                1
            }
            _ => {
                self.state = State::CData(0);
                memchr::memchr(b']', rest).unwrap_or(rest.len())
            }
        }
    }
}

fn restricted() -> StreamError {
    StreamError::new(StreamCondition::RestrictedXml)
        .with_text("comments, processing instructions and document types are prohibited")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str, wanted: Wanted) -> Result<Option<(Piece, usize)>, StreamCondition> {
        Scan::new(wanted, 3).take(text.as_bytes()).map_err(|error| error.condition)
    }

    /// The same, one byte at a time.
    fn by_bytes(text: &str, wanted: Wanted) -> Result<Option<(Piece, usize)>, StreamCondition> {
        let mut scan = Scan::new(wanted, 3);
        for at in 0..text.len() {
            match scan.take(&text.as_bytes()[at..=at]) {
                Ok(None) => {}
                Ok(Some((piece, step))) => return Ok(Some((piece, at + step))),
                Err(error) => return Err(error.condition),
            }
        }
        Ok(None)
    }

    #[test]
    fn an_element_ends_with_its_own_end() {
        for (text, length) in [
            ("<a/><b/>", 4),
            ("<a></a> ", 7),
            ("<a><a/></a><a>", 11),
            ("<a b='>' c=\"/>\"/>x", 17),
            ("<a>/></a>x", 9),
            ("<a b='/'></a>x", 13),
            ("<a><![CDATA[</a>]]></a>x", 23),
            ("<a><![CDATA[]]]]></a>x", 21),
            ("<a><![CDATA[]>]]]></a>x", 22),
            ("<a><![CDATA[]]]]>]]></a>x", 24),
            ("<a>\"<b c=\"'\">'</b></a>x", 22),
            ("<a b = 'x' / ></a>x", 18),
        ] {
            assert_eq!(whole(text, Wanted::Content), Ok(Some((Piece::Element, length))), "{text}");
            assert_eq!(by_bytes(text, Wanted::Content), Ok(Some((Piece::Element, length))), "{text}");
            for cut in 0..length {
                assert_eq!(whole(&text[..cut], Wanted::Content), Ok(None), "{}", &text[..cut]);
            }
        }
    }

    #[test]
    fn a_stream_begins_with_its_declaration_and_ends_with_its_end_tag() {
        for (text, wanted, piece, length) in [
            ("<?xml version='1.0'?><s>", Wanted::Prolog, Piece::Declaration, 21),
            ("<?a>??>", Wanted::Prolog, Piece::Declaration, 7),
            ("<s a='>'><a/>", Wanted::Prolog, Piece::Header { empty: false }, 9),
            ("<s/>", Wanted::Prolog, Piece::Header { empty: true }, 4),
            ("</s:s >x", Wanted::Content, Piece::End, 7),
        ] {
            assert_eq!(whole(text, wanted), Ok(Some((piece, length))), "{text}");
            assert_eq!(by_bytes(text, wanted), Ok(Some((piece, length))), "{text}");
        }
    }

    /// RFC 6120, section 11.1: "it MUST close the stream with a stream error, which SHOULD be \<restricted-xml/\>".
    #[test]
    fn what_is_prohibited_is_refused_where_it_begins() {
        for text in ["<!", "<?", "<a><!-", "<a><!D", "<a><?", "<a><![C-", "<a><![[", "<![CDATA["] {
            assert_eq!(whole(text, Wanted::Content), Err(StreamCondition::RestrictedXml), "{text}");
            assert_eq!(by_bytes(text, Wanted::Content), Err(StreamCondition::RestrictedXml), "{text}");
        }
        assert_eq!(whole("<!DOCTYPE", Wanted::Prolog), Err(StreamCondition::RestrictedXml));
        assert_eq!(whole("<a><a><a><a", Wanted::Content), Ok(None));
        assert_eq!(whole("<a><a><a/></a></a>", Wanted::Content), Ok(Some((Piece::Element, 18))));
        for deep in ["<a><a><a><a>", "<a><a><a><a/>"] {
            assert_eq!(whole(deep, Wanted::Content), Err(StreamCondition::PolicyViolation), "{deep}");
        }
    }
}
