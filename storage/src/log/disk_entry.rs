//! The form of an entry for raft-engine: a protobuf-2 message, here any bytes with an index.

use std::{any::Any, fmt, io::Read as _, sync::OnceLock};

use bytes::Bytes;
use carillon_proto::pb::raft::Entry;
use prost::Message as _;
use protobuf::{
    Clear, CodedInputStream, CodedOutputStream, Message, ProtobufError, ProtobufResult, UnknownFields,
    reflect::MessageDescriptor,
};
use raft_engine::MessageExt;

/// An encoded [`Entry`].
#[derive(Clone, Default, PartialEq)]
pub(super) struct DiskEntry {
    index: u64,
    encoded: Bytes,
    unknown: UnknownFields,
}

impl DiskEntry {
    pub(super) fn new(entry: &Entry) -> Self {
        Self { index: index(entry), encoded: entry.encode_to_vec().into(), unknown: UnknownFields::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.encoded.len()
    }

    pub(super) fn decode(self) -> Result<Entry, prost::DecodeError> {
        Entry::decode(self.encoded)
    }
}

/// The index of an entry. Each entry has a log id.
pub(super) fn index(entry: &Entry) -> u64 {
    entry.log_id.map_or(0, |id| id.index)
}

/// The entry type, for raft-engine.
pub(super) struct Entries;

impl MessageExt for Entries {
    type Entry = DiskEntry;

    fn index(entry: &DiskEntry) -> u64 {
        entry.index
    }
}

impl Message for DiskEntry {
    fn descriptor(&self) -> &'static MessageDescriptor {
        // As in protobuf's lite runtime: nothing uses reflection here.
        unreachable!("a disk entry has no descriptor")
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn merge_from(&mut self, is: &mut CodedInputStream<'_>) -> ProtobufResult<()> {
        let mut encoded = Vec::new();
        is.read_to_end(&mut encoded)?;
        let encoded = Bytes::from(encoded);
        let entry = Entry::decode(encoded.clone())
            .map_err(|error| ProtobufError::IoError(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
        self.index = index(&entry);
        self.encoded = encoded;
        Ok(())
    }

    fn write_to_with_cached_sizes(&self, os: &mut CodedOutputStream<'_>) -> ProtobufResult<()> {
        os.write_raw_bytes(&self.encoded)
    }

    fn compute_size(&self) -> u32 {
        self.get_cached_size()
    }

    fn get_cached_size(&self) -> u32 {
        // An entry fits in one message between nodes.
        self.encoded.len() as u32
    }

    fn get_unknown_fields(&self) -> &UnknownFields {
        &self.unknown
    }

    fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
        &mut self.unknown
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn new() -> Self {
        Self::default()
    }

    fn default_instance() -> &'static Self {
        static INSTANCE: OnceLock<DiskEntry> = OnceLock::new();
        INSTANCE.get_or_init(DiskEntry::default)
    }
}

impl Clear for DiskEntry {
    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl fmt::Debug for DiskEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of {} bytes", self.index, self.encoded.len())
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::raft::{LogId, entry::Payload};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_round_trip(term: u64, node: u64, index: u64, commands: Vec<u8>) {
            let payload = Some(Payload::Commands(commands.into()));
            let entry = Entry { log_id: Some(LogId { term, node, index }), payload };
            let written = DiskEntry::new(&entry).write_to_bytes().expect("writes");
            let read = DiskEntry::parse_from_bytes(&written).expect("parses");
            prop_assert_eq!(Entries::index(&read), index);
            prop_assert_eq!(read.decode().expect("decodes"), entry);
        }
    }

    #[test]
    fn an_entry_survives_the_way_to_the_engine_and_back() {
        let entry = Entry {
            log_id: Some(LogId { term: 3, node: 2, index: 77 }),
            payload: Some(Payload::Commands(Bytes::from_static(b"abc"))),
        };
        let written = DiskEntry::new(&entry).write_to_bytes().expect("writes");
        let read = DiskEntry::parse_from_bytes(&written).expect("parses");
        assert_eq!(Entries::index(&read), 77);
        assert_eq!(read.decode().expect("decodes"), entry);
        assert!(DiskEntry::parse_from_bytes(&[0xff, 0xff]).is_err());
    }
}
