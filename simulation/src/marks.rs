//! What marks and counts of conversations promise, and what has been seen of them.

use std::collections::BTreeMap;

use carillon_proto::{
    TimelineId, UserId,
    pb::{
        client::Envelope,
        store::{
            ConversationRow, ConversationsMoved, ConversationsRead, MoveMarks, ReadConversations, SetMembership,
            move_marks::Mark, store_reply::Result as Outcome, store_request::Op, timeline_key::Kind,
        },
    },
};

use crate::{
    clients::user_name,
    model::{Entry, Inbox, Model, owner_of, recipient_of},
    references::is_countable,
    store::MAP,
    world::World,
};

#[derive(Default)]
pub(crate) struct Marks {
    /// Conversations began when the level rose, and lack what was there before: nothing is checked.
    pub(crate) are_partial: bool,
    /// The highest marks that were answered: of the user, its incarnation, and the other user.
    highest: BTreeMap<(String, u64, String), u64>,
    /// The same in groups, with their epochs.
    in_groups: BTreeMap<(String, u64, String), (u64, u64)>,
}

/// Positions of messages between the owner of an inbox and another user, and whether they count for the owner: the other one has sent them,
/// they are not about another message, and there is something to be read in them.
fn between<'a>(inbox: &'a Inbox, owner: &'a str, other: &'a str) -> impl DoubleEndedIterator<Item = (u64, bool)> + 'a {
    let entries = (1..).zip(&inbox.entries).filter(|(_, entry)| entry.envelope.change.is_none());
    let of_pair = move |envelope: &Envelope| {
        let pair = (envelope.sender.as_str(), recipient_of(envelope));
        pair == (owner, other.to_owned()) || pair == (other, owner.to_owned())
    };
    let entries = entries.filter(move |(_, entry)| of_pair(&entry.envelope));
    let counts = |entry: &Entry| {
        let is_there = !entry.is_recalled && !entry.is_gone;
        entry.envelope.sender != owner && is_countable(&entry.envelope) && is_there
    };
    let entries: Vec<_> = entries.map(|(seq, entry)| (seq, counts(entry))).collect();
    entries.into_iter()
}

impl Model {
    /// Positions of messages between these two in the inbox of the first.
    pub(crate) fn messages_between(&self, owner: &str, incarnation: u64, other: &str) -> Vec<u64> {
        let inbox = self.inboxes.get(&(owner.to_owned(), incarnation));
        inbox.map(|inbox| between(inbox, owner, other).map(|(seq, _)| seq).collect()).unwrap_or_default()
    }

    /// The state machine has moved marks.
    pub(crate) fn marks_moved(&mut self, op: &MoveMarks, moved: &ConversationsMoved) -> Result<(), String> {
        if self.marks.are_partial {
            return Ok(());
        }
        let owner = owner_of(op.timeline.as_ref()).to_owned();
        for mark in &op.marks {
            let with = mark.conversation.clone().unwrap_or_default();
            let other = with.owner_str().unwrap_or_default().to_owned();
            if with.kind() == Kind::Group {
                self.marked_in_group((owner.clone(), op.incarnation, other), mark, moved)?;
                continue;
            }
            let row = moved.rows.iter().find(|row| row.conversation.as_ref() == Some(&with));
            let row = row.ok_or_else(|| format!("{owner} has no conversation with {other} to mark"))?;
            self.is_counted(&owner, op.incarnation, &other, row)?;
            let read = row.row.as_ref().map_or(0, |row| row.read_seq);
            let known = self.marks.highest.entry((owner.clone(), op.incarnation, other.clone())).or_default();
            if read < mark.seq.max(*known) {
                return Err(format!("{owner} has read from {other} up to {read}, and marked {} and {known}", mark.seq));
            }
            *known = read;
        }
        Ok(())
    }

    /// A mark in a group. There is no row as long as the inbox does not know that its user is a member.
    fn marked_in_group(
        &mut self,
        whose: (String, u64, String),
        mark: &Mark,
        moved: &ConversationsMoved,
    ) -> Result<(), String> {
        let row = moved.rows.iter().find(|row| row.conversation == mark.conversation).and_then(|row| row.row.as_ref());
        let Some(row) = row else { return Ok(()) };
        let (read, known) = ((row.read_epoch, row.read_seq), self.marks.in_groups.get(&whose).copied());
        let is_kept = known.is_none_or(|(epoch, seq)| epoch != read.0 || seq <= read.1);
        if read.0 != mark.epoch || read.1 < mark.seq || !is_kept {
            let (owner, _, group) = whose;
            return Err(format!("{owner} has read {group} up to {read:?}, and marked {} and {known:?}", mark.seq));
        }
        self.marks.in_groups.insert(whose, read);
        Ok(())
    }

