//! The conversations of users: how they are read, and what is the same for the state machine. See docs/adr/0028-marks.md.

use std::io;

use carillon_proto::pb::store::{
    Audience, Conversation, ConversationRow, ConversationSettings, ConversationsRead, Emptied, MarksRead,
    MessageRequest, ReadConversations, ReadMarks, RequestAnswer, SetConversation, ShownMark, TimelineKey, UnreadOf,
    marks_read, read_marks::Read, timeline_key::Kind,
};
use carillon_proto::pb::store::{Membership, member::Standing};
use prost::Message;

use super::{
    TimelineReader, Unread,
    annotations::{self, ReadBy},
    broken, emptied,
    groups::Readable,
    keys::{self, ConversationNumbers, Cursor, GroupCursor, Stored},
    timeline::TimelineState,
    timeline_reader::load,
};
use crate::engine::fjall::TimelineView;

/// Most rows of one page.
const MAX_ROWS: usize = 256;
/// Bytes after which a page ends.
const MAX_BYTES: usize = 256 * 1024;
/// Most records that are looked at for the last message that a device has.
const LOOKED_AT: usize = 256;

/// The part of an envelope that says in which conversation it is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Said {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(bytes = "vec", tag = "2")]
    sender: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    to: Option<SaidTo>,
    /// The envelope tells of a change of a group.
    #[prost(bytes = "vec", optional, tag = "10")]
    change: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct SaidTo {
    #[prost(bytes = "vec", tag = "1")]
    user: Vec<u8>,
}

impl Said {
    /// Something that is no envelope is in no conversation.
    pub(super) fn of(envelope: &[u8]) -> Self {
        Self::decode(envelope).unwrap_or_default()
    }

    /// True if one of them has sent it to the other.
    pub(super) fn is_with(&self, owner: &[u8], other: &[u8]) -> bool {
        let to = self.to.as_ref().map_or(&[][..], |to| &to.user);
        let pair = (&*self.sender, to);
        self.change.is_none() && (pair == (owner, other) || pair == (other, owner))
    }
}

/// How many messages of the other are not read.
pub(super) fn unread(inbox: &TimelineState, row: &Conversation) -> u64 {
    if row.last_seq < inbox.first {
        0
    } else {
        row.counted.saturating_sub(row.read_counted).saturating_sub(row.emptied)
    }
}

/// The position up to which others may know that the owner of the inbox has read.
pub(super) fn shown_mark(row: &Conversation, to_contact: bool) -> u64 {
    match row.shown {
        Some(shown) if to_contact => shown.to_contacts_seq.min(row.read_seq),
        Some(shown) => shown.seq.min(row.read_seq),
        None => row.read_seq,
    }
}

/// The positions up to which others may know it after the mark has moved. `before`: the row before the mark moved. `shown_to`: those to whom
/// the user shows the mark now.
pub(super) fn shown_after(before: &Conversation, row: &Conversation, shown_to: Audience) -> Option<ShownMark> {
    // Positions of another epoch say nothing of these.
    let is_same = before.read_epoch == row.read_epoch;
    let earlier = |to_contact| if is_same { shown_mark(before, to_contact) } else { 0 };
    match shown_to {
        Audience::Unspecified | Audience::Everyone => None,
        Audience::Contacts | Audience::Requests => {
            Some(ShownMark { seq: earlier(false), to_contacts_seq: row.read_seq })
        }
        Audience::Nobody => Some(ShownMark { seq: earlier(false), to_contacts_seq: earlier(true) }),
    }
}

pub(super) fn set(settings: &mut ConversationSettings, op: &SetConversation) {
    let SetConversation { pinned, archived, muted_until_ms, notify, draft, unread, .. } = op;
    settings.pinned = pinned.unwrap_or(settings.pinned);
    settings.archived = archived.unwrap_or(settings.archived);
    settings.muted_until_ms = muted_until_ms.unwrap_or(settings.muted_until_ms);
    settings.notify = notify.unwrap_or(settings.notify);
    if let Some(draft) = draft {
        settings.draft.clone_from(draft);
    }
    settings.unread = unread.unwrap_or(settings.unread);
}

/// What the owner of the inbox makes of a request.
pub(super) fn answered(request: MessageRequest, answer: RequestAnswer) -> MessageRequest {
    match (request, answer) {
        (_, RequestAnswer::Unspecified) => request,
        (_, RequestAnswer::Accept) | (MessageRequest::Unspecified, RequestAnswer::Decline) => {
            MessageRequest::Unspecified
        }
        (MessageRequest::Open | MessageRequest::Declined, RequestAnswer::Decline) => MessageRequest::Declined,
    }
}

pub(super) fn decode(value: &[u8]) -> io::Result<Conversation> {
    Conversation::decode(value).map_err(|_| broken("row of a conversation"))
}

