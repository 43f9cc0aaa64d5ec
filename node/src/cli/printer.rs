//! Messages on standard output: as lines for people, or as JSON for programs.

use carillon_proto::{
    TimelineId,
    pb::client::{Accepted, Content, Envelope, MessageState, Recipient, content::Body, recipient::To, timeline},
};
use clap::Args;
use serde_json::{Value, json};

use super::{
    chat::{line, printable},
    out,
    said::said,
};

#[derive(Args, Clone, Copy)]
pub(super) struct Format {
    /// One JSON object a line, for programs.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Prints before each message its position and id, by which other commands name it. JSON always has them.
    #[arg(long, global = true)]
    ids: bool,
}

impl Format {
    /// For a command that prints no message of others.
    pub(super) fn of_json(json: bool) -> Self {
        Self { json, ids: false }
    }
}

/// Prints messages as this user reads them.
pub(super) struct Printer<'a> {
    pub(super) reader: &'a str,
    pub(super) format: Format,
}

impl Printer<'_> {
    /// As it was sent.
    pub(super) fn message(&self, timeline: &TimelineId, seq: u64, envelope: &Envelope) -> anyhow::Result<()> {
        self.put(timeline, seq, envelope, envelope, None)
    }

    /// As it is now.
    pub(super) fn message_now(
        &self,
        timeline: &TimelineId,
        seq: u64,
        envelope: &Envelope,
        state: Option<&MessageState>,
    ) -> anyhow::Result<()> {
        self.put(timeline, seq, envelope, &now(envelope, state), state)
    }

    fn put(
        &self,
        timeline: &TimelineId,
        seq: u64,
        envelope: &Envelope,
        shown: &Envelope,
        state: Option<&MessageState>,
    ) -> anyhow::Result<()> {
        if self.format.json {
            return out::line(object(timeline, seq, envelope, shown, state)?);
        }
        let ids = if self.format.ids { format!("{seq} {} ", envelope.id) } else { String::new() };
        let recalled = state.and_then(|state| state.recall.as_ref());
        let recalled =
            recalled.map_or_else(String::new, |recall| format!(" recalled by {}", printable(&recall.sender)));
        out::line(format_args!("{ids}{}{recalled}", line(shown, self.reader)))
    }

    /// The answer to a message that was sent.
    pub(super) fn accepted(&self, accepted: &Accepted) -> anyhow::Result<()> {
        if !self.format.json {
            return out::line(super::chat::accepted(accepted));
        }
        let owner = accepted.timeline.as_ref().and_then(|timeline| timeline.owner.as_ref());
        out::line(json!({
            "accepted": accepted.message_id,
            "timeline": owner.map(|owner| match owner {
                timeline::Owner::Inbox(user) => format!("inbox/{user}"),
                timeline::Owner::Group(group) => format!("group/{group}"),
            }),
            "position": accepted.position.as_ref().map(|position| position.seq),
            "client_id": accepted.client_id,
            "time_ms": accepted.time_ms,
            "expires_at_ms": accepted.expires_at_ms,
        }))
    }
}

/// With the content of the last edit, or without any if it was recalled.
fn now(envelope: &Envelope, state: Option<&MessageState>) -> Envelope {
    let edit = state.and_then(|state| state.edit.as_ref()).and_then(|edit| edit.content.as_ref());
    let edited = edit.and_then(|content| match &content.body {
        Some(Body::Edit(edit)) => edit.content.as_deref().cloned(),
        _ => None,
    });
    let content = match state.is_some_and(|state| state.recall.is_some()) {
        true => None,
        false => edited.or_else(|| envelope.content.clone()),
    };
    Envelope { content, ..envelope.clone() }
}

fn object(
    timeline: &TimelineId,
    seq: u64,
    envelope: &Envelope,
    shown: &Envelope,
    state: Option<&MessageState>,
) -> anyhow::Result<Value> {
    let (to, group) = match &envelope.to {
        Some(Recipient { to: Some(To::User(user)) }) => (Some(user), None),
        Some(Recipient { to: Some(To::Group(group)) }) => (None, Some(group)),
        _ => (None, None),
    };
    let mut object = json!({
        "timeline": timeline.to_string(),
        "position": seq,
        "id": envelope.id,
        "from": envelope.sender,
        "from_device": envelope.sender_device,
        "to": to,
        "group": group,
        "time_ms": envelope.time_ms,
        "expires_at_ms": envelope.expires_at_ms,
        "erased": envelope.erased,
        "text": text(shown.content.as_ref()),
        "envelope": serde_json::to_value(envelope)?,
    });
    if let Some(state) = state {
        object["state"] = serde_json::to_value(state)?;
    }
    Ok(object)
}

/// A text as it is; anything else in words.
fn text(content: Option<&Content>) -> Option<String> {
    let content = content?;
    match &content.body {
        Some(Body::Text(text)) => Some(text.body.clone()),
        _ => Some(said(Some(content))),
    }
}
