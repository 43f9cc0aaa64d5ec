//! Messages that refer to messages: what the service has to know of their content. See docs/adr/0029-references.md.

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, InvalidId, MediaReference, MessageId, UserId, limits,
    pb::{
        client::{self, Content, MessageRef, content::Body, recipient::To},
        store::{self, Header, PollRules, Reference, header::Kind},
    },
};

use super::content::{ContentError, at_most, check_body, wrong};

/// Longest quote of a message that is answered, and longest question of a poll, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// Longest option of a poll, in bytes.
const MAX_OPTION_BYTES: usize = 256;

/// True for content that only a service which knows references takes.
pub(super) fn needs_references(content: &Content) -> bool {
    matches!(
        content.body,
        Some(Body::Edit(_) | Body::Recall(_) | Body::Reaction(_) | Body::Pin(_) | Body::Poll(_) | Body::Vote(_))
    )
}

/// The header of a message with this content, from this sender; `None`: the message is plain. Checks the references in the content.
pub(super) fn header(
    content: &Content,
    sender: &UserId,
    to: &To,
    edit_window_ms: u64,
) -> Result<Option<Box<Header>>, ContentError> {
    check_context(content)?;
    let (target, header) = match &content.body {
        Some(Body::Edit(edit)) => {
            let new = edit.content.as_ref().ok_or_else(|| wrong("edit.content", "is missing"))?;
            if is_about_another(new) || matches!(new.body, Some(Body::Poll(_))) {
                return Err(wrong("edit.content", "must be one of text to custom"));
            }
            check_body(new)?;
            check_context(new)?;
            let (media, expires_at_ms) =
                (media_ids(content), edit.target.as_ref().map_or(0, |target| target.expires_at_ms));
            let mentions = mentions_of(new);
            let header =
                Header { kind: Kind::Edit.into(), edit_window_ms, mentions, media, expires_at_ms, ..Header::default() };
            (&edit.target, header)
        }
        Some(Body::Recall(recall)) => {
            (&recall.target, Header { kind: Kind::Recall.into(), erase: recall.erase, ..Header::default() })
        }
        Some(Body::Reaction(reaction)) => {
            check_reactions(&reaction.emojis)?;
            let reactions = reaction.emojis.clone();
            (&reaction.target, Header { kind: Kind::Reaction.into(), reactions, ..Header::default() })
        }
        Some(Body::Pin(pin)) => {
            let kind = if pin.unpin { Kind::Unpin } else { Kind::Pin };
            (&pin.target, Header { kind: kind.into(), ..Header::default() })
        }
        Some(Body::Vote(vote)) => {
            let mut votes = vote.options.clone();
            votes.sort_unstable();
            let is_there_twice = votes.windows(2).any(|pair| pair[0] == pair[1]);
            if is_there_twice || votes.len() > *limits::POLL_OPTIONS.end() {
                return Err(wrong("vote.options", "must be options of the poll, each once"));
            }
            (&vote.target, Header { kind: Kind::Vote.into(), votes, ..Header::default() })
        }
        _ => return Ok(of_message(content).map(Box::new)),
    };
    let target = target.as_ref().ok_or_else(|| wrong("target", "is missing"))?;
    let refers_to = Some(reference(target, sender, to)?);
    Ok(Some(Box::new(Header { refers_to, ..header })))
}

/// Like `header`, for what may not be about another message.
pub(super) fn header_of_message(content: &Content) -> Result<Option<Box<Header>>, ContentError> {
    if is_about_another(content) {
        return Err(wrong("content", "must say something itself: what is about another message is not sent later"));
    }
    check_context(content)?;
    Ok(of_message(content).map(Box::new))
}

/// Of a message that says something; `None`: it is plain.
fn of_message(content: &Content) -> Option<Header> {
    let poll = match &content.body {
        Some(Body::Poll(poll)) => {
            let options = poll.options.len() as u32;
            Some(PollRules { options, multiple: poll.multiple, until_ms: poll.until_ms })
        }
        _ => None,
    };
    let mentions = mentions_of(content);
    let media = media_ids(content);
    if poll.is_none() && mentions.is_none() && media.is_empty() {
        return None;
    }
    Some(Header { kind: Kind::Message.into(), countable: true, mentions, poll, media, ..Header::default() })
}

fn mentions_of(content: &Content) -> Option<store::Mentions> {
    let mentions = content.mentions.as_deref().cloned();
    mentions.map(|client::Mentions { users, all, here }| store::Mentions { users, all, here })
}

/// The ids of the files that are kept as long as the message.
fn media_ids(content: &Content) -> Vec<bytes::Bytes> {
    let media = MediaReference::of_content(content);
    media.map(|reference| bytes::Bytes::copy_from_slice(reference.id().as_bytes())).into_iter().collect()
}

fn is_about_another(content: &Content) -> bool {
    needs_references(content) && !matches!(content.body, Some(Body::Poll(_)))
}

