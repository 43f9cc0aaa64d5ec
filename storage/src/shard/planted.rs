//! Imitates a program with a higher level than this one. See `Storage::open_at_level`.

use bytes::{BufMut as _, Bytes, BytesMut};
use carillon_proto::Level;
use prost::encoding::{WireType, encode_key, encode_varint};

/// A field that this program's commands do not have.
const FIELD: u32 = 2000;

/// Adds an unknown field to a command if the shard's level is above this program's.
pub(super) fn as_a_later_program(command: Bytes, level: Level) -> Bytes {
    if level <= Level::OF_PROGRAM {
        return command;
    }
    let mut later = BytesMut::with_capacity(command.len() + 4);
    later.put(command);
    encode_key(FIELD, WireType::Varint, &mut later);
    encode_varint(1, &mut later);
    later.freeze()
}
