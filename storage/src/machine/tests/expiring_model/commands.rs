//! Acts at random, and the commands that they make.

use std::collections::BTreeMap;

use carillon_proto::{
    Level,
    pb::{
        client::{Content, Envelope, Recipient, Text, content, recipient::To},
        store::{
            AdvanceClock, Append, CollectGarbage, EndTimeline, EraseSender, ExpireMessages, Header, Redact, Reference,
            SetLevel, TimelineCommand, TimelineKey, Trim, header, redact, timeline_command::Op, timeline_key::Kind,
        },
    },
};
use proptest::prelude::*;
use prost::Message as _;

pub(super) const OWNERS: [&str; 2] = ["a", "ab"];
pub(super) const SENDER: &str = "b";
/// Milliseconds since 1970 when the shard's clock begins; here both go at the same pace.
pub(super) const BEGAN_MS: u64 = 1_700_000_000_000;

pub(super) fn key(kind: Kind, owner: &str) -> Option<TimelineKey> {
    Some(TimelineKey { kind: kind.into(), owner: owner.to_owned().into() })
}

pub(super) fn command(op: Op) -> TimelineCommand {
    TimelineCommand { op: Some(op) }
}

pub(super) fn set_level() -> TimelineCommand {
    command(Op::SetLevel(SetLevel { level: Level::OF_PROGRAM.0 }))
}

pub(super) fn id(number: u8) -> String {
    format!("{number:026}")
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Say {
        owner: usize,
        incarnation: u64,
        number: u8,
        /// `None`: it does not expire.
        after_ms: Option<u64>,
    },
    /// Something about the message with the first number, by the second one.
    About(usize, u8, u8, header::Kind),
    /// For good.
    Erase(usize, u8, u8),
    Tick(u32),
    /// Removes messages that were due so long ago.
    Expire(u64),
    Trim(usize, u64),
    End(usize, u64),
    Redact,
    Collect,
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let owner = || 0..OWNERS.len();
    let kind = prop_oneof![
        4 => Just(header::Kind::Edit), 2 => Just(header::Kind::Reaction), 2 => Just(header::Kind::Pin),
        1 => Just(header::Kind::Unpin), 1 => Just(header::Kind::Recall),
    ];
    let incarnation = prop_oneof![9 => Just(1u64), 1 => 0..4u64];
    let after_ms = prop_oneof![1 => Just(None), 4 => (1..40u64).prop_map(Some)];
    prop_oneof![
        12 => (owner(), incarnation, 0..12u8, after_ms)
            .prop_map(|(owner, incarnation, number, after_ms)| Act::Say { owner, incarnation, number, after_ms }),
        8 => (owner(), 0..12u8, 12..40u8, kind).prop_map(|(owner, target, number, kind)| Act::About(owner, target, number, kind)),
        1 => (owner(), 0..12u8, 40..44u8).prop_map(|(owner, target, number)| Act::Erase(owner, target, number)),
        4 => (1..15u32).prop_map(Act::Tick),
        4 => (0..8u64).prop_map(Act::Expire),
        1 => (owner(), 0..20u64).prop_map(|(owner, before)| Act::Trim(owner, before)),
        1 => (owner(), 1..4u64).prop_map(|(owner, incarnation)| Act::End(owner, incarnation)),
        1 => Just(Act::Redact),
        1 => Just(Act::Collect),
    ]
}

/// Makes commands of acts.
#[derive(Default)]
pub(super) struct Teller {
    pub(super) clock_ms: u64,
    /// The time at which each message expires, by inbox and number.
    pub(super) expires: BTreeMap<(usize, u8), u64>,
    texts: u64,
    erasures: u64,
}