/// How many messages of others this member of the group has not read, and how many of these mention the member. Who writes has read what
/// stands before, and who joins is not told of what was there.
pub(super) fn unread_in_group(
    view: &TimelineView<'_>,
    group: &TimelineKey,
    of: &UnreadOf,
) -> Result<(u64, u32), Unread> {
    let readable = Readable::load(view, Some(group), of.member.as_ref(), None)?;
    readable.seen()?;
    let (state, member) = readable.into_parts();
    let Some(member) = member else { return Ok((0, 0)) };
    let marked = if of.epoch == state.epoch { of.seq } else { 0 };
    let read = marked.max(member.wrote_seq).max(member.since_seq);
    let next = (read + 1).max(state.first);
    if next > state.last {
        return Ok((0, 0));
    }
    let record = view.get(&keys::record(state.number, next))?.ok_or_else(|| broken("gap in a timeline"))?;
    let header = Stored::decode(&record)?.header;
    let before = header.counted - u64::from(!header.uncounted && header.counted > 0);
    let unread = state.counted.saturating_sub(before);
    if unread == 0 {
        return Ok((0, 0));
    }
    let emptied = view.get(&keys::emptied(state.number, ""))?.map(|value| Emptied::decode(&*value)).transpose();
    let emptied = emptied.map_err(|_| broken("row of messages without content"))?.unwrap_or_default();
    let unread = unread.saturating_sub(emptied::count_above(&emptied, before));
    if unread == 0 {
        return Ok((0, 0));
    }
    let user = of.member.as_ref().map_or("", |member| &member.user);
    let mentions =
        annotations::mentions(view, state.number, ReadBy { user, incarnation: member.incarnation }, next - 1)?;
    Ok((unread, mentions as u32))
}

impl TimelineReader {
    pub(crate) fn conversations(&self, op: &ReadConversations) -> Result<ConversationsRead, Unread> {
        let view = self.shard.view();
        let Some(inbox) = load(&view, op.timeline.as_ref(), op.incarnation)? else {
            return Ok(ConversationsRead { complete: true, ..ConversationsRead::default() });
        };
        let newest = view.get(&keys::conversations_version(inbox.number))?;
        let newest = newest.map(|value| ConversationNumbers::decode(&value)).transpose()?.unwrap_or_default().version;
        let limit = if op.limit == 0 { MAX_ROWS } else { MAX_ROWS.min(op.limit as usize) };
        let changes = op.epoch == inbox.epoch && op.since <= newest && op.since > 0;
        let mut page = Page { inbox, rows: Vec::new(), bytes: 0, limit };
        let complete = match changes {
            true => page.changes(&view, op.since)?,
            false => page.all(&view, op.after.as_ref(), op.declined)?,
        };
        let last = page.rows.last().and_then(|row| row.row.as_ref()).map(|row| row.version);
        let version = if changes && !complete { last.unwrap_or(newest) } else { newest };
        Ok(ConversationsRead { epoch: inbox.epoch, version, changes, rows: page.rows, complete })
    }

    pub(crate) fn marks(&self, op: &ReadMarks) -> io::Result<MarksRead> {
        let view = self.shard.view();
        let marks = op.reads.iter().map(|read| Ok(mark(&view, read)?.unwrap_or_default()));
        Ok(MarksRead { marks: marks.collect::<io::Result<_>>()? })
    }
}

/// A page of conversations, as far as it is read.
struct Page {
    inbox: TimelineState,
    rows: Vec<ConversationRow>,
    bytes: usize,
    limit: usize,
}

impl Page {
    /// False if the page has no room for it.
    fn push(&mut self, with: TimelineKey, row: Conversation) -> bool {
        self.bytes += row.encoded_len() + with.owner.len();
        if self.rows.len() == self.limit || (self.bytes > MAX_BYTES && !self.rows.is_empty()) {
            return false;
        }
        let unread = unread(&self.inbox, &row);
        let unread = if with.kind() == Kind::Group { 0 } else { unread };
        self.rows.push(ConversationRow {
            conversation: Some(with),
            row: Some(row),
            unread,
            ..ConversationRow::default()
        });
        true
    }

