//! Frames on a byte stream, each with its length in bytes as a protobuf varint in front.

use bytes::{Buf as _, BytesMut};
use carillon_proto::pb::client::{ClientFrame, ServerFrame};
use prost::Message as _;
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};

use super::{Connection, ConnectionError, MAX_SERVER_FRAME_BYTES, stream::Bytes};

pub(super) fn frames(stream: impl Bytes + 'static) -> Connection {
    let (read, write) = tokio::io::split(stream);
    Connection::new(FramedWrite::new(write, Codec), FramedRead::with_capacity(read, Codec, 4096))
}

struct Codec;

impl Encoder<ClientFrame> for Codec {
    type Error = ConnectionError;

    fn encode(&mut self, frame: ClientFrame, into: &mut BytesMut) -> Result<(), ConnectionError> {
        // Fails only if a buffer can't grow.
        frame.encode_length_delimited(into).map_err(|error| ConnectionError::Frame(error.to_string()))
    }
}

impl Decoder for Codec {
    type Item = ServerFrame;
    type Error = ConnectionError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<ServerFrame>, ConnectionError> {
        let Some((prefix, length)) = length(from)? else { return Ok(None) };
        if length > MAX_SERVER_FRAME_BYTES as u64 {
            return Err(ConnectionError::TooLong { bytes: length, max: MAX_SERVER_FRAME_BYTES });
        }
        let whole = prefix + length as usize;
        if from.len() < whole {
            from.reserve(whole - from.len());
            return Ok(None);
        }
        let mut frame = from.split_to(whole).freeze();
        frame.advance(prefix);
        ServerFrame::decode(frame).map(Some).map_err(|error| ConnectionError::Frame(error.to_string()))
    }
}

/// The size of the prefix and the length in it; `None` if it is incomplete.
fn length(from: &[u8]) -> Result<Option<(usize, u64)>, ConnectionError> {
    let mut length = 0;
    for (at, byte) in from.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((at + 1, length)));
        }
    }
    if from.len() < 5 { Ok(None) } else { Err(ConnectionError::TooLong { bytes: length, max: MAX_SERVER_FRAME_BYTES }) }
}

/// Decodes the frames in these bytes as a connection does, and returns their number.
#[cfg(any(test, fuzzing))]
pub(crate) fn take_frames(bytes: &[u8]) -> usize {
    let mut buffer = BytesMut::new();
    let mut taken = 0;
    // In pieces, as they arrive.
    for piece in bytes.chunks(7) {
        buffer.extend_from_slice(piece);
        while let Ok(Some(frame)) = Codec.decode(&mut buffer) {
            taken += 1;
            let encoded = frame.encode_to_vec();
            assert_eq!(ServerFrame::decode(&*encoded).expect("decodes").encode_to_vec(), encoded);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::client::{Bye, Challenge, server_frame};
    use proptest::prelude::*;

    #[test]
    fn frames_come_whole_however_the_bytes_are_cut() {
        let frames: Vec<ServerFrame> = [0, 1, 127, 128, 20_000]
            .into_iter()
            .map(|size| Challenge { scram_server_first: vec![7; size].into() })
            .map(|challenge| ServerFrame { body: Some(server_frame::Body::Challenge(challenge)) })
            .chain([ServerFrame { body: Some(server_frame::Body::Bye(Bye::default())) }, ServerFrame::default()])
            .collect();
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode_length_delimited(&mut bytes).expect("encodes");
        }
        for cut in [1, 2, 3, 100, bytes.len()] {
            let (mut buffer, mut decoded) = (BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = Codec.decode(&mut buffer).expect("valid") {
                    decoded.push(frame);
                }
            }
            assert_eq!(decoded, frames, "cut every {cut} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            take_frames(&bytes);
        }

        #[test]
        fn whatever_follows_a_frame_leaves_it_whole(message in "[a-z]{0,300}", rest: Vec<u8>) {
            let challenge = Challenge { scram_server_first: message.into_bytes().into() };
            let frame = ServerFrame { body: Some(server_frame::Body::Challenge(challenge)) };
            let mut buffer = BytesMut::from(&*frame.encode_length_delimited_to_vec());
            buffer.extend_from_slice(&rest);
            prop_assert_eq!(Codec.decode(&mut buffer).expect("valid"), Some(frame));
            prop_assert_eq!(&buffer[..], &rest[..]);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..]);
        assert!(matches!(Codec.decode(&mut buffer), Err(ConnectionError::TooLong { .. })));
        let mut endless = BytesMut::from(&[0x80; 9][..]);
        assert!(matches!(Codec.decode(&mut endless), Err(ConnectionError::TooLong { .. })));
    }
}