impl Teller {
    pub(super) fn append(&mut self, owner: usize, incarnation: u64, number: u8, header: Option<Header>) -> Append {
        self.texts += 1;
        let time_ms = BEGAN_MS + self.clock_ms;
        let expires_at_ms = header.as_ref().map_or(0, |header| header.expires_at_ms);
        let text = Text { body: format!("secret {}.", self.texts) };
        let envelope = Envelope {
            id: id(number),
            sender: SENDER.to_owned(),
            to: Some(Recipient { to: Some(To::User(OWNERS[owner].to_owned())) }),
            time_ms,
            content: Some(Content { body: Some(content::Body::Text(text)), ..Content::default() }),
            expires_at_ms,
            ..Envelope::default()
        };
        Append {
            timeline: key(Kind::Inbox, OWNERS[owner]),
            duplicate_key: vec![number; 16].into(),
            time_ms,
            envelope: envelope.encode_to_vec().into(),
            new_epoch: 5,
            incarnation,
            sender: SENDER.into(),
            sender_generation: 1 << 40,
            header: header.map(Box::new),
            ..Append::default()
        }
    }

    pub(super) fn about(&mut self, owner: usize, target: u8, number: u8, header: Header) -> Append {
        let reference = Reference { id: id(target), key: vec![target; 16].into(), by_sender: true, seq: 0 };
        let expires_at_ms = match header.kind() {
            header::Kind::Edit => self.expires.get(&(owner, target)).copied().unwrap_or(0),
            _ => 0,
        };
        self.append(owner, 1, number, Some(Header { refers_to: Some(reference), expires_at_ms, ..header }))
    }

    pub(super) fn commands(&mut self, act: &Act) -> Vec<Op> {
        vec![match *act {
            Act::Say { owner, incarnation, number, after_ms } => {
                let expires_at_ms = after_ms.map_or(0, |after_ms| BEGAN_MS + self.clock_ms + after_ms);
                self.expires.insert((owner, number), expires_at_ms);
                let header = after_ms.map(|_| Header { countable: true, expires_at_ms, ..Header::default() });
                Op::Append(self.append(owner, incarnation, number, header))
            }
            Act::About(owner, target, number, kind) => {
                let reactions = if kind == header::Kind::Reaction { vec!["x".to_owned()] } else { Vec::new() };
                Op::Append(self.about(
                    owner,
                    target,
                    number,
                    Header { kind: kind.into(), reactions, ..Header::default() },
                ))
            }
            Act::Erase(owner, target, number) => {
                let header = Header { kind: header::Kind::Recall.into(), erase: true, ..Header::default() };
                Op::Append(self.about(owner, target, number, header))
            }
            Act::Tick(elapsed_ms) => {
                self.clock_ms += u64::from(elapsed_ms);
                Op::AdvanceClock(AdvanceClock { elapsed_ms })
            }
            Act::Expire(ago_ms) => {
                // Messages ahead of the clock are not due, whatever is asked for.
                let until_ms = if ago_ms == 7 { u64::MAX } else { self.clock_ms.saturating_sub(ago_ms) };
                Op::ExpireMessages(ExpireMessages { until_ms })
            }
            Act::Trim(owner, before_seq) => {
                Op::Trim(Trim { timeline: key(Kind::Inbox, OWNERS[owner]), before_seq, limit: 256, epoch: 0 })
            }
            Act::End(owner, incarnation) => {
                Op::EndTimeline(EndTimeline { timeline: key(Kind::Inbox, OWNERS[owner]), incarnation })
            }
            Act::Redact => {
                self.erasures += 1;
                let (sender, generation) = (SENDER.to_owned(), self.erasures);
                let message = |number| (1..12).map(move |seq| redact::Message { number, seq });
                let messages = (1..4).flat_map(message).collect();
                return vec![
                    Op::EraseSender(EraseSender { sender: sender.clone(), generation }),
                    Op::Redact(Redact { sender, generation, messages }),
                ];
            }
            Act::Collect => {
                return (1..4).map(|number| Op::CollectGarbage(CollectGarbage { number, limit: 3 })).collect();
            }
        }]
    }
}
