//! The value of records of timelines.

use std::io;

use bytes::Bytes;
use carillon_proto::{pb::store::RecordHeader, recalled_envelope};
use prost::Message as _;

use super::{RowBytes, broken, timeline::SINCE_1970_MS};

/// The value of `RECORD`.
pub(crate) struct Stored<'a> {
    /// The shard's clock at the append.
    pub(crate) clock_ms: u64,
    pub(crate) duplicate: [u8; 16],
    pub(crate) header: RecordHeader,
    pub(crate) envelope: &'a [u8],
}

/// The first byte of a record that has a header. It is in the place of the clock's highest byte.
const WITH_HEADER: u8 = 1;

impl<'a> Stored<'a> {
    pub(crate) fn encode(&self) -> RowBytes {
        let mut head = [0; 24];
        head[..8].copy_from_slice(&self.clock_ms.to_be_bytes());
        head[8..].copy_from_slice(&self.duplicate);
        if self.header == RecordHeader::default() {
            return RowBytes::fused(&head, self.envelope);
        }
        head[0] = WITH_HEADER;
        RowBytes::fused(&[&head[..], &self.header.encode_length_delimited_to_vec()].concat(), self.envelope)
    }

    pub(crate) fn decode(value: &'a [u8]) -> io::Result<Self> {
        let (clock, rest) = value.split_first_chunk::<8>().ok_or_else(|| broken("record"))?;
        let (duplicate, mut rest) = rest.split_first_chunk().ok_or_else(|| broken("record"))?;
        let mut clock = *clock;
        let layout = std::mem::take(&mut clock[0]);
        let header = match layout {
            0 => RecordHeader::default(),
            WITH_HEADER => {
                let length = prost::decode_length_delimiter(&mut rest).map_err(|_| broken("record"))?;
                let (header, envelope) = rest.split_at_checked(length).ok_or_else(|| broken("record"))?;
                rest = envelope;
                RecordHeader::decode(header).map_err(|_| broken("header of a record"))?
            }
            _ => return Err(broken("record of a layout that this release does not know")),
        };
        let clock_ms = Some(u64::from_be_bytes(clock)).filter(|clock_ms| *clock_ms < SINCE_1970_MS).unwrap_or(0);
        Ok(Self { clock_ms, duplicate: *duplicate, header, envelope: rest })
    }

    pub(crate) fn envelope(&self) -> Bytes {
        Bytes::copy_from_slice(self.envelope)
    }

    /// The envelope as it is given out.
    pub(crate) fn shown(&self) -> Bytes {
        let left = if self.header.recalled { recalled_envelope(self.envelope) } else { None };
        left.map_or_else(|| self.envelope(), Bytes::from)
    }
}
