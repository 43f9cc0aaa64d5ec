//! Frames on a byte stream, each with its length as a protobuf varint in front.

use std::ops::Range;

use bytes::{BufMut as _, BytesMut};

use super::Outgoing;

/// The frame's length prefix is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    #[error("frame is {size} bytes but at most {max} are allowed")]
    TooLarge { size: u64, max: usize },
    #[error("frame length is not a varint of at most 5 bytes")]
    BadLength,
}

/// The range of the next whole frame in the buffer, without its length prefix, if there is one.
pub(crate) fn next_frame(buffer: &[u8], max: usize) -> Result<Option<Range<usize>>, FramingError> {
    let Some((size, prefix)) = read_length(buffer)? else { return Ok(None) };
    if size > max as u64 {
        return Err(FramingError::TooLarge { size, max });
    }
    // At most `max`, so it fits.
    let end = prefix + size as usize;
    Ok((buffer.len() >= end).then_some(prefix..end))
}

/// Appends the frame with its length prefix.
pub(crate) fn put_frame(frame: &Outgoing, out: &mut BytesMut) {
    // The length comes first but is known last: the frame is written behind the longest prefix, which is then moved up
    // to it. Lengths fit in 5 bytes.
    let start = out.len();
    out.put_bytes(0, 5);
    frame.encode(out);
    let size = out.len() - start - 5;
    let mut prefix = [0; 5];
    let mut used = 0;
    let mut rest = size as u64;
    loop {
        prefix[used] = (rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 };
        used += 1;
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    out[start..start + used].copy_from_slice(&prefix[..used]);
    out.copy_within(start + 5..start + 5 + size, start + used);
    out.truncate(start + used + size);
}

fn read_length(buffer: &[u8]) -> Result<Option<(u64, usize)>, FramingError> {
    let mut size = 0;
    for (i, byte) in buffer.iter().take(5).enumerate() {
        size |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((size, i + 1)));
        }
    }
    if buffer.len() < 5 { Ok(None) } else { Err(FramingError::BadLength) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Buf as _, Bytes};
    use carillon_proto::pb::client::{Refused, ServerFrame, server_frame::Body};
    use proptest::prelude::*;
    use prost::Message as _;

    fn take_frame(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, FramingError> {
        let Some(at) = next_frame(buffer, max)? else { return Ok(None) };
        let frame = Bytes::copy_from_slice(&buffer[at.clone()]);
        buffer.advance(at.end);
        Ok(Some(frame))
    }

    fn refused(reason: String) -> Outgoing {
        Body::Refused(Refused { reason, ..Default::default() }).into()
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(reasons in proptest::collection::vec("[a-z]{0,300}", 1..5), cut: usize) {
            let mut whole = BytesMut::new();
            for reason in &reasons {
                put_frame(&refused(reason.clone()), &mut whole);
            }
            // In two pieces, cut anywhere.
            let rest = whole.split_off(cut % (whole.len() + 1));
            let mut got = Vec::new();
            for piece in [rest] {
                while let Some(frame) = take_frame(&mut whole, 1000).expect("good") {
                    got.push(frame);
                }
                whole.extend_from_slice(&piece);
            }
            while let Some(frame) = take_frame(&mut whole, 1000).expect("good") {
                got.push(frame);
            }
            prop_assert!(whole.is_empty());
            let frame = |reason: String| match refused(reason) {
                Outgoing::Frame(frame) => *frame,
                other => panic!("{other:?}"),
            };
            let got: Vec<_> = got.into_iter().map(|frame| ServerFrame::decode(frame).expect("decodes")).collect();
            prop_assert_eq!(got, reasons.into_iter().map(frame).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_frame(&mut buffer, 64) {}
        }
    }

    #[test]
    fn the_length_is_that_of_prost() {
        let frame = Body::Refused(Refused { reason: "x".repeat(200), ..Default::default() });
        let mut ours = BytesMut::new();
        put_frame(&frame.clone().into(), &mut ours);
        assert_eq!(&ours[..], &ServerFrame { body: Some(frame) }.encode_length_delimited_to_vec()[..]);
    }

    #[test]
    fn lengths_are_bounded() {
        let take = |bytes: &[u8]| take_frame(&mut BytesMut::from(bytes), 10);
        assert_eq!(take(&[11]), Err(FramingError::TooLarge { size: 11, max: 10 }));
        assert_eq!(take(&[0xff; 4]), Ok(None));
        assert_eq!(take(&[0xff; 5]), Err(FramingError::BadLength));
        assert_eq!(take(&[10, 1]), Ok(None));
        assert_eq!(take(&[]), Ok(None));
    }
}
