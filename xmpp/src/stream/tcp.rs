//! Streams over TCP (RFC 6120, section 4): one document for each direction.

use std::sync::Arc;

use super::{
    Event, Header, Limits, Stanza,
    declaration::{SPACES, check_declaration},
};
use crate::{
    error::{StreamCondition, StreamError},
    xml::{
        chars,
        scan::{Piece, Scan, Wanted},
    },
};

/// Reads a stream of RFC 6120.
#[derive(Debug)]
pub struct TcpParser {
    limits: Limits,
    phase: Phase,
    /// The bytes of the next piece that have come. Empty and without memory between pieces.
    buffer: Vec<u8>,
    /// The search for the end of the piece. `None` between pieces.
    scan: Option<Scan>,
}

#[derive(Debug)]
enum Phase {
    Prolog {
        is_declared: bool,
    },
    Open(Arc<Header>),
    /// The header was an empty element. Its end is still to be told.
    Empty,
    Closed,
}

impl TcpParser {
    pub fn new(limits: Limits) -> Self {
        Self { limits, phase: Phase::Prolog { is_declared: false }, buffer: Vec::new(), scan: None }
    }

    /// Other limits, from the next piece on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Bytes that are kept of a piece that has come in part.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    /// Takes bytes up to the end of the next event, and takes them out of `input`. `None`: all are taken, and more are needed.
    ///
    /// Bytes behind an event stay in `input`: after the event that ends a stream, for TLS or for a new stream, they belong to
    /// what follows.
    pub fn feed(&mut self, input: &mut &[u8]) -> Option<Event> {
        match self.next(input) {
            Ok(Some(event)) => {
                if event == Event::Closed {
                    self.phase = Phase::Closed;
                }
                Some(event)
            }
            Ok(None) => None,
            Err(error) => {
                (self.phase, self.scan, self.buffer) = (Phase::Closed, None, Vec::new());
                *input = &[];
                Some(Event::Error(error))
            }
        }
    }

    fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, StreamError> {
        loop {
            match self.phase {
                Phase::Closed => {
                    *input = &[];
                    return Ok(None);
                }
                Phase::Empty => return Ok(Some(Event::Closed)),
                Phase::Prolog { .. } | Phase::Open(_) => {}
            }
            if self.scan.is_none() && !self.begin(input)? {
                return Ok(None);
            }
            let Some((piece, bytes)) = self.take(input)? else { return Ok(None) };
            let text = String::from_utf8(bytes).map_err(|_| {
                // RFC 6120, section 11.6: "If one party to an XML stream detects that the other party has attempted to send XML
                // data with an encoding other than UTF-8, it MUST close the stream with a stream error, which SHOULD be
                // <unsupported-encoding/>".
                StreamError::new(StreamCondition::UnsupportedEncoding).with_text("the stream is not UTF-8")
            })?;
            if let Some(event) = self.read(piece, text)? {
                return Ok(Some(event));
            }
        }
    }

    /// Skips what may be between pieces. Whether a piece begins.
    ///
    /// RFC 6120, section 11.7: "either entity MAY send whitespace as separators between XML stanzas or between any other
    /// first-level elements". Before a header it is what was sent behind the stream that the new one replaces.
    fn begin(&mut self, input: &mut &[u8]) -> Result<bool, StreamError> {
        let Some(space) = input.iter().position(|byte| !chars::is_space(*byte)) else {
            *input = &[];
            return Ok(false);
        };
        *input = &input[space..];
        match (input[0], &self.phase) {
            (b'<', Phase::Prolog { .. }) => self.scan = Some(Scan::new(Wanted::Prolog, self.limits.depth)),
            (b'<', _) => self.scan = Some(Scan::new(Wanted::Content, self.limits.depth)),
            // RFC 6120, section 11.6: "If an entity receives the [UNICODE] character U+FEFF anywhere in an XML stream (including
            // as the first character of the stream), it MUST interpret that character as a zero width no-break space, not as a
            // byte order mark."
            (_, Phase::Prolog { .. }) => {
                return Err(
                    StreamError::new(StreamCondition::NotWellFormed).with_text("a stream begins with its header")
                );
            }
            _ => return Err(StreamError::new(StreamCondition::BadFormat).with_text("there is text between stanzas")),
        }
        Ok(true)
    }

    /// The next piece, once it is whole.
    fn take(&mut self, input: &mut &[u8]) -> Result<Option<(Piece, Vec<u8>)>, StreamError> {
        let Some(scan) = &mut self.scan else { return Ok(None) };
        let room = self.limits.bytes.saturating_sub(self.buffer.len());
        let bytes = &input[..input.len().min(room)];
        if let Some((piece, length)) = scan.take(bytes)? {
            let mut whole = std::mem::take(&mut self.buffer);
            whole.reserve_exact(length);
            whole.extend_from_slice(&bytes[..length]);
            *input = &input[length..];
            self.scan = None;
            return Ok(Some((piece, whole)));
        }
        if bytes.len() < input.len() {
            return Err(StreamError::new(StreamCondition::PolicyViolation).with_text("an element is too long"));
        }
        // Grows by doubling, but never beyond the limit.
        let needed = self.buffer.len() + bytes.len();
        if needed > self.buffer.capacity() {
            let capacity = needed.max(2 * self.buffer.capacity()).min(self.limits.bytes);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        self.buffer.extend_from_slice(bytes);
        *input = &[];
        Ok(None)
    }

    fn read(&mut self, piece: Piece, text: String) -> Result<Option<Event>, StreamError> {
        match (piece, &mut self.phase) {
            (Piece::Declaration, Phase::Prolog { is_declared }) => {
                if std::mem::replace(is_declared, true) {
                    return Err(
                        StreamError::new(StreamCondition::NotWellFormed).with_text("there are two declarations")
                    );
                }
                check_declaration(&text)?;
                Ok(None)
            }
            (Piece::Header { empty }, _) => {
                let header = Arc::new(Header::read(&text, &self.limits)?);
                self.phase = if empty { Phase::Empty } else { Phase::Open(header.clone()) };
                Ok(Some(Event::Opened(header)))
            }
            (Piece::Element, Phase::Open(header)) => {
                Stanza::read(text, header, &self.limits).map(Event::Stanza).map(Some)
            }
            (Piece::End, Phase::Open(header)) if text[2..text.len() - 1].trim_end_matches(SPACES) == header.tag => {
                Ok(Some(Event::Closed))
            }
            _ => Err(StreamError::new(StreamCondition::NotWellFormed).with_text("a tag closes what is not open")),
        }
    }
}
