//! The remains of a message whose sender was erased, and the search for such messages. See docs/adr/0023-user-data.md.

use std::{collections::HashSet, io};

use carillon_proto::pb::{
    client::{Envelope, GroupChange, group_change::What},
    store::redact::Message,
};
use prost::Message as _;

use super::{
    DirectoryReader, TimelineReader, broken,
    keys::{self, Stored},
};

/// Most messages that one command replaces: it bounds the time of one command.
pub(crate) const REDACTED: usize = 256;
/// Most records that one look reads.
const LOOKED_AT: usize = 4096;

/// A user that is being erased in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Erasing {
    pub(crate) user: String,
    pub(crate) generation: u64,
}

/// Messages that one look has found, each with its sender, and the key to continue after; empty at the end.
pub(crate) type FoundMessages = (Vec<(String, Message)>, Vec<u8>);

/// The part of an envelope that says whose it is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Whose {
    #[prost(string, tag = "2")]
    sender: String,
    #[prost(bool, tag = "9")]
    erased: bool,
    #[prost(message, optional, tag = "10")]
    change: Option<GroupChange>,
}

/// The sender of a message that has not been erased; empty for what the service says.
pub(super) fn sender_of(envelope: &[u8]) -> Option<String> {
    // Something that is no envelope is nobody's.
    let Whose { sender, erased, change } = Whose::decode(envelope).ok()?;
    // The user has not said that its account has ended.
    let is_of_service =
        matches!(change.and_then(|change| change.what), Some(What::Members(members)) if members.account_ended);
    (!erased).then(|| if is_of_service { String::new() } else { sender })
}

/// The remains of this message, if it is of this sender and has not been erased.
pub(super) fn erased(envelope: &[u8], sender: &str) -> io::Result<Option<Vec<u8>>> {
    if sender_of(envelope).is_none_or(|of| of != sender) {
        return Ok(None);
    }
    tombstone(envelope)
}

/// The message without its content; `None`: it has been erased already.
pub(super) fn tombstone(envelope: &[u8]) -> io::Result<Option<Vec<u8>>> {
    if sender_of(envelope).is_none() {
        return Ok(None);
    }
    let said = Envelope::decode(envelope).map_err(|_| broken("envelope"))?;
    Ok(Some(said.without_content().encode_to_vec()))
}

/// True if the shard erases, or has erased, everything that this session of the user has said. `number`: the number in the row of a key.
pub(super) fn is_erased(
    user: &str,
    session_generation: u64,
    number: impl Fn(&[u8]) -> io::Result<Option<u64>>,
) -> io::Result<bool> {
    for key in [keys::erasing_sender(user.as_bytes()), keys::erased_sender(user.as_bytes())] {
        if number(&key)?.is_some_and(|generation| session_generation < generation) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl DirectoryReader {
    /// Up to which entry of the shard's log something was erased in it.
    pub(crate) fn erased_upto(&self) -> io::Result<u64> {
        self.shard.get(keys::ERASED)?.map_or(Ok(0), |value| keys::number_of(&value))
    }

    /// Whether the last erasure of a user of this name is done.
    pub(crate) fn is_erased(&self, user: &str) -> io::Result<bool> {
        let erasure = self.shard.get(&keys::erasure(user))?.map(|value| keys::Erasure::decode(&value)).transpose()?;
        Ok(erasure.is_some_and(|erasure| erasure.done))
    }
}

impl TimelineReader {
    /// Up to which entry of the shard's log something was erased in it.
    pub(crate) fn erased_upto(&self) -> io::Result<u64> {
        self.shard.get(keys::ERASED)?.map_or(Ok(0), |value| keys::number_of(&value))
    }

    /// Whether the last erasure of a user of this name is done.
    pub(crate) fn is_erased(&self, user: &str) -> io::Result<bool> {
        let view = self.shard.view();
        let is_there = |key: &[u8]| Ok::<_, io::Error>(view.get(key)?.is_some());
        Ok(is_there(&keys::erased_sender(user.as_bytes()))? && !is_there(&keys::erasing_sender(user.as_bytes()))?)
    }

    /// The users that are being erased.
    pub(crate) fn erasing(&self) -> io::Result<Vec<Erasing>> {
        let view = self.shard.view();
        let rows = view.range(keys::all_erasing_senders());
        rows.map(|row| {
            let (key, value) = row?;
            Ok(Erasing { user: keys::erased_sender_of(&key)?.to_owned(), generation: keys::number_of(&value)? })
        })
        .collect()
    }

    /// Messages of these users behind the key `after`, as far as one look goes.
    pub(crate) fn sent_by(&self, users: &HashSet<String>, after: &[u8]) -> io::Result<FoundMessages> {
        let view = self.shard.view();
        let (begin, end) = keys::all_records().into_inner();
        let begin = if after.is_empty() { begin } else { keys::after(after) };
        let mut found = Vec::new();
        for (looked_at, record) in (1..).zip(view.range(begin..=end)) {
            let (key, value) = record?;
            if let Some(sender) = sender_of(Stored::decode(&value)?.envelope).filter(|sender| users.contains(sender)) {
                let (number, seq) = keys::record_of(&key)?;
                found.push((sender, Message { number, seq }));
            }
            if looked_at == LOOKED_AT {
                return Ok((found, key.to_vec()));
            }
        }
        Ok((found, Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::{
        Content, MembersChange, Recipient, Text, content::Body, members_change::Kind, recipient::To,
    };

    use super::*;

    #[test]
    fn that_an_account_has_ended_is_not_erased_with_what_it_has_said() {
        let left = |account_ended| {
            let users = vec!["alice".to_owned()];
            let members = MembersChange { kind: Kind::Left.into(), users, account_ended, ..MembersChange::default() };
            let change = Some(Box::new(GroupChange { what: Some(What::Members(members)) }));
            Envelope { sender: "alice".into(), change, ..Envelope::default() }.encode_to_vec()
        };
        assert_eq!(erased(&left(true), "alice").expect("decodes"), None);
        assert!(erased(&left(false), "alice").expect("decodes").is_some(), "she has left by herself");
    }

    #[test]
    fn what_is_left_is_a_valid_message_without_what_was_said() {
        let said = Envelope {
            id: "01".into(),
            sender: "alice".into(),
            sender_device: "her phone".into(),
            to: Some(Recipient { to: Some(To::User("bob".into())) }),
            client_id: "c".into(),
            time_ms: 7,
            content: Some(Content { body: Some(Body::Text(Text { body: "secret".into() })), ..Default::default() }),
            erased: false,
            change: None,
            expires_at_ms: 9,
        };
        let bytes = said.encode_to_vec();
        assert_eq!(erased(&bytes, "bob").expect("decodes"), None, "of another sender");
        let left = erased(&bytes, "alice").expect("decodes").expect("is hers");
        assert_eq!(erased(&left, "alice").expect("decodes"), None, "once");
        let left = Envelope::decode(&*left).expect("decodes");
        let content = Some(Content { body: Some(Body::Text(Text::default())), ..Default::default() });
        let expected =
            Envelope { sender_device: String::new(), client_id: String::new(), content, erased: true, ..said };
        assert_eq!(left, expected);
        assert_eq!(erased(b"\xff\xff", "alice").expect("nobody's"), None);
    }
}