    /// The user has come into a group, or left it: marks of before are gone.
    pub(crate) fn membership_set(&mut self, set: &SetMembership) {
        let group = set.group.as_ref().and_then(|group| group.owner_str().ok()).unwrap_or_default();
        let owner = owner_of(set.append.as_ref().and_then(|append| append.timeline.as_ref()));
        self.marks.in_groups.retain(|(of, _, known), _| of != owner || known != group);
    }

    /// A user hears up to where it has read.
    pub(crate) fn marks_answered(&mut self, owner: &str, marks: &[Mark], moved: &ConversationsMoved) {
        if self.marks.are_partial {
            return;
        }
        for mark in marks {
            if mark.conversation.as_ref().is_some_and(|with| with.kind() == Kind::Group) {
                continue;
            }
            let row = moved.rows.iter().find(|row| row.conversation == mark.conversation);
            let read = row.and_then(|row| row.row.as_ref()).map_or(0, |row| row.read_seq);
            if read < mark.seq {
                self.breaks(format!("{owner} has read up to {read}, and marked {}", mark.seq));
            }
        }
    }

    /// The row counts what is in the inbox.
    fn is_counted(&self, owner: &str, incarnation: u64, other: &str, row: &ConversationRow) -> Result<(), String> {
        let nothing = Inbox::default();
        let inbox = self.inboxes.get(&(owner.to_owned(), incarnation)).unwrap_or(&nothing);
        let conversation = row.row.as_ref().ok_or("a conversation without a row")?;
        let last = between(inbox, owner, other).map(|(seq, _)| seq).next_back().unwrap_or(0);
        let unread = between(inbox, owner, other).filter(|(seq, counts)| *counts && *seq > conversation.read_seq);
        let unread: Vec<u64> = unread.map(|(seq, _)| seq).collect();
        // The store may have removed the contents of these already.
        let expires = |seq: &&u64| inbox.at(**seq).is_some_and(|entry| entry.envelope.expires_at_ms != 0);
        let least = unread.len() - unread.iter().filter(expires).count();
        let counts = least as u64..=unread.len() as u64;
        if conversation.last_seq != last || !counts.contains(&row.unread) {
            let found = (conversation.last_seq, row.unread);
            return Err(format!(
                "the conversation of {owner} with {other} is at {found:?}, not at {:?}",
                (last, counts)
            ));
        }
        Ok(())
    }
}

impl World<'_> {
    fn check_marks_in_groups(&self, owner: &str, incarnation: u64, found: &[ConversationRow]) -> Result<(), String> {
        let own = self.model.marks.in_groups.iter().filter(|((of, by, _), _)| of == owner && *by == incarnation);
        for ((.., group), marked) in own {
            let is_with = |row: &&ConversationRow| {
                let with = row.conversation.as_ref();
                with.is_some_and(|with| with.kind() == Kind::Group && with.owner_str() == Ok(group.as_str()))
            };
            let row = found.iter().find(is_with).and_then(|row| row.row.as_ref());
            let read = row.map(|row| (row.read_epoch, row.read_seq));
            if read != Some(*marked) {
                return Err(format!("{owner} has read {group} up to {read:?}, and marked {marked:?}"));
            }
        }
        Ok(())
    }

    /// All conversations of all users are counted, and no mark is lost.
    pub(crate) fn check_conversations(&self) -> Result<(), String> {
        if self.model.marks.are_partial {
            return Ok(());
        }
        for owner in (0..self.scenario.users).map(user_name) {
            let incarnation = self.model.owner(&owner).ok_or_else(|| format!("{owner} is still deleted"))?;
            let timeline = TimelineId::Inbox(UserId::new(&owner).expect("valid"));
            let read =
                ReadConversations { timeline: Some(timeline.to_key()), incarnation, ..ReadConversations::default() };
            let found = match self.cluster.read(MAP.timeline_of(&timeline), &Op::ReadConversations(read)) {
                Outcome::ConversationsRead(ConversationsRead { rows, .. }) => rows,
                other => return Err(format!("the conversations of {owner} can't be read: {other:?}")),
            };
            for other in (0..self.scenario.users).map(user_name) {
                let is_with = |row: &&ConversationRow| {
                    row.conversation
                        .as_ref()
                        .is_some_and(|with| with.kind() == Kind::Inbox && with.owner_str() == Ok(other.as_str()))
                };
                let row = found.iter().find(is_with);
                if let Some(row) = row {
                    self.model.is_counted(&owner, incarnation, &other, row)?;
                } else if !self.model.messages_between(&owner, incarnation, &other).is_empty() {
                    return Err(format!("{owner} has no conversation with {other}"));
                }
                let read = row.and_then(|row| row.row.as_ref()).map_or(0, |row| row.read_seq);
                let marked = self.model.marks.highest.get(&(owner.clone(), incarnation, other.clone()));
                if marked.is_some_and(|marked| read < *marked) {
                    return Err(format!("{owner} has read from {other} up to {read}, and marked {marked:?}"));
                }
            }
            self.check_marks_in_groups(&owner, incarnation, &found)?;
        }
        Ok(())
    }
}
