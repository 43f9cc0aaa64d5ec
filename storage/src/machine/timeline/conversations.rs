//! What a user has read in each conversation, and wants of it. See docs/adr/0028-marks.md.

use std::io;

use carillon_proto::{
    KeyedMap, Level,
    pb::store::{
        Append, Audience, Conversation, ConversationRow, ConversationsMoved, Membership, MessageRequest, MoveMarks,
        RecordHeader, RequestAnswer, SetConversation, SweepConversations, TimelineKey, append::Admission,
        move_marks::Mark, rejected::Reason, timeline_key::Kind,
    },
};
use prost::Message as _;

use super::{
    Batch, CachedTimeline, Outcome, TimelineMachine, TimelineState, done, groups,
    privacy::{self, Fate},
    rejected, timeline_key,
};
use crate::machine::{
    broken,
    conversations::{self, Said},
    keys::{self, ConversationNumbers, RowBytes, Stored},
};

/// Most conversations of a user that have marks or settings, when one without any message is to get settings. Replicas with different
/// numbers would diverge: a change needs a new level.
pub(in crate::machine) const WITHOUT_MESSAGES: u64 = 8192;
/// Longer rows, which have a draft, are not kept in memory.
const KEPT_BYTES: usize = 256;

/// The versions that a command gives.
pub(super) struct Versions {
    number: u64,
    before: ConversationNumbers,
    now: ConversationNumbers,
}

impl Versions {
    pub(super) fn requests(&self) -> u64 {
        self.now.requests
    }

    /// A conversation was, or was not, an open request, and now is the latter or the former.
    fn count(&mut self, before: MessageRequest, after: MessageRequest) {
        let is_open = |request: MessageRequest| u64::from(request == MessageRequest::Open);
        self.now.requests = (self.now.requests + is_open(after)).saturating_sub(is_open(before));
    }
}

/// The conversation after a message.
#[derive(Default)]
pub(super) struct Conversed {
    pub(super) header: RecordHeader,
    pub(super) in_request: bool,
    pub(super) moved: Option<Box<ConversationsMoved>>,
}

impl TimelineMachine {
    /// The next command mostly moves one of these.
    pub(super) fn keep_conversations(&mut self, touched: KeyedMap<RowBytes, Option<Conversation>>) {
        for (key, row) in touched {
            if let Some(row) = row.filter(|row| row.encoded_len() <= KEPT_BYTES) {
                self.conversations.put(key, row);
            }
        }
    }
}

