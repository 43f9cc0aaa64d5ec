//! Finds one message in a timeline of this replica, and how far the owner's devices are: for the operator's question what became
//! of a message.

use std::io;

use carillon_proto::{
    MessageId,
    pb::{
        client::Envelope,
        store::{DevicePosition, FindMessageReply, FindMessageRequest, FoundMessage, Head, find_message_request::By},
    },
    time_of_envelope,
};
use prost::Message as _;

use super::{
    TimelineReader, TimelineState, Unread, broken,
    keys::{self, Cursor, Stored},
    timeline_reader::load,
};
use crate::engine::fjall::{TimelineView, Value};

/// Most duplicate keys that one request may name.
pub(crate) const KEYS: usize = 16;
/// Most messages that one search by time reads.
const SEARCHED: u64 = 100_000;
/// A message may stand behind others that gateways took so much later, and before others that they took so much earlier: clocks
/// differ, and a send may have been repeated.
const OUT_OF_TIME_MS: u64 = 120_000;
/// Most devices in one answer.
const DEVICES: usize = 1000;

impl TimelineReader {
    /// What the applied state has of the message; the progress of the replica is left to the caller.
    pub(crate) fn find_message(&self, request: &FindMessageRequest) -> io::Result<FindMessageReply> {
        let view = self.shard.view();
        let state = match load(&view, request.timeline.as_ref(), request.incarnation) {
            Ok(state) => state,
            Err(Unread::Rejected(_)) => return Ok(FindMessageReply { gone: true, ..FindMessageReply::default() }),
            Err(Unread::Engine(error)) => return Err(error),
        };
        let Some(state) = state else {
            return Ok(FindMessageReply {
                head: Some(Head { first: 1, ..Head::default() }),
                ..FindMessageReply::default()
            });
        };
        let head = Head { epoch: state.epoch, first: state.first, last: state.last, ..Head::default() };
        let (seq, searched) = match &request.by {
            Some(By::Keys(keys)) => (by_keys(&view, &state, &keys.keys)?, 0),
            Some(By::Seq(seq)) => (Some(*seq), 0),
            Some(By::MessageId(id)) => match id.parse() {
                Ok(id) => by_id(&view, &state, id)?,
                Err(_) => (None, 0),
            },
            None => (None, 0),
        };
        let message = seq.map(|seq| message(&view, &state, seq)).transpose()?.flatten();
        let devices = devices(&view, &state)?;
        Ok(FindMessageReply { head: Some(head), message, devices, searched, ..FindMessageReply::default() })
    }
}

fn by_keys(view: &TimelineView<'_>, state: &TimelineState, given: &[bytes::Bytes]) -> io::Result<Option<u64>> {
    for key in given.iter().take(KEYS) {
        let Ok(key) = key.as_ref().try_into() else { continue };
        if let Some(value) = view.get(&keys::duplicate(state.number, key))? {
            return keys::number_of(&value).map(Some);
        }
    }
    Ok(None)
}

/// Messages stand in the order of their times, nearly: the place is found by halving, and then those around are compared. The second
/// number is not 0 if the search was given up.
fn by_id(view: &TimelineView<'_>, state: &TimelineState, id: MessageId) -> io::Result<(Option<u64>, u64)> {
    let (text, time_ms) = (id.to_string(), id.time_ms());
    let (mut low, mut high) = (state.first, state.last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let time = envelope(view, state, middle)?.and_then(|envelope| time_of_envelope(&envelope));
        if time.is_some_and(|time| time + OUT_OF_TIME_MS < time_ms) { low = middle + 1 } else { high = middle }
    }
    for (searched, record) in
        (1..).zip(view.range(keys::record(state.number, low)..=keys::record(state.number, state.last)))
    {
        let (key, value) = record?;
        let envelope = Stored::decode(&value)?.envelope;
        if time_of_envelope(envelope).is_some_and(|time| time > time_ms.saturating_add(OUT_OF_TIME_MS)) {
            break;
        }
        if Envelope::decode(envelope).map_err(|_| broken("envelope"))?.id == text {
            return Ok((Some(keys::seq_of(&key)?), 0));
        }
        if searched == SEARCHED {
            return Ok((None, searched));
        }
    }
    Ok((None, 0))
}

fn envelope(view: &TimelineView<'_>, state: &TimelineState, seq: u64) -> io::Result<Option<bytes::Bytes>> {
    if !(state.first..=state.last).contains(&seq) {
        return Ok(None);
    }
    view.get(&keys::record(state.number, seq))?.map(|value| Ok(Stored::decode(&value)?.envelope())).transpose()
}

/// Without what was said in it.
fn message(view: &TimelineView<'_>, state: &TimelineState, seq: u64) -> io::Result<Option<FoundMessage>> {
    let Some(encoded) = envelope(view, state, seq)? else { return Ok(None) };
    let mut envelope = Envelope::decode(encoded).map_err(|_| broken("envelope"))?;
    let content_bytes = envelope.content.take().map_or(0, |content| content.encoded_len()) as u32;
    Ok(Some(FoundMessage { seq, envelope: envelope.encode_to_vec().into(), content_bytes }))
}

