//! A timeline shard in memory, as it should be.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_proto::pb::{
    client::{Content, Envelope, Text, content},
    store::{
        Append, Appended, Done, Head, Rejected, SenderErasure, StoreError, TimelineCommand, TimelineKey, rejected,
        store_error, timeline_command::Op,
    },
};
use prost::Message as _;

use super::SENDERS_KEPT_MS;
use crate::machine::Outcome;

#[derive(Default, Clone)]
pub(super) struct Timeline {
    pub(super) number: u64,
    pub(super) incarnation: u64,
    /// 0: ended.
    pub(super) epoch: u64,
    pub(super) first: u64,
    /// From `first`.
    pub(super) kept: Vec<Append>,
    pub(super) cursors: BTreeMap<String, u64>,
    /// Of an inbox: by device and owner of the group, epoch and position.
    pub(super) in_groups: BTreeMap<(String, Bytes), (u64, u64)>,
}

#[derive(Default)]
pub(super) struct Model {
    timelines: BTreeMap<(i32, Bytes), Timeline>,
    numbers: u64,
    clock_ms: u64,
    /// Of each sender: the generation, and when it was told.
    senders: BTreeMap<String, (u64, u64)>,
    /// The generations of senders that are being erased, and that were.
    pub(super) erasing: BTreeMap<String, u64>,
    erased: BTreeMap<String, u64>,
}

impl Timeline {
    pub(super) fn last(&self) -> u64 {
        self.first + self.kept.len() as u64 - 1
    }

    fn move_cursor(&mut self, device: &str, epoch: u64, seq: u64) {
        if self.epoch != 0 && self.epoch == epoch && seq <= self.last() {
            let cursor = self.cursors.entry(device.to_owned()).or_default();
            *cursor = seq.max(*cursor);
        }
    }

    pub(super) fn head(&self) -> Head {
        Head { epoch: self.epoch, first: self.first, last: self.last(), ..Head::default() }
    }
}

impl Model {
    pub(super) fn get(&self, key: &TimelineKey) -> Option<&Timeline> {
        self.timelines.get(&(key.kind, key.owner.clone()))
    }