impl Batch<'_> {
    /// Moves the conversation that the message belongs to, which gets the next position of this inbox. `takes_back`: as that function
    /// says. `Err`: the answer to a message that gets none.
    pub(super) fn converse(
        &mut self,
        op: &Append,
        admission: Admission,
        duplicate: &[u8; 16],
        inbox: &TimelineState,
        takes_back: bool,
    ) -> io::Result<Result<Conversed, Outcome>> {
        let peer = if op.peer.is_empty() { &op.sender } else { &op.peer };
        if self.reading.level < Level::GROUPS || peer.is_empty() {
            return Ok(Ok(Conversed::default()));
        }
        let requests = self.open_requests(Some(inbox.number), admission)?;
        let with = TimelineKey { kind: Kind::Inbox.into(), owner: peer.clone() };
        let key = keys::conversation(inbox.number, &with);
        self.touch_conversation(&key)?;
        let row = self.touched_conversations.get_mut(&key).and_then(|row| row.as_mut());
        let mut new = Conversation::default();
        let (is_new, row) = row.map_or((true, &mut new), |row| (false, row));
        match privacy::fate(Some(row), op, admission, duplicate, requests) {
            Fate::Enters => {}
            Fate::Withheld { is_noted } => {
                if !is_noted {
                    privacy::withhold(row, duplicate);
                    let row = row.clone();
                    self.put_conversation(key, row);
                }
                return Ok(Err(privacy::withheld(inbox.epoch)));
            }
            Fate::Refused => return Ok(Err(privacy::refused())),
        }
        let seq = inbox.last + 1;
        let is_own = op.sender.is_empty() || op.timeline.as_ref().is_some_and(|inbox| inbox.owner == op.sender);
        let before = row.request();
        // A user who takes something back is not thereby let in.
        let request = if takes_back { before } else { privacy::request_after(row, op, admission, is_own) };
        // The user's settings were for the conversation with the former owner of the name, and are not for that with the next one.
        let begins = privacy::begins(row, op);
        let drops_settings = begins && row.last_seq != 0 && row.settings.take().is_some();
        if begins {
            (row.peer_incarnation, row.since_seq, row.written) = (op.peer_incarnation, seq, false);
        }
        row.last_seq = seq;
        row.written |= is_own;
        let is_countable = op.header.as_ref().is_none_or(|header| header.countable);
        row.counted += u64::from(!is_own && is_countable);
        let header = RecordHeader { counted: row.counted, ..RecordHeader::default() };
        let in_request = request != MessageRequest::Unspecified;
        if request != before || drops_settings {
            row.request = request.into();
            let row = row.clone();
            // The message has its position soon.
            let inbox = TimelineState { last: seq, ..*inbox };
            let moved = Some(self.request_moved(&inbox, &with, before, row)?);
            return Ok(Ok(Conversed { header, in_request, moved }));
        }
        self.changes.put(key.clone(), row.encode_to_vec());
        if is_new {
            self.touched_conversations.insert(key, Some(new));
        }
        Ok(Ok(Conversed { header, in_request, moved: None }))
    }

    /// The conversation has become a request, or is none any more, or has lost its settings. `before`: what it was.
    fn request_moved(
        &mut self,
        inbox: &TimelineState,
        with: &TimelineKey,
        before: MessageRequest,
        row: Conversation,
    ) -> io::Result<Box<ConversationsMoved>> {
        let mut versions = self.versions(inbox.number)?;
        versions.count(before, row.request());
        let row = self.change(&mut versions, with, row);
        let rows = vec![self.row(inbox, with, row, false)?];
        Ok(Box::new(self.moved(inbox, &versions, rows)))
    }

    /// The conversation, of which the row has changed, gets the next version.
    pub(super) fn conversation_moved(
        &mut self,
        inbox: &TimelineState,
        with: &TimelineKey,
        row: Conversation,
    ) -> io::Result<Box<ConversationsMoved>> {
        self.request_moved(inbox, with, row.request(), row)
    }

    pub(super) fn move_marks(&mut self, op: &MoveMarks) -> io::Result<Outcome> {
        let inbox = match self.own_inbox(op.timeline.as_ref(), op.incarnation)? {
            Ok(Some(inbox)) => inbox,
            Ok(None) => return Ok(rejected(Reason::NotFound, "the user has no inbox yet")),
            Err(refused) => return Ok(refused),
        };
        let number = inbox.number;
        #[cfg(feature = "planted-bugs")]
        let number = super::planted::number_of_marks(number);
        // An unknown audience must not be taken for a known one.
        let shown_to = Audience::try_from(op.shown_to).map_err(|_| broken("audience of marks"))?;
        let mut versions = self.versions(number)?;
        let mut rows: Vec<ConversationRow> = Vec::with_capacity(op.marks.len());
        for mark in &op.marks {
            let with = mark.conversation.as_ref().ok_or_else(|| broken("mark without a conversation"))?;
            let owner = op.timeline.as_ref().map_or(&[][..], |inbox| &inbox.owner);
            let Some(before) = self.marked(&inbox, with)? else { continue };
            let mut after = self.read_to(&inbox, owner, with, mark, before.clone())?;
            let has_read = after.read_seq != before.read_seq || after.read_epoch != before.read_epoch;
            let is_hidden = with.kind() == Kind::Inbox && op.hidden_from.contains(&with.owner);
            let shown_to = if is_hidden { Audience::Nobody } else { shown_to };
            if has_read {
                after.shown = conversations::shown_after(&before, &after, shown_to);
                after = self.read_emptied(number, with, after)?;
            }
            let after = if after == before { after } else { self.change(&mut versions, with, after) };
            rows.retain(|row| row.conversation.as_ref() != Some(with));
            rows.push(self.row(&inbox, with, after, has_read && shown_to != Audience::Nobody)?);
        }
        Ok(Outcome::ConversationsMoved(self.moved(&inbox, &versions, rows)))
    }

    pub(super) fn set_conversation(&mut self, op: &SetConversation) -> io::Result<Outcome> {
        let with = op.conversation.as_ref().ok_or_else(|| broken("settings without a conversation"))?;
        // An unknown answer must not be taken for a known one.
        let answer = RequestAnswer::try_from(op.answer).map_err(|_| broken("answer to a request"))?;
        let inbox = match self.own_inbox(op.timeline.as_ref(), op.incarnation)? {
            Ok(Some(inbox)) => inbox,
            Ok(None) if with.kind() == Kind::Group => return Ok(not_in_group()),
            Ok(None) if answer != RequestAnswer::Unspecified => return Ok(no_conversation()),
            Ok(None) => self.first_inbox(op.timeline.as_ref(), op.incarnation, op.new_epoch)?,
            Err(refused) => return Ok(refused),
        };
        let before = match self.marked(&inbox, with)? {
            Some(before) => before,
            None if with.kind() == Kind::Group => {
                return Ok(not_in_group());
            }
            None if answer != RequestAnswer::Unspecified => return Ok(no_conversation()),
            None if self.versions(inbox.number)?.now.changed >= WITHOUT_MESSAGES => {
                let detail = format!(
                    "the user has settings of {WITHOUT_MESSAGES} conversations, which is the most for one without messages"
                );
                return Ok(rejected(Reason::Full, &detail));
            }
            None => Conversation::default(),
        };
        let mut versions = self.versions(inbox.number)?;
        let mut after = before.clone();
        conversations::set(after.settings.get_or_insert_default(), op);
        after.settings = after.settings.filter(|settings| *settings != Default::default());
        after.request = conversations::answered(before.request(), answer).into();
        versions.count(before.request(), after.request());
        let after = if after == before { after } else { self.change(&mut versions, with, after) };
        let rows = vec![self.row(&inbox, with, after, false)?];
        Ok(Outcome::ConversationsMoved(self.moved(&inbox, &versions, rows)))
    }

    pub(super) fn sweep_conversations(&mut self, op: &SweepConversations) -> io::Result<Outcome> {
        for seen in &op.rows {
            let with = seen.conversation.as_ref().ok_or_else(|| broken("conversation"))?;
            let row = self.conversation(&keys::conversation(seen.number, with))?;
            if row.is_some_and(|row| (row.last_seq, row.version) == (seen.last_seq, seen.version)) {
                self.drop_conversation(seen.number, with)?;
            }
        }
        Ok(done())
    }

    pub(super) fn drop_conversation(&mut self, number: u64, with: &TimelineKey) -> io::Result<()> {
        let key = keys::conversation(number, with);
        let Some(row) = self.conversation(&key)? else { return Ok(()) };
        let mut versions = self.versions(number)?;
        if row.version != 0 {
            self.changes.delete(keys::conversation_change(number, row.version));
            versions.now.changed = versions.now.changed.saturating_sub(1);
        }
        versions.count(row.request(), MessageRequest::Unspecified);
        self.put_versions(&versions);
        self.forget_emptied(number, with, &row)?;
        self.changes.delete(key.clone());
        self.touched_conversations.insert(key, None);
        Ok(())
    }

    /// The inbox of this incarnation, if there is one.
    pub(super) fn own_inbox(
        &mut self,
        timeline: Option<&TimelineKey>,
        incarnation: u64,
    ) -> io::Result<Result<Option<TimelineState>, Outcome>> {
        Ok(match self.held(&timeline_key(timeline)?)? {
            Some(CachedTimeline { state, .. }) if incarnation < state.incarnation => {
                Err(rejected(Reason::Gone, "the inbox of this user has ended"))
            }
            Some(CachedTimeline { state, .. }) if state.number != 0 && state.incarnation == incarnation => {
                Ok(Some(state))
            }
            Some(_) | None => Ok(None),
        })
    }

    /// Settings and scheduled messages may come before the first message.
    pub(super) fn first_inbox(
        &mut self,
        timeline: Option<&TimelineKey>,
        incarnation: u64,
        new_epoch: u64,
    ) -> io::Result<TimelineState> {
        if new_epoch == 0 {
            return Err(broken("epoch 0"));
        }
        let key = timeline_key(timeline)?;
        let before = self.held(&key)?;
        self.end(timeline, before)?;
        let state = self.create(key.clone(), new_epoch, incarnation)?;
        self.touched.insert(key, Some(CachedTimeline::new(state)));
        Ok(state)
    }

    /// The row of a conversation that there is. The user is in the group that it is in.
    fn marked(&mut self, inbox: &TimelineState, with: &TimelineKey) -> io::Result<Option<Conversation>> {
        let row = self.conversation(&keys::conversation(inbox.number, with))?;
        if with.kind() != Kind::Group {
            return Ok(row);
        }
        let parse = |value: &[u8]| Membership::decode(value).map_err(|_| broken("row of a group"));
        let membership = self.get(&keys::membership(inbox.number, with), parse)?;
        Ok(membership.filter(groups::stands).map(|_| row.unwrap_or_default()))
    }

    /// The row after the user has read up to there.
    fn read_to(
        &self,
        inbox: &TimelineState,
        owner: &[u8],
        with: &TimelineKey,
        mark: &Mark,
        mut row: Conversation,
    ) -> io::Result<Conversation> {
        if with.kind() == Kind::Group {
            if row.read_epoch != mark.epoch || row.read_seq < mark.seq {
                (row.read_epoch, row.read_seq) = (mark.epoch, mark.seq);
            }
            return Ok(seen(row));
        }
        if mark.epoch != inbox.epoch {
            return Ok(row);
        }
        let read = match mark.seq {
            seq if seq >= row.last_seq => Some((row.last_seq, row.counted)),
            seq => self.counted_at(inbox, owner, with, seq)?.map(|counted| (seq, counted)),
        };
        let Some((seq, counted)) = read else { return Ok(row) };
        let is_later = row.read_seq < seq;
        #[cfg(feature = "planted-bugs")]
        let is_later = is_later || super::planted::marks_go_back();
        if is_later {
            (row.read_seq, row.read_counted) = (seq, counted);
        }
        Ok(seen(row))
    }

    /// How many messages the other has sent up to this position, if it is one of this conversation.
    fn counted_at(&self, inbox: &TimelineState, owner: &[u8], with: &TimelineKey, seq: u64) -> io::Result<Option<u64>> {
        let counted = self.get(&keys::record(inbox.number, seq), |value| {
            let stored = Stored::decode(value)?;
            Ok(Said::of(stored.envelope).is_with(owner, &with.owner).then_some(stored.header.counted))
        })?;
        Ok(counted.flatten())
    }

    fn row(
        &self,
        inbox: &TimelineState,
        with: &TimelineKey,
        row: Conversation,
        has_read: bool,
    ) -> io::Result<ConversationRow> {
        let read_id = match has_read && with.kind() == Kind::Inbox {
            true => self.get(&keys::record(inbox.number, row.read_seq), |value| {
                Ok(Said::of(Stored::decode(value)?.envelope).id)
            })?,
            false => None,
        };
        let unread = conversations::unread(inbox, &row);
        Ok(ConversationRow {
            conversation: Some(with.clone()),
            row: Some(row),
            unread,
            read_id: read_id.unwrap_or_default(),
            ..ConversationRow::default()
        })
    }

    fn moved(&mut self, inbox: &TimelineState, versions: &Versions, rows: Vec<ConversationRow>) -> ConversationsMoved {
        self.put_versions(versions);
        let (before, version) = (versions.before.version, versions.now.version);
        ConversationsMoved { epoch: inbox.epoch, before, version, rows }
    }

    fn put_versions(&mut self, versions: &Versions) {
        let Versions { number, before, now } = versions;
        if now != before {
            self.changes.put(keys::conversations_version(*number), now.encode());
        }
    }

    pub(super) fn versions(&self, number: u64) -> io::Result<Versions> {
        let now = self.get(&keys::conversations_version(number), ConversationNumbers::decode)?.unwrap_or_default();
        Ok(Versions { number, before: now, now })
    }

    /// Writes the changed row, with the next version.
    fn change(&mut self, versions: &mut Versions, with: &TimelineKey, mut row: Conversation) -> Conversation {
        let number = versions.number;
        match row.version {
            0 => versions.now.changed += 1,
            before => self.changes.delete(keys::conversation_change(number, before)),
        }
        versions.now.version += 1;
        row.version = versions.now.version;
        self.changes.put(keys::conversation_change(number, row.version), keys::changed_conversation(with));
        self.put_conversation(keys::conversation(number, with), row.clone());
        row
    }

    pub(super) fn conversation(&mut self, key: &RowBytes) -> io::Result<Option<Conversation>> {
        self.touch_conversation(key)?;
        Ok(self.touched_conversations.get(key).cloned().flatten())
    }

    /// Has the row in memory for this batch.
    fn touch_conversation(&mut self, key: &RowBytes) -> io::Result<()> {
        if !self.touched_conversations.contains_key(key) {
            let row = match self.conversations.take(key) {
                Some(row) => Some(row),
                None => self.get(key, conversations::decode)?,
            };
            self.touched_conversations.insert(key.clone(), row);
        }
        Ok(())
    }

    fn put_conversation(&mut self, key: RowBytes, row: Conversation) {
        self.changes.put(key.clone(), row.encode_to_vec());
        self.touched_conversations.insert(key, Some(row));
    }
}

fn no_conversation() -> Outcome {
    rejected(Reason::NotFound, "there is no such conversation")
}

fn not_in_group() -> Outcome {
    rejected(Reason::NotFound, "the user is not in this group")
}

/// A user who reads a conversation no longer wants to see it as unread.
fn seen(mut row: Conversation) -> Conversation {
    if let Some(settings) = &mut row.settings {
        settings.unread = false;
    }
    row.settings = row.settings.filter(|settings| *settings != Default::default());
    row
}