/// Checks what stands beside the body.
fn check_context(content: &Content) -> Result<(), ContentError> {
    let Content { reply_to, thread, forwarded_from, mentions, .. } = content;
    if is_about_another(content)
        && (reply_to.is_some() || thread.is_some() || forwarded_from.is_some() || mentions.is_some())
    {
        return Err(wrong(
            "content",
            "is about another message and says nothing itself, so it answers, forwards and mentions nothing",
        ));
    }
    if let Some(reply_to) = reply_to {
        check_ref("reply_to.message", reply_to.message.as_ref())?;
        at_most("reply_to.quote", reply_to.quote.len(), MAX_TEXT_BYTES)?;
        if !reply_to.quote.is_empty() && reply_to.message.as_ref().is_some_and(|message| message.expires_at_ms != 0) {
            return Err(wrong(
                "reply_to.quote",
                "must be empty where the message expires: it would outlive the message",
            ));
        }
    }
    if thread.is_some() {
        check_ref("thread", thread.as_deref())?;
    }
    if let Some(from) = forwarded_from {
        UserId::check(&from.sender).map_err(|error| wrong("forwarded_from.sender", error.to_string()))?;
        check_id("forwarded_from.id", &from.id)?;
    }
    if let Some(mentions) = mentions {
        if mentions.users.len() > limits::MENTIONS {
            return Err(wrong(
                "mentions.users",
                format!("are {} but must be at most {}", mentions.users.len(), limits::MENTIONS),
            ));
        }
        for user in &mentions.users {
            UserId::check(user).map_err(|error| wrong("mentions.users", error.to_string()))?;
        }
    }
    match &content.body {
        Some(Body::Poll(poll)) => check_poll(poll),
        _ => Ok(()),
    }
}

fn check_poll(poll: &client::Poll) -> Result<(), ContentError> {
    if poll.question.is_empty() {
        return Err(wrong("poll.question", "is empty but must ask something"));
    }
    at_most("poll.question", poll.question.len(), MAX_TEXT_BYTES)?;
    if !limits::POLL_OPTIONS.contains(&poll.options.len()) {
        return Err(wrong("poll.options", format!("are {} but must be 2 to 32", poll.options.len())));
    }
    poll.options.iter().try_for_each(|option| match option.len() {
        0 => Err(wrong("poll.options", "has an empty one")),
        bytes => at_most("poll.options", bytes, MAX_OPTION_BYTES),
    })
}

fn check_reactions(emojis: &[String]) -> Result<(), ContentError> {
    if emojis.len() > limits::REACTIONS {
        return Err(wrong(
            "reaction.emojis",
            format!("are {} but must be at most {}", emojis.len(), limits::REACTIONS),
        ));
    }
    for (at, emoji) in emojis.iter().enumerate() {
        if emoji.is_empty() || emoji.chars().any(char::is_control) {
            return Err(wrong("reaction.emojis", "must be 1 to 64 bytes without control characters"));
        }
        at_most("reaction.emojis", emoji.len(), limits::REACTION_BYTES)?;
        if emojis[..at].contains(emoji) {
            return Err(wrong("reaction.emojis", "has one twice"));
        }
    }
    Ok(())
}

fn check_id(what: &'static str, id: &str) -> Result<(), ContentError> {
    id.parse::<MessageId>().map(drop).map_err(|error| wrong(what, error.to_string()))
}

/// Checks the name of a message that need not exist.
fn check_ref(what: &'static str, message: Option<&MessageRef>) -> Result<(), ContentError> {
    let message = message.ok_or_else(|| wrong(what, "is missing"))?;
    let invalid = |error: InvalidId| wrong(what, error.to_string());
    check_id(what, &message.id)?;
    UserId::check(&message.sender).map_err(invalid)?;
    if !message.sender_device.is_empty() {
        DeviceId::check(&message.sender_device).map_err(invalid)?;
    }
    if message.client_id.is_empty() { Ok(()) } else { ClientId::check(&message.client_id).map_err(invalid) }
}

/// The reference by which the store finds the message.
fn reference(target: &MessageRef, sender: &UserId, to: &To) -> Result<Reference, ContentError> {
    check_ref("target", Some(target))?;
    // All that an erased envelope says of these.
    if target.sender_device.is_empty() && target.client_id.is_empty() {
        return Err(ContentError::Gone);
    }
    let by_sender = target.sender == sender.as_str();
    let key = || -> Result<bytes::Bytes, ContentError> {
        let invalid = |error: InvalidId| wrong("target", error.to_string());
        let author = UserId::new(&target.sender).map_err(invalid)?;
        let device = DeviceId::new(&target.sender_device).map_err(invalid)?;
        let client_id = ClientId::new(&target.client_id).map_err(invalid)?;
        Ok(bytes::Bytes::copy_from_slice(&DuplicateKey::new(&author, &device, &client_id).0))
    };
    let key = match to {
        To::User(user) if by_sender || target.sender == *user => key()?,
        To::User(_) => return Err(wrong("target", "is a message of another conversation")),
        To::Group(_) if target.seq == 0 => return Err(wrong("target.seq", "is missing")),
        // Without these an author who is no admin changes nothing.
        To::Group(_) if by_sender && !target.client_id.is_empty() => key()?,
        To::Group(_) => bytes::Bytes::new(),
    };
    let seq = if matches!(to, To::Group(_)) { target.seq } else { 0 };
    Ok(Reference { id: target.id.clone(), key, by_sender, seq })
}
