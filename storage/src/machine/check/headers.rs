//! Checks of headers of messages.

use bytes::Bytes;
use carillon_proto::{
    MediaId, MessageId,
    limits::{EXPIRES_AFTER_MS, MEDIA_IN_MESSAGE, MENTIONS, POLL_OPTIONS, REACTION_BYTES, REACTIONS},
    pb::{
        client::Envelope,
        store::{Header, Reference, Rejected, header, timeline_key::Kind},
    },
};
use prost::Message as _;

use super::{check_any_user, invalid};
use crate::machine::annotations::EnvelopeHead;

pub(super) fn check(timeline: Kind, header: &Header, envelope: &[u8]) -> Result<(), Rejected> {
    let kind = header::Kind::try_from(header.kind).map_err(|_| invalid("kind of a message is unknown"))?;
    let is_message = kind == header::Kind::Message;
    let fits = header.target_seq == 0
        && !header.ended_by_rule
        && (is_message || !header.countable && header.poll.is_none())
        && (header.mentions.is_none() || is_message || kind == header::Kind::Edit)
        && (header.media.is_empty() || is_message || kind == header::Kind::Edit)
        && (header.edit_window_ms == 0 || kind == header::Kind::Edit)
        && (header.expires_at_ms == 0 || is_message || kind == header::Kind::Edit)
        && (!header.erase || kind == header::Kind::Recall)
        && (header.reactions.is_empty() || kind == header::Kind::Reaction)
        && (header.votes.is_empty() || kind == header::Kind::Vote);
    if !fits {
        return Err(invalid("a field does not belong to this kind of message"));
    }
    match &header.refers_to {
        None if is_message => {}
        Some(reference) if !is_message => {
            check_reference(timeline, reference)?;
            EnvelopeHead::decode(envelope).map_err(|_| invalid("envelope can't be read"))?;
        }
        _ => return Err(invalid("a message refers to another one exactly if it is about it")),
    }
    if let Some(mentions) = &header.mentions {
        at_most("mentioned users", mentions.users.len(), MENTIONS)?;
        mentions.users.iter().try_for_each(|user| check_any_user(user))?;
    }
    if let Some(poll) = header.poll
        && !POLL_OPTIONS.contains(&(poll.options as usize))
    {
        return Err(invalid(format!("poll of {} options, not {POLL_OPTIONS:?}", poll.options)));
    }
    check_media(&header.media)?;
    check_reactions(&header.reactions)?;
    at_most("votes", header.votes.len(), *POLL_OPTIONS.end())?;
    if header.votes.is_sorted_by(|one, next| one < next) { Ok(()) } else { Err(invalid("votes are not in order")) }
}

/// The content will be taken out of the envelope, so the envelope must be one.
pub(super) fn check_expiry(header: &Header, time_ms: u64, envelope: &[u8]) -> Result<(), Rejected> {
    if header.expires_at_ms == 0 {
        return Ok(());
    }
    let (after_ms, most_ms) = (header.expires_at_ms.saturating_sub(time_ms), *EXPIRES_AFTER_MS.end());
    if after_ms > most_ms {
        return Err(invalid(format!("message expires after {after_ms} ms, not up to {most_ms}")));
    }
    Envelope::decode(envelope).map(drop).map_err(|_| invalid("envelope can't be read"))
}

fn check_reference(timeline: Kind, reference: &Reference) -> Result<(), Rejected> {
    reference.id.parse::<MessageId>().map_err(invalid)?;
    let fits = match timeline {
        Kind::Group if reference.by_sender => matches!(reference.key.len(), 0 | 16) && reference.seq != 0,
        Kind::Group => reference.key.is_empty() && reference.seq != 0,
        Kind::Inbox | Kind::Unspecified => reference.key.len() == 16 && reference.seq == 0,
    };
    if fits { Ok(()) } else { Err(invalid("a reference names neither a message of an inbox nor one of a group")) }
}

/// Files of any shard: whether there are such files is not known here.
fn check_media(ids: &[Bytes]) -> Result<(), Rejected> {
    at_most("files", ids.len(), MEDIA_IN_MESSAGE)?;
    for (at, id) in ids.iter().enumerate() {
        if MediaId::from_bytes(id).is_none() {
            return Err(invalid(format!("id of a file has {} bytes, not 16", id.len())));
        }
        if ids[..at].contains(id) {
            return Err(invalid("a file is there twice"));
        }
    }
    Ok(())
}

fn check_reactions(reactions: &[String]) -> Result<(), Rejected> {
    at_most("reactions", reactions.len(), REACTIONS)?;
    for (at, reaction) in reactions.iter().enumerate() {
        if !(1..=REACTION_BYTES).contains(&reaction.len()) {
            return Err(invalid(format!("reaction has {} bytes, not 1 to {REACTION_BYTES}", reaction.len())));
        }
        if reactions[..at].contains(reaction) {
            return Err(invalid("a reaction is there twice"));
        }
    }
    Ok(())
}

fn at_most(what: &str, number: usize, most: usize) -> Result<(), Rejected> {
    if number <= most { Ok(()) } else { Err(invalid(format!("{number} {what}, not up to {most}"))) }
}
