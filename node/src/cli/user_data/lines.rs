//! The lines of an export: one JSON object each, whose `kind` says what it is. docs/operations.md has the shape.

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use carillon_proto::{
    MediaId, UserId, expired_envelope,
    pb::{
        client::{Content, Envelope, recipient},
        store::{
            Account, Audience, Conversation, ConversationRow, Erasure, MediaRow, Privacy, Session, StoredEntry,
            TimelineKey, contacts_read, media_row::State, reports_read, scheduled_read, timeline_key,
        },
        userdata::DeviceCursor,
    },
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::cli::date;

pub(super) fn account(account: &Account, erasure: Option<&Erasure>) -> Value {
    let revoked: Vec<_> = account
        .revoked
        .iter()
        .map(|token| json!({"id": token.id, "expires_ms": token.expires_ms, "expires": date::format(token.expires_ms)}))
        .collect();
    json!({
        "kind": "account",
        "user": account.user,
        "created_ms": account.created_ms,
        "created": date::format(account.created_ms),
        "password": account.scram.as_ref().map(|scram| json!({"kept_as": "SCRAM-SHA-256", "iterations": scram.iterations})),
        "deleted_ms": account.deleted.then_some(account.deleted_ms),
        "erased_ms": erasure.map(|erasure| erasure.ordered_ms),
        "reserved": account.reserved,
        "last_seen_ms": (account.last_seen_ms > 0).then_some(account.last_seen_ms),
        "tokens_from_ms": (account.tokens_from_ms > 0).then_some(account.tokens_from_ms),
        "revoked_tokens": revoked,
    })
}

pub(super) fn session(session: &Session) -> Value {
    json!({
        "kind": "session",
        "device": session.device,
        "protocol": session.protocol().as_str_name().trim_start_matches("PROTOCOL_").to_ascii_lowercase(),
        "since_ms": session.since_ms,
        "since": date::format(session.since_ms),
        "by": if session.by_token { "token" } else { "password" },
        "token_id": (!session.token_id.is_empty()).then_some(&session.token_id),
        "ended": session.ended,
    })
}

pub(super) fn privacy(privacy: &Privacy) -> Value {
    let settings = privacy.settings.unwrap_or_default();
    let name = |audience: Audience| audience.as_str_name().trim_start_matches("AUDIENCE_").to_ascii_lowercase();
    let blocked: Vec<_> = privacy.blocked.iter().map(|who| &who.user).collect();
    json!({
        "kind": "privacy",
        "write": name(settings.write()),
        "groups": name(settings.groups()),
        "read_marks": name(settings.read_marks()),
        "presence": name(settings.presence()),
        "last_seen": name(settings.last_seen()),
        "blocked": blocked,
    })
}

/// `path`: where its bytes are in the export.
pub(super) fn file(id: MediaId, row: &MediaRow, is_held: bool, path: Option<String>) -> Value {
    json!({
        "kind": "file",
        "id": id.to_string(),
        "name": row.name,
        "media_type": row.media_type,
        "size_bytes": row.size_bytes,
        "whole": row.state() == State::Complete,
        "referred_to": referred_to(row, is_held),
        "path": path,
    })
}

/// Whether something refers to the file; `None`: that is not known at this moment. `is_held`: something in its owner's shard does.
pub(super) fn referred_to(row: &MediaRow, is_held: bool) -> Option<bool> {
    (is_held || row.held_ms != 0 && row.released_ms == 0 && row.check == 0).then_some(true)
}

pub(super) fn contact(row: &contacts_read::Row) -> Value {
    let contact = row.row.clone().unwrap_or_default();
    json!({
        "kind": "contact",
        "contact": row.contact,
        "listed": contact.listed,
        "name": contact.name,
        "labels": contact.labels,
        "to": contact.to,
        "asked": contact.asked,
        "from": contact.from,
        "asks": contact.asks,
        "approved": contact.approved,
        "text": contact.text,
    })
}

pub(super) fn device(user: &UserId, cursor: &DeviceCursor) -> anyhow::Result<Value> {
    let timeline = match &cursor.group {
        None => format!("inbox/{user}"),
        Some(TimelineKey { owner, kind }) => {
            let owner = str::from_utf8(owner).context("owner of a timeline")?;
            let is_group = *kind == i32::from(timeline_key::Kind::Group);
            format!("{}/{owner}", if is_group { "group" } else { "inbox" })
        }
    };
    Ok(json!({"kind": "device", "device": cursor.device, "timeline": timeline, "position": cursor.seq}))
}

pub(super) fn conversation(row: &ConversationRow) -> anyhow::Result<Value> {
    let with = row.conversation.clone().unwrap_or_default();
    let owner = str::from_utf8(&with.owner).context("name of a conversation")?;
    let is_group = with.kind() == timeline_key::Kind::Group;
    let row = row.row.clone().unwrap_or_default();
    let request = row.request().as_str_name().trim_start_matches("MESSAGE_REQUEST_").to_ascii_lowercase();
    let Conversation { read_seq, settings, .. } = row;
    let settings = settings.unwrap_or_default();
    let notify = settings.notify().as_str_name().trim_start_matches("NOTIFY_").to_ascii_lowercase();
    Ok(json!({
        "kind": "conversation",
        "with": format!("{}/{owner}", if is_group { "group" } else { "user" }),
        "read_position": (read_seq > 0).then_some(read_seq),
        "pinned": settings.pinned,
        "archived": settings.archived,
        "muted_until_ms": (settings.muted_until_ms > 0).then_some(settings.muted_until_ms),
        "notify": (notify != "unspecified").then_some(notify),
        "draft": (!settings.draft.is_empty()).then_some(settings.draft),
        "marked_unread": settings.unread,
        "request": (request != "unspecified").then_some(request),
    }))
}

pub(super) fn scheduled(message: &scheduled_read::Row) -> anyhow::Result<Value> {
    let row = message.row.clone().unwrap_or_default();
    let to = row.to.clone().unwrap_or_default();
    let owner = str::from_utf8(&to.owner).context("recipient of a scheduled message")?;
    let is_group = to.kind() == timeline_key::Kind::Group;
    let content = Content::decode(row.content.clone()).context("a scheduled message")?;
    let state = row.state().as_str_name().trim_start_matches("STATE_").to_ascii_lowercase();
    Ok(json!({
        "kind": "scheduled",
        "id": message.id,
        "to": format!("{}/{owner}", if is_group { "group" } else { "user" }),
        "device": row.device,
        "client_id": row.client_id,
        "at_ms": row.at_ms,
        "at": date::format(row.at_ms),
        "state": state,
        "why": (!row.why.is_empty()).then_some(row.why),
        "content": serde_json::to_value(&content)?,
    }))
}

/// What moderators have noted is theirs.
pub(super) fn report(report: &reports_read::Row) -> anyhow::Result<Value> {
    let (place, row) = (report.place.unwrap_or_default(), report.row.clone().unwrap_or_default());
    let with = row.conversation.clone().unwrap_or_default();
    let owner = str::from_utf8(&with.owner).context("conversation of a report")?;
    let is_group = with.kind() == timeline_key::Kind::Group;
    Ok(json!({
        "kind": "report",
        "time_ms": place.time_ms,
        "time": date::format(place.time_ms),
        "in": format!("{}/{owner}", if is_group { "group" } else { "user" }),
        "authors": row.authors,
        "reason": row.reason().as_str_name().trim_start_matches("REPORT_REASON_").to_ascii_lowercase(),
        "messages": row.messages,
        "text": row.text,
        "resolved": row.resolution.is_some(),
    }))
}

/// `now_ms`: of a message that has expired by then, only what is left of it is in the export.
pub(super) fn message(user: &UserId, entry: &StoredEntry, now_ms: u64) -> anyhow::Result<Value> {
    let left = expired_envelope(&entry.envelope, now_ms);
    let encoded = left.map_or_else(|| entry.envelope.clone(), Into::into);
    let envelope = Envelope::decode(encoded.clone()).context("a stored message")?;
    let to = envelope.to.as_ref().and_then(|to| to.to.as_ref());
    let to = match to {
        Some(recipient::To::User(to) | recipient::To::Group(to)) => to.as_str(),
        None => "",
    };
    let sent = envelope.sender == user.as_str();
    let direction = match (sent, to == user.as_str()) {
        (true, true) => "to-oneself",
        (true, false) => "sent",
        (false, _) => "received",
    };
    Ok(json!({
        "kind": "message",
        "position": entry.seq,
        "id": envelope.id,
        "direction": direction,
        "from": envelope.sender,
        "from_device": envelope.sender_device,
        "to": to,
        "client_id": envelope.client_id,
        "time_ms": envelope.time_ms,
        "time": date::format(envelope.time_ms),
        "expires_at_ms": (envelope.expires_at_ms != 0).then_some(envelope.expires_at_ms),
        "content": serde_json::to_value(&envelope.content)?,
        "envelope": STANDARD.encode(&encoded),
    }))
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::{
        client::{Recipient, Text, content},
        store::ScramCredentials,
    };

    use super::*;

    fn stored(sender: &str, to: &str) -> StoredEntry {
        let envelope = Envelope {
            id: "01".into(),
            sender: sender.into(),
            to: Some(Recipient { to: Some(recipient::To::User(to.into())) }),
            time_ms: 1_700_000_000_000,
            content: Some(Content {
                body: Some(content::Body::Text(Text { body: "hi\n".into() })),
                ..Default::default()
            }),
            ..Envelope::default()
        };
        StoredEntry { seq: 7, envelope: envelope.encode_to_vec().into(), ..Default::default() }
    }

    #[test]
    fn a_message_says_which_way_it_went_and_has_the_bytes_as_they_are_kept() {
        let alice = UserId::new("alice").expect("valid");
        let of = |sender, to| message(&alice, &stored(sender, to), 0).expect("decodes");
        assert_eq!(
            [of("alice", "bob"), of("bob", "alice"), of("alice", "alice")].map(|line| line["direction"].clone()),
            ["sent", "received", "to-oneself"]
        );
        let line = of("bob", "alice");
        assert_eq!(line["content"], json!({"text": {"body": "hi\n"}}));
        assert_eq!(line["time"], "2023-11-14T22:13:20Z");
        let bytes = STANDARD.decode(line["envelope"].as_str().expect("text")).expect("base64");
        assert_eq!(bytes, stored("bob", "alice").envelope);
    }

    #[test]
    fn a_password_is_told_and_not_given() {
        let scram = ScramCredentials { salt: vec![1].into(), iterations: 4096, ..ScramCredentials::default() };
        let line = account(&Account { user: "alice".into(), scram: Some(scram), ..Account::default() }, None);
        assert_eq!(line["password"], json!({"kept_as": "SCRAM-SHA-256", "iterations": 4096}));
        assert_eq!(account(&Account::default(), None)["password"], Value::Null);
    }
}
