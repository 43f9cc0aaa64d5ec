//! Reads of what has become of messages.

use std::{collections::BTreeSet, io};

use bytes::Bytes;
use carillon_proto::pb::{
    client::{PollTally, ReactionCount},
    link::RawMessageState,
    store::{Annotated, Mentioned, Pins, UserAnnotation},
};
use prost::Message;

use super::MENTIONED;
use crate::{
    engine::fjall::TimelineView,
    machine::{
        broken,
        keys::{self, Stored},
    },
};

/// Whose own reactions and votes are told.
#[derive(Debug, Clone, Copy)]
pub(in crate::machine) struct ReadBy<'a> {
    pub(in crate::machine) user: &'a str,
    /// Of the account in a group; 0 in an inbox.
    pub(in crate::machine) incarnation: u64,
}

/// An encoded `carillon.client.v1.MessageState`; empty: nothing refers to the message.
pub(in crate::machine) fn state(
    view: &TimelineView<'_>,
    number: u64,
    seq: u64,
    read_by: Option<ReadBy<'_>>,
) -> io::Result<Bytes> {
    let Some(row) = row::<Annotated>(view, &keys::annotated(number, seq))? else { return Ok(Bytes::new()) };
    let envelope = |seq: u64| -> io::Result<Bytes> { Ok(envelope(view, number, seq, false)?.unwrap_or_default()) };
    if let Some(recall) = &row.recall {
        let recalled = RawMessageState { recall: envelope(recall.seq)?, ..RawMessageState::default() };
        return Ok(recalled.encode_to_vec().into());
    }
    let own = |key: &dyn Fn(&str) -> keys::RowBytes| -> io::Result<UserAnnotation> {
        let Some(read_by) = read_by else { return Ok(UserAnnotation::default()) };
        let own = self::row::<UserAnnotation>(view, &key(read_by.user))?;
        Ok(own.filter(|own| own.incarnation == read_by.incarnation).unwrap_or_default())
    };
    let mut state = RawMessageState { pinned: row.pinned, edits: row.edits.len() as u32, ..RawMessageState::default() };
    if let Some(edit) = row.edits.last() {
        state.edit = envelope(edit.seq)?;
    }
    if !row.reactions.is_empty() {
        state.own_reactions = own(&|user| keys::reactions(number, seq, user))?.reactions;
        let count = |reacted: carillon_proto::pb::store::annotated::Reacted| ReactionCount {
            emoji: reacted.emoji,
            users: reacted.users,
        };
        state.reactions = row.reactions.into_iter().map(count).collect();
    }
    if row.voters > 0 {
        let own = own(&|user| keys::votes(number, seq, user))?.votes;
        state.poll = Some(PollTally { votes: row.votes, voters: row.voters, own });
    }
    Ok(state.encode_to_vec().into())
}

/// The positions of the message at this position and of its edits, in the order in which they count.
pub(in crate::machine) fn edits(view: &TimelineView<'_>, number: u64, seq: u64) -> io::Result<Vec<u64>> {
    let edits = row::<Annotated>(view, &keys::annotated(number, seq))?.unwrap_or_default().edits;
    Ok(std::iter::once(seq).chain(edits.into_iter().map(|edit| edit.seq)).collect())
}

/// The positions of the messages that are pinned in the conversation with this user; empty: in the group.
pub(in crate::machine) fn pinned(view: &TimelineView<'_>, number: u64, with: &str) -> io::Result<Vec<u64>> {
    let mut seqs = row::<Pins>(view, &keys::pins(number, with))?.unwrap_or_default().seqs;
    seqs.sort_unstable();
    Ok(seqs)
}

/// How many of the messages behind this position mention the member, or everybody.
pub(in crate::machine) fn mentions(
    view: &TimelineView<'_>,
    number: u64,
    member: ReadBy<'_>,
    behind: u64,
) -> io::Result<usize> {
    let everybody = row::<Mentioned>(view, &keys::mentioned(number, ""))?.unwrap_or_default();
    let own = row::<Mentioned>(view, &keys::mentioned(number, member.user))?;
    let own = own.filter(|own| own.incarnation == member.incarnation).unwrap_or_default();
    let seqs: BTreeSet<u64> = everybody.seqs.into_iter().chain(own.seqs).filter(|seq| *seq > behind).collect();
    Ok(seqs.len().min(MENTIONED))
}

/// `with_recalled`: also what a recalled message said.
pub(in crate::machine) fn envelope(
    view: &TimelineView<'_>,
    number: u64,
    seq: u64,
    with_recalled: bool,
) -> io::Result<Option<Bytes>> {
    let Some(record) = view.get(&keys::record(number, seq))? else { return Ok(None) };
    let stored = Stored::decode(&record)?;
    Ok(Some(if with_recalled { stored.envelope() } else { stored.shown() }))
}

fn row<M: Message + Default>(view: &TimelineView<'_>, key: &[u8]) -> io::Result<Option<M>> {
    let decode = |value: &[u8]| M::decode(value).map_err(|_| broken("row of a message that others refer to"));
    view.get(key)?.map(|value| decode(&value)).transpose()
}
