//! Bugs that are planted in the store, which the checks have to find.

use bytes::Bytes;
use carillon_proto::{
    ShardId, ShardKind,
    pb::store::{
        Append, Appended, Header, SetScheduled, TimelineCommand, TimelineKey, change_scheduled::Change, header,
        store_reply::Result as Outcome, timeline_command,
    },
};
use prost::Message as _;

use super::Write;
use crate::{
    Guard, Plant,
    model::{is_of_group, owner_of},
    world::World,
};

impl World<'_> {
    /// Bugs that the checks have to find.
    pub(super) fn plant_in(&mut self, shard: ShardId, entry: &mut Vec<Write>) {
        let Some(plant) = self.plant.filter(|_| shard.kind == ShardKind::Timeline) else { return };
        let without_key = self.is_without(Guard::Key);
        if plant == Plant::ReorderedBatch {
            entry.reverse();
        }
        let mut early = Vec::new();
        for write in entry {
            let mut command = TimelineCommand::decode(write.command.clone()).expect("checked");
            match (plant, &mut command.op) {
                (Plant::DuplicatesForgotten, Some(timeline_command::Op::Append(append))) => {
                    self.cluster.planted += 1;
                    append.duplicate_key = vec![self.cluster.planted as u8; 16].into();
                    append.after_key = Bytes::new();
                }
                (Plant::ReorderedBatch | Plant::LanesStayOpen, Some(timeline_command::Op::Append(append))) => {
                    append.after_key = Bytes::new();
                }
                (Plant::AnsweredBeforeCommit, Some(timeline_command::Op::Append(append))) => {
                    early.push((write.wire, write.id, self.guess(append)));
                }
                (Plant::CursorTooFar, Some(timeline_command::Op::SetCursor(set))) => set.seq += 1,
                (Plant::CursorTooFar, Some(timeline_command::Op::MoveCursors(moves))) => {
                    moves.moved.iter_mut().for_each(|moved| moved.seq += 1);
                }
                (Plant::BannedMayWrite, Some(timeline_command::Op::Append(append))) => {
                    let group = self.model.groups.0.get(owner_of(append.timeline.as_ref()));
                    let sender = str::from_utf8(&append.sender).unwrap_or_default();
                    if let Some(other) = group.and_then(|group| group.instead_of(sender)) {
                        append.sender = other.user.into();
                        (append.sender_incarnation, append.sender_generation) = (other.incarnation, other.incarnation);
                    }
                }
                (Plant::MarksForgotten, Some(timeline_command::Op::MoveMarks(moves))) => {
                    moves.marks.iter_mut().for_each(|mark| mark.seq = 0);
                }
                (Plant::CancelledGoOn, Some(timeline_command::Op::ChangeScheduled(change)))
                    if matches!(change.change, Some(Change::Cancel(_))) =>
                {
                    // The change sets what the message has anyway.
                    change.change = Some(Change::Set(SetScheduled::default()));
                }
                (Plant::SentEarly, Some(timeline_command::Op::Schedule(schedule))) => schedule.at_ms = 1,
                (Plant::RemovedEarly, Some(timeline_command::Op::Append(append))) => {
                    if let Some(header) = append.header.as_mut().filter(|header| header.expires_at_ms != 0) {
                        header.expires_at_ms = 1;
                    }
                }
                (Plant::OwnMessagesCount, Some(timeline_command::Op::Append(append)))
                    if !append.peer.is_empty() && append.header.is_none() =>
                {
                    append.sender = std::mem::take(&mut append.peer);
                    append.sender_generation = u64::MAX;
                }
                (Plant::OthersEdit, Some(timeline_command::Op::Append(append))) if !is_of_group(append) => {
                    let is_edit = |header: &Header| header.kind() == header::Kind::Edit;
                    let edit = append.header.as_deref().filter(|header| is_edit(header));
                    // Taken for the copy in an own inbox, whose message was allowed before.
                    if edit.and_then(|edit| edit.refers_to.as_ref()).is_some_and(|reference| !reference.by_sender) {
                        append.sender = Bytes::new();
                    }
                }
                (Plant::InboxGoesOn, Some(timeline_command::Op::Append(append))) => {
                    append.incarnation = self.first_owner(append.timeline.as_ref());
                }
                (_, Some(timeline_command::Op::Append(append))) if without_key => append.after_key = Bytes::new(),
                _ => {}
            }
            write.command = command.encode_to_vec().into();
        }
        for (wire, id, outcome) in early {
            self.reply(wire, id, outcome);
        }
    }

    pub(super) fn first_owner(&self, timeline: Option<&TimelineKey>) -> u64 {
        self.model.first_owner(owner_of(timeline)).unwrap_or(0)
    }

    fn guess(&self, append: &Append) -> Outcome {
        let (epoch, last) = self.model.head(owner_of(append.timeline.as_ref()), append.incarnation);
        let epoch = if epoch == 0 { append.new_epoch } else { epoch };
        Outcome::Appended(Appended { epoch, seq: last + 1, ..Appended::default() })
    }
}
