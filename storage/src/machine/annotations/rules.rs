//! Who may make what of a message, and what becomes of its rows. Pure: times come with the envelopes.

use carillon_proto::pb::store::{Annotated, Header, Stamp, annotated::Reacted, header::Kind, rejected::Reason};

use super::EnvelopeHead;
use crate::machine::groups::{Refused, refused};

// Replicas with different numbers would diverge: a change needs a new level.
/// Most edits of a message.
const EDITS: usize = 100;
/// Most different reactions to a message.
const REACTIONS: usize = 128;
/// Most pinned messages of a conversation.
const PINNED: usize = 50;
/// Most messages that are known to mention a member, or everybody.
pub(in crate::machine) const MENTIONED: usize = 100;

/// A message that is about another one, as far as the rules need it.
pub(in crate::machine) struct Case<'a> {
    pub(in crate::machine) header: &'a Header,
    /// The message, and the one that it is about.
    pub(in crate::machine) said: &'a EnvelopeHead,
    pub(in crate::machine) target: &'a EnvelopeHead,
    /// Of the target.
    pub(in crate::machine) target_header: &'a Header,
    pub(in crate::machine) row: &'a Annotated,
    pub(in crate::machine) by_author: bool,
    /// `None`: a direct conversation.
    pub(in crate::machine) in_group: Option<InGroup>,
    /// Pinned messages of the conversation.
    pub(in crate::machine) pinned: usize,
}

/// The rights of the sender in the group.
#[derive(Debug, Clone, Copy)]
pub(in crate::machine) struct InGroup {
    pub(in crate::machine) is_admin: bool,
    /// The sender's role is higher than that of the target's author.
    pub(in crate::machine) is_above_author: bool,
}

/// Whether that may be made of the target.
pub(in crate::machine) fn check(case: &Case<'_>) -> Result<(), Refused> {
    let Case { header, said, target, target_header, row, .. } = case;
    if target.erased {
        return Err(refused(Reason::NotFound, "the message was erased"));
    }
    if target_header.kind() != Kind::Message {
        return Err(refused(Reason::Invalid, "what it refers to is itself about another message"));
    }
    if row.recall.is_some() && !(header.kind() == Kind::Recall && header.erase && !row.erased) {
        return Err(refused(Reason::NotFound, "the message was recalled"));
    }
    // By the times that gateways gave to both, as everywhere here.
    if target_header.expires_at_ms != 0 && said.time_ms >= target_header.expires_at_ms {
        return Err(refused(Reason::NotFound, "the time of the message is over"));
    }
    let of_author = |what: &str| match case.by_author {
        true => Ok(()),
        false => Err(refused(Reason::Forbidden, &format!("only its author {what} a message"))),
    };
    match header.kind() {
        Kind::Message => Ok(()),
        Kind::Edit => {
            of_author("edits")?;
            if target_header.poll.is_some() {
                return Err(refused(Reason::Invalid, "a poll can't be edited"));
            }
            if header.expires_at_ms != target_header.expires_at_ms {
                return Err(refused(
                    Reason::Invalid,
                    "an edit expires with its message: target.expires_at_ms is another one",
                ));
            }
            let window_ms = header.edit_window_ms;
            if window_ms != 0 && said.time_ms.saturating_sub(target.time_ms) > window_ms {
                return Err(refused(Reason::TooLate, &format!("a message can be edited for {} s", window_ms / 1000)));
            }
            at_most(row.edits.len() + 1, EDITS, "edits of the message")
        }
        Kind::Recall if case.in_group.is_some_and(|group| group.is_above_author) => Ok(()),
        Kind::Recall => of_author("or, in a group, who has a higher role than the author, recalls"),
        Kind::Reaction => {
            let is_new = |emoji: &&String| !row.reactions.iter().any(|known| known.emoji == **emoji);
            let new = header.reactions.iter().filter(is_new).count();
            if new == 0 { Ok(()) } else { at_most(row.reactions.len() + new, REACTIONS, "different reactions") }
        }
        Kind::Pin | Kind::Unpin if case.in_group.is_some_and(|group| !group.is_admin) => {
            Err(refused(Reason::Forbidden, "only admins and owners pin messages in a group"))
        }
        Kind::Pin if !row.pinned => at_most(case.pinned + 1, PINNED, "pinned messages"),
        Kind::Pin | Kind::Unpin => Ok(()),
        Kind::Vote => check_vote(header, target_header, said.time_ms),
    }
}

fn check_vote(header: &Header, target: &Header, time_ms: u64) -> Result<(), Refused> {
    let Some(poll) = target.poll else { return Err(refused(Reason::Invalid, "the message is not a poll")) };
    if poll.until_ms != 0 && time_ms > poll.until_ms {
        return Err(refused(Reason::TooLate, "the poll is over"));
    }
    if header.votes.iter().any(|vote| *vote >= poll.options) {
        return Err(refused(Reason::Invalid, &format!("the poll has {} options", poll.options)));
    }
    if header.votes.len() > 1 && !poll.multiple {
        return Err(refused(Reason::Invalid, "in this poll one option is chosen"));
    }
    Ok(())
}

fn at_most(number: usize, most: usize, what: &str) -> Result<(), Refused> {
    if number <= most {
        Ok(())
    } else {
        Err(refused(Reason::Full, &format!("there are {most} {what}, which is the most")))
    }
}

/// True if `stamp` counts rather than `known`. The two inboxes of a direct conversation may have the envelopes in another order, so time
/// and id decide there; in a group the position does.
pub(in crate::machine) fn is_later(stamp: &Stamp, known: Option<&Stamp>, in_group: bool) -> bool {
    known.is_none_or(|known| match in_group {
        true => stamp.seq > known.seq,
        false => (stamp.time_ms, &stamp.id) > (known.time_ms, &known.id),
    })
}

/// Adds an edit at its place, if there is room.
pub(in crate::machine) fn put_edit(row: &mut Annotated, stamp: Stamp, in_group: bool) {
    if row.edits.len() < EDITS {
        let earlier = |known: &Stamp| is_later(&stamp, Some(known), in_group);
        let at = row.edits.iter().rposition(earlier).map_or(0, |at| at + 1);
        row.edits.insert(at, stamp);
    }
}

/// Counts what a user has chosen.
pub(in crate::machine) fn count_up(row: &mut Annotated, reactions: &[String], votes: &[u32], options: u32) {
    for emoji in reactions {
        match row.reactions.iter_mut().find(|known| known.emoji == *emoji) {
            Some(known) => known.users += 1,
            None => row.reactions.push(Reacted { emoji: emoji.clone(), users: 1 }),
        }
    }
    if votes.is_empty() {
        return;
    }
    row.votes.resize(options as usize, 0);
    for vote in votes {
        if let Some(count) = row.votes.get_mut(*vote as usize) {
            *count += 1;
        }
    }
    row.voters += 1;
}

/// No longer counts what a user had chosen.
pub(in crate::machine) fn count_down(row: &mut Annotated, reactions: &[String], votes: &[u32]) {
    for emoji in reactions {
        if let Some(at) = row.reactions.iter().position(|known| known.emoji == *emoji) {
            row.reactions[at].users = row.reactions[at].users.saturating_sub(1);
            if row.reactions[at].users == 0 {
                row.reactions.remove(at);
            }
        }
    }
    if votes.is_empty() {
        return;
    }
    for vote in votes {
        if let Some(count) = row.votes.get_mut(*vote as usize) {
            *count = count.saturating_sub(1);
        }
    }
    row.voters = row.voters.saturating_sub(1);
    if row.voters == 0 {
        row.votes.clear();
    }
}