    pub(super) fn apply(&mut self, command: &TimelineCommand) -> Outcome {
        let name = |key: &Option<TimelineKey>| key.as_ref().map(|key| (key.kind, key.owner.clone())).expect("a key");
        match command.op.as_ref().expect("an operation") {
            Op::Append(op) => {
                let sender = std::str::from_utf8(&op.sender).expect("text");
                if self.senders.get(sender).is_some_and(|(generation, _)| op.sender_generation < *generation) {
                    return rejected(rejected::Reason::SenderGone, "the session that has sent it is over");
                }
                match self.timelines.get(&name(&op.timeline)) {
                    Some(timeline) if timeline.incarnation > op.incarnation => return gone(),
                    // The timeline begins anew, unless the append is refused.
                    Some(timeline) if timeline.incarnation < op.incarnation || timeline.epoch == 0 => {
                        if op.only_repeat {
                            return not_there();
                        }
                        if !op.after_key.is_empty() {
                            return out_of_order();
                        }
                        self.timelines.remove(&name(&op.timeline));
                    }
                    Some(_) | None => {}
                }
                let has = |key: &Bytes| {
                    let timeline = self.timelines.get(&name(&op.timeline));
                    timeline.is_some_and(|timeline| timeline.kept.iter().any(|kept| kept.duplicate_key == *key))
                };
                if op.only_repeat && !has(&op.duplicate_key) {
                    return not_there();
                }
                if !op.after_key.is_empty() && !has(&op.duplicate_key) && !has(&op.after_key) {
                    return out_of_order();
                }
                let numbers = &mut self.numbers;
                let timeline = self.timelines.entry(name(&op.timeline)).or_insert_with(|| Timeline {
                    number: {
                        *numbers += 1;
                        *numbers
                    },
                    incarnation: op.incarnation,
                    epoch: op.new_epoch,
                    first: 1,
                    ..Timeline::default()
                });
                let seen = timeline.kept.iter().position(|kept| kept.duplicate_key == op.duplicate_key);
                if let Some(at) = seen {
                    let first_envelope = timeline.kept[at].envelope.clone();
                    return Outcome::Appended(Appended {
                        epoch: timeline.epoch,
                        seq: timeline.first + at as u64,
                        first_envelope,
                        ..Appended::default()
                    });
                }
                timeline.kept.push(op.clone());
                let (epoch, seq) = (timeline.epoch, timeline.last());
                return Outcome::Appended(Appended { epoch, seq, ..Appended::default() });
            }
            Op::SetCursor(op) => {
                if let Some(timeline) = self.timelines.get_mut(&name(&op.timeline)) {
                    timeline.move_cursor(&op.device, op.epoch, op.seq);
                }
            }
            Op::MoveCursors(op) => {
                let inbox = match self.timelines.get_mut(&name(&op.timeline)) {
                    Some(inbox) if inbox.incarnation > op.incarnation => return gone(),
                    Some(inbox) if inbox.incarnation == op.incarnation && inbox.epoch != 0 => inbox,
                    Some(_) | None => return rejected(rejected::Reason::NotFound, "the user has no inbox yet"),
                };
                for moved in &op.moved {
                    if moved.timeline == op.timeline {
                        inbox.move_cursor(&op.device, moved.epoch, moved.seq);
                        continue;
                    }
                    let (_, group) = name(&moved.timeline);
                    let cursor = inbox.in_groups.entry((op.device.clone(), group)).or_default();
                    if (cursor.0, cursor.1.max(moved.seq)) != (moved.epoch, cursor.1) {
                        *cursor = (moved.epoch, moved.seq);
                    }
                }
            }
            Op::Trim(op) => {
                if let Some(timeline) = self.timelines.get_mut(&name(&op.timeline))
                    && (op.epoch == 0 || op.epoch == timeline.epoch)
                {
                    for _ in 0..op.limit {
                        if timeline.first < op.before_seq && !timeline.kept.is_empty() {
                            timeline.kept.remove(0);
                            timeline.first += 1;
                        }
                    }
                }
            }
            Op::AdvanceClock(op) => {
                self.clock_ms += u64::from(op.elapsed_ms);
                let clock_ms = self.clock_ms;
                self.senders.retain(|_, (_, told_ms)| clock_ms - *told_ms <= SENDERS_KEPT_MS);
            }
            Op::EndSender(op) => {
                let sender = self.senders.entry(op.sender.clone()).or_default();
                *sender = (op.generation.max(sender.0), self.clock_ms);
            }
            Op::EraseSender(op) => {
                let sender = self.senders.entry(op.sender.clone()).or_default();
                *sender = (op.generation.max(sender.0), self.clock_ms);
                let done = self.erased.get(&op.sender).is_some_and(|of| *of >= op.generation);
                if !done {
                    let of = self.erasing.entry(op.sender.clone()).or_default();
                    *of = op.generation.max(*of);
                }
                return Outcome::SenderErasure(SenderErasure { done });
            }
            Op::Redact(op) => {
                if self.erasing.get(&op.sender) != Some(&op.generation) {
                    return rejected(rejected::Reason::NotFound, "the user is not being erased");
                }
                for message in &op.messages {
                    let of_number = |timeline: &&mut Timeline| timeline.number == message.number;
                    let Some(timeline) = self.timelines.values_mut().find(of_number) else { continue };
                    let place = message.seq.checked_sub(timeline.first);
                    let Some(kept) = place.and_then(|place| timeline.kept.get_mut(place as usize)) else { continue };
                    if let Ok(said) = Envelope::decode(kept.envelope.clone())
                        && said.sender == op.sender
                    {
                        kept.envelope = left_of(said).encode_to_vec().into();
                    }
                }
            }
            Op::SenderErased(op) => {
                if self.erasing.get(&op.sender) == Some(&op.generation) {
                    self.erasing.remove(&op.sender);
                    self.erased.insert(op.sender.clone(), op.generation);
                }
            }
            Op::RenewEpoch(op) => {
                if let Some(timeline) = self.timelines.get_mut(&name(&op.timeline))
                    && timeline.epoch != 0
                    && timeline.epoch == op.epoch
                    && timeline.last() < op.seq
                {
                    timeline.epoch = op.new_epoch;
                }
            }
            // Numbers are given in the order in which timelines begin.
            Op::SweepCursors(op) => {
                for seen in &op.cursors {
                    let of_number = |timeline: &&mut Timeline| timeline.number == seen.number;
                    let Some(timeline) = self.timelines.values_mut().find(of_number) else { continue };
                    if let Some(group) = &seen.group {
                        let at = (seen.device.clone(), group.owner.clone());
                        if timeline.in_groups.get(&at) == Some(&(seen.epoch, seen.seq)) {
                            timeline.in_groups.remove(&at);
                        }
                    } else if timeline.cursors.get(&seen.device) == Some(&seen.seq) {
                        timeline.cursors.remove(&seen.device);
                    }
                }
            }
            Op::EndTimeline(op) => {
                let ended = Timeline { incarnation: op.incarnation, first: 1, ..Timeline::default() };
                let timeline = self.timelines.entry(name(&op.timeline)).or_insert_with(|| ended.clone());
                if timeline.incarnation < op.incarnation {
                    *timeline = ended;
                }
            }
            // They have models of their own: `group_model`, `conversation_model`, `media_model`.
            Op::ChangeGroup(_)
            | Op::SetMembership(_)
            | Op::SettleOutbox(_)
            | Op::SweepMemberships(_)
            | Op::MoveMarks(_)
            | Op::SetConversation(_)
            | Op::SweepConversations(_) => {
                unreachable!("not among the commands")
            }
            Op::CreateMedia(_)
            | Op::CompleteMedia(_)
            | Op::RemoveMedia(_)
            | Op::ForgetReleasedMedia(_)
            | Op::NoteReleasedMedia(_)
            | Op::CheckMedia(_)
            | Op::CollectMedia(_)
            | Op::ExpireMessages(_)
            | Op::Schedule(_)
            | Op::ChangeScheduled(_)
            | Op::ReleaseScheduled(_)
            | Op::SettleScheduled(_)
            | Op::PutReport(_)
            | Op::SettleReport(_)
            | Op::RemoveReports(_) => unreachable!("not among the commands"),
            // Nothing of this is seen.
            Op::CollectGarbage(_) | Op::SetLevel(_) => {}
        }
        Outcome::Done(Done {})
    }
}

/// The remains of a message whose sender is erased.
pub(super) fn left_of(said: Envelope) -> Envelope {
    let content = Some(Content { body: Some(content::Body::Text(Text::default())), ..Default::default() });
    Envelope { sender_device: String::new(), client_id: String::new(), content, erased: true, ..said }
}

pub(super) fn out_of_order() -> Outcome {
    rejected(rejected::Reason::OutOfOrder, "the message that this one follows is not in the timeline")
}

pub(super) fn not_there() -> Outcome {
    rejected(rejected::Reason::NotFound, "the message is not in the timeline")
}

pub(super) fn gone() -> Outcome {
    rejected(rejected::Reason::Gone, "the inbox of this user has ended")
}

pub(super) fn rejected(reason: rejected::Reason, detail: &str) -> Outcome {
    let why = store_error::Why::Rejected(Rejected {
        reason: reason.into(),
        detail: detail.to_owned(),
        ..Rejected::default()
    });
    Outcome::Error(StoreError { why: Some(why) })
}