    /// Those that have changed after this version. True if there are no further ones.
    fn changes(&mut self, view: &TimelineView<'_>, since: u64) -> io::Result<bool> {
        for change in view.range(keys::changes_after(self.inbox.number, since)) {
            let with = keys::changed_conversation_of(&change?.1)?;
            let row = view.get(&keys::conversation(self.inbox.number, &with))?;
            let row = row.ok_or_else(|| broken("change without its conversation"))?;
            if !self.push(with, decode(&row)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All after this one; with those that the user has `declined`, or without.
    fn all(&mut self, view: &TimelineView<'_>, after: Option<&TimelineKey>, declined: bool) -> io::Result<bool> {
        let number = self.inbox.number;
        let (begin, end) = keys::conversations_of(number, Kind::Inbox).into_inner();
        let begin = after.map_or(begin, |after| keys::after(&keys::conversation(number, after)));
        let with_users = Some(begin..=end).filter(|rows| !rows.is_empty());
        for row in with_users.into_iter().flat_map(|rows| view.range(rows)) {
            let (key, value) = row?;
            let row = decode(&value)?;
            let is_unwanted = !declined && row.request() == MessageRequest::Declined;
            // Nothing but what was withheld.
            if row.last_seq == 0 && row.version == 0 || is_unwanted {
                continue;
            }
            if !self.push(keys::conversation_of(&key)?.1, row) {
                return Ok(false);
            }
        }
        // Those in groups have no row before the first mark.
        let (begin, end) = keys::memberships_of(number).into_inner();
        let after = after.filter(|after| after.kind() == Kind::Group);
        let begin = after.map_or(begin, |after| keys::after(&keys::membership(number, after)));
        for row in view.range(begin..=end) {
            let (key, value) = row?;
            let membership = Membership::decode(&*value).map_err(|_| broken("row of a group"))?;
            if membership.standing() != Standing::Member {
                continue;
            }
            let (_, group) = keys::membership_of(&key)?;
            let row = view.get(&keys::conversation(number, &group))?;
            if !self.push(group, row.map_or(Ok(Conversation::default()), |row| decode(&row))?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Up to where a user has read, and its devices have received. `None`: nothing that the one who asks may know.
fn mark(view: &TimelineView<'_>, op: &Read) -> io::Result<Option<marks_read::Mark>> {
    let (Some(timeline), Some(with)) = (&op.timeline, &op.conversation) else { return Ok(None) };
    let state = TimelineState::load(view, &keys::timeline(timeline))?;
    let Some(inbox) = state.filter(|state| state.number != 0) else { return Ok(None) };
    let row = view.get(&keys::conversation(inbox.number, with))?.map(|row| decode(&row)).transpose()?;
    if with.kind() == Kind::Group {
        return mark_in_group(view, &inbox, op, with, row.unwrap_or_default()).map(Some);
    }
    // What an earlier owner of the name has said is not told to the next one.
    // Nor is anything told to a stranger whose messages are a request.
    let is_told = |row: &Conversation| {
        row.peer_incarnation == op.peer_incarnation && row.request() == MessageRequest::Unspecified
    };
    let Some(row) = row.filter(is_told) else { return Ok(None) };
    let delivered = devices(view, &inbox)?.into_iter().map(|(_, cursor)| cursor.seq).max().unwrap_or(0);
    let is_with = |envelope: &Said| envelope.is_with(&timeline.owner, &with.owner);
    let last_of = |upto: u64| -> io::Result<String> {
        let upto = upto.min(row.last_seq);
        if upto < row.since_seq {
            return Ok(String::new());
        }
        let records = view.range(keys::record(inbox.number, row.since_seq)..=keys::record(inbox.number, upto));
        for record in records.rev().take(LOOKED_AT) {
            let said = Said::of(Stored::decode(&record?.1)?.envelope);
            if is_with(&said) {
                return Ok(said.id);
            }
        }
        Ok(String::new())
    };
    let mark = marks_read::Mark {
        read_id: last_of(shown_mark(&row, op.by_contact))?,
        delivered_id: last_of(delivered.max(row.read_seq))?,
        ..marks_read::Mark::default()
    };
    Ok(Some(mark))
}

fn mark_in_group(
    view: &TimelineView<'_>,
    inbox: &TimelineState,
    op: &Read,
    group: &TimelineKey,
    row: Conversation,
) -> io::Result<marks_read::Mark> {
    let read_seq = shown_mark(&row, op.by_contact);
    let read_epoch = if read_seq == 0 { 0 } else { row.read_epoch };
    let mut mark = marks_read::Mark { read_epoch, read_seq, ..marks_read::Mark::default() };
    for (device, _) in devices(view, inbox)? {
        let Some(value) = view.get(&keys::group_cursor(inbox.number, &device, group))? else { continue };
        let cursor = GroupCursor::decode(&value)?;
        if cursor.epoch != mark.delivered_epoch || cursor.seq > mark.delivered_seq {
            (mark.delivered_epoch, mark.delivered_seq) = (cursor.epoch, cursor.seq);
        }
    }
    Ok(mark)
}

/// The devices of an inbox's user that have acknowledged something, with their cursors.
fn devices(view: &TimelineView<'_>, inbox: &TimelineState) -> io::Result<Vec<(String, Cursor)>> {
    let [_, _, prefix, ..] = keys::all_of(inbox.number);
    let end = [&*prefix, &[0xff]].concat().into();
    view.range(prefix..=end)
        .map(|row| {
            let (key, value) = row?;
            Ok((keys::cursor_of(&key)?.1.to_owned(), Cursor::decode(&value)?))
        })
        .collect()
}
