//! Keys of conversations in timeline shards.

use std::io;

use carillon_proto::pb::store::{TimelineKey, timeline_key::Kind};

use super::{
    CONVERSATION, CONVERSATION_CHANGE, RowBytes, broken, key, number_of, number_value, numbers_of, numbers_value,
    timeline::{kind_byte, named},
};

/// `number` is that of the user's inbox. `with`: the inbox of the other user, or a group.
pub(crate) fn conversation(number: u64, with: &TimelineKey) -> RowBytes {
    key(CONVERSATION, &[&number.to_be_bytes(), &[kind_byte(with.kind())], &with.owner])
}

/// The range of an inbox's conversations of one kind.
pub(crate) fn conversations_of(number: u64, kind: Kind) -> std::ops::RangeInclusive<RowBytes> {
    let bound = |end: &[u8]| key(CONVERSATION, &[&number.to_be_bytes(), &[kind_byte(kind)], end]);
    bound(&[])..=bound(&[0xff])
}

/// The range of the conversations of all inboxes.
pub(crate) fn all_conversations() -> std::ops::RangeInclusive<RowBytes> {
    key(CONVERSATION, &[])..=key(CONVERSATION + 1, &[])
}

/// Number of the inbox, and with whom.
pub(crate) fn conversation_of(key: &[u8]) -> io::Result<(u64, TimelineKey)> {
    let parse = || {
        let [CONVERSATION, rest @ ..] = key else { return None };
        let (number, name) = rest.split_first_chunk()?;
        Some((u64::from_be_bytes(*number), name))
    };
    let (number, name) = parse().ok_or_else(|| broken("key of a conversation"))?;
    Ok((number, named(name)?))
}

/// The key of the version of an inbox's conversations.
pub(crate) fn conversations_version(number: u64) -> RowBytes {
    key(CONVERSATION_CHANGE, &[&number.to_be_bytes()])
}

pub(crate) fn conversation_change(number: u64, version: u64) -> RowBytes {
    key(CONVERSATION_CHANGE, &[&number.to_be_bytes(), &version.to_be_bytes()])
}

/// The value of `CONVERSATION_CHANGE` without a version: numbers about an inbox's conversations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ConversationNumbers {
    /// The newest version.
    pub(crate) version: u64,
    /// Open requests.
    pub(crate) requests: u64,
    /// Conversations that have a version: those with marks or settings.
    pub(crate) changed: u64,
}

impl ConversationNumbers {
    pub(crate) fn encode(self) -> RowBytes {
        match (self.requests, self.changed) {
            (0, 0) => number_value(self.version),
            (requests, 0) => numbers_value([self.version, requests]),
            (requests, changed) => numbers_value([self.version, requests, changed]),
        }
    }

    pub(crate) fn decode(value: &[u8]) -> io::Result<Self> {
        let [version, requests, changed] = match value.len() {
            8 => return Ok(Self { version: number_of(value)?, ..Self::default() }),
            16 => {
                let [version, requests] = numbers_of(value)?;
                [version, requests, 0]
            }
            _ => numbers_of(value)?,
        };
        match *value {
            [.., 0, 0, 0, 0, 0, 0, 0, 0] => Err(broken("numbers of conversations")),
            _ => Ok(Self { version, requests, changed }),
        }
    }
}

/// The range of the changes after this version.
pub(crate) fn changes_after(number: u64, version: u64) -> std::ops::RangeInclusive<RowBytes> {
    conversation_change(number, version.saturating_add(1))..=conversation_change(number, u64::MAX)
}

/// The version in a key of `CONVERSATION_CHANGE`; `None` for the key of the newest version.
pub(crate) fn conversation_change_of(key: &[u8]) -> io::Result<Option<u64>> {
    match key {
        [CONVERSATION_CHANGE, rest @ ..] if rest.len() == 8 => Ok(None),
        [CONVERSATION_CHANGE, rest @ ..] if rest.len() == 16 => number_of(&rest[8..]).map(Some),
        _ => Err(broken("key of a change of a conversation")),
    }
}

/// The value of `CONVERSATION_CHANGE` with a version.
pub(crate) fn changed_conversation(with: &TimelineKey) -> RowBytes {
    RowBytes::fused(&[kind_byte(with.kind())], &with.owner)
}

pub(crate) fn changed_conversation_of(value: &[u8]) -> io::Result<TimelineKey> {
    named(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn numbers_of_conversations_are_read_back(
            version in any::<u64>(), requests in prop_oneof![Just(0), any::<u64>()], changed in prop_oneof![Just(0), any::<u64>()],
        ) {
            let numbers = ConversationNumbers { version, requests, changed };
            let value = numbers.encode();
            prop_assert_eq!(ConversationNumbers::decode(&value).expect("decodes"), numbers);
            prop_assert!(ConversationNumbers::decode(&value[1..]).is_err());
        }
    }

    #[test]
    fn numbers_without_requests_have_one_layout() {
        assert!(ConversationNumbers::decode(&numbers_value([7, 0])).is_err());
        assert!(ConversationNumbers::decode(&numbers_value([7, 1, 0])).is_err());
    }
}