fn devices(view: &TimelineView<'_>, state: &TimelineState) -> io::Result<Vec<DevicePosition>> {
    let clock_ms = view.get(keys::CLOCK)?.map_or(Ok(0), |value| keys::number_of(&value))?;
    let begin = keys::cursor(state.number, "");
    let end = [&*begin, &[0xff]].concat().into();
    let device = |row: io::Result<(Value, Value)>| {
        let (key, value) = row?;
        let Cursor { seq, moved_ms } = Cursor::decode(&value)?;
        // While nothing depends on the clock, it stands.
        let age_ms = (moved_ms != 0 && clock_ms > moved_ms).then(|| clock_ms - moved_ms);
        Ok(DevicePosition { device: keys::cursor_of(&key)?.1.to_owned(), seq, age_ms })
    };
    view.range(begin..=end).take(DEVICES).map(device).collect()
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        ClientId, DeviceId, DuplicateKey, ShardId, ShardKind, ShardMap, UserId,
        pb::{
            client::{Content, Recipient, Text, content, recipient::To},
            store::{Append, SetCursor, TimelineCommand, TimelineKey, timeline_command::Op, timeline_key::Kind},
        },
    };

    use super::*;
    use crate::{
        engine::{Caches, Engines},
        machine::{EntryCommands, Machine as _},
    };

    const TIME: u64 = 1_700_000_000_000;

    fn key(client_id: &str) -> DuplicateKey {
        let (alice, phone) = (UserId::new("alice").expect("valid"), DeviceId::new("phone").expect("valid"));
        DuplicateKey::new(&alice, &phone, &ClientId::new(client_id).expect("valid"))
    }

    fn inbox() -> Option<TimelineKey> {
        Some(TimelineKey { kind: Kind::Inbox.into(), owner: "bob".into() })
    }

    fn append(number: u64, time_ms: u64) -> (MessageId, Op) {
        let key = key(&number.to_string());
        let id = MessageId::of(time_ms, key);
        let envelope = Envelope {
            id: id.to_string(),
            sender: "alice".into(),
            sender_device: "phone".into(),
            to: Some(Recipient { to: Some(To::User("bob".into())) }),
            client_id: number.to_string(),
            time_ms,
            content: Some(Content {
                body: Some(content::Body::Text(Text { body: "secret".into() })),
                ..Default::default()
            }),
            ..Envelope::default()
        };
        let append = Append {
            timeline: inbox(),
            duplicate_key: key.0.to_vec().into(),
            envelope: envelope.encode_to_vec().into(),
            new_epoch: 7,
            ..Append::default()
        };
        (id, Op::Append(append))
    }

    /// A thousand messages, whose times are out of order by up to a minute.
    fn filled() -> (tempfile::TempDir, Vec<MessageId>, TimelineReader) {
        let folder = tempfile::tempdir().expect("folder");
        let map = ShardMap { directory: 1, timeline: 1 };
        let engines = Engines::open(folder.path(), map, Caches::default()).expect("opens");
        let shard = ShardId { kind: ShardKind::Timeline, index: 0 };
        let (mut machine, reader) = engines.timeline(shard).expect("shard");
        let time = |number: u64| TIME + number * 1000 + (number * 37 % 60) * 1000;
        let (ids, mut ops): (Vec<_>, Vec<_>) = (1..=1000).map(|number| append(number, time(number))).unzip();
        let device = "tablet".to_owned();
        ops.push(Op::SetCursor(SetCursor { timeline: inbox(), device, epoch: 7, seq: 400 }));
        let encode = |op| TimelineCommand { op: Some(op) }.encode_to_vec().into();
        let commands = ops.into_iter().map(encode).collect();
        machine.apply(&[EntryCommands { index: 1, commands }], b"1").expect("applies");
        (folder, ids, reader)
    }

    fn find(reader: &TimelineReader, by: By) -> FindMessageReply {
        let request = FindMessageRequest { timeline: inbox(), by: Some(by), ..FindMessageRequest::default() };
        reader.find_message(&request).expect("reads")
    }

    #[test]
    fn a_message_is_found_by_each_of_its_names_and_without_what_it_says() {
        let (_folder, ids, reader) = filled();
        for (seq, id) in (1..).zip(&ids) {
            let by_id = find(&reader, By::MessageId(id.to_string()));
            let found = by_id.message.clone().unwrap_or_else(|| panic!("{id} at {seq}"));
            assert_eq!((found.seq, by_id.searched), (seq, 0));
            assert!(found.content_bytes > 6 && !found.envelope.windows(6).any(|part| part == b"secret"));
            assert_eq!(Envelope::decode(found.envelope).expect("decodes").client_id, seq.to_string());
        }
        let keys = ["unknown", "77"].map(|id| key(id).0.to_vec().into()).to_vec();
        let by_key = find(&reader, By::Keys(carillon_proto::pb::store::DuplicateKeys { keys }));
        assert_eq!(by_key.message.map(|found| found.seq), Some(77));
        let by_seq = find(&reader, By::Seq(1000));
        assert_eq!(by_seq.message.map(|found| found.seq), Some(1000));
        assert_eq!(by_seq.head.map(|head| (head.epoch, head.first, head.last)), Some((7, 1, 1000)));
        let tablet = DevicePosition { device: "tablet".into(), seq: 400, age_ms: None };
        assert_eq!(by_seq.devices, [tablet]);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let (_folder, _, reader) = filled();
        let (other, _) = append(5000, TIME + 500_000);
        for by in [By::Seq(0), By::Seq(1001), By::MessageId(other.to_string()), By::MessageId("x".into())] {
            assert_eq!(find(&reader, by).message, None);
        }
        let later =
            FindMessageRequest { timeline: inbox(), incarnation: 9, by: Some(By::Seq(1)), ..Default::default() };
        let none = reader.find_message(&later).expect("reads");
        assert_eq!((none.head.map(|head| head.epoch), none.message), (Some(0), None), "of another incarnation");
    }
}
