//! Messages on standard output: as lines for people, or as JSON for programs.

use carillon_client::Client;
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
        self.message_now(timeline, seq, envelope, None)
    }

    /// As it is now.
    pub(super) fn message_now(
        &self,
        timeline: &TimelineId,
        seq: u64,
        envelope: &Envelope,
        state: Option<&MessageState>,
    ) -> anyhow::Result<()> {
        let content = Client::content_now(envelope, state);
        if self.format.json {
            return out::line(object(timeline, seq, envelope, content, state)?);
        }
        let shown = Envelope { content: content.cloned(), ..envelope.clone() };
        let ids = if self.format.ids { format!("{seq} {} ", envelope.id) } else { String::new() };
        let recalled = state.and_then(|state| state.recall.as_ref());
        let recalled =
            recalled.map_or_else(String::new, |recall| format!(" recalled by {}", printable(&recall.sender)));
        out::line(format_args!("{ids}{}{recalled}", line(&shown, self.reader)))
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

fn object(
    timeline: &TimelineId,
    seq: u64,
    envelope: &Envelope,
    content: Option<&Content>,
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
        "text": content.and_then(text),
        "envelope": serde_json::to_value(envelope)?,
    });
    if let Some(state) = state {
        object["state"] = serde_json::to_value(state)?;
    }
    Ok(object)
}

/// A text as it is; anything else in words. `None`: it says nothing, or something that this version does not know.
fn text(content: &Content) -> Option<String> {
    match content.body.as_ref()? {
        Body::Text(text) => Some(text.body.clone()),
        _ => Some(said(Some(content))),
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::UserId;

    use super::*;

    #[test]
    fn there_is_no_text_where_nothing_is_left() {
        let inbox = TimelineId::Inbox(UserId::new("alice").expect("valid"));
        let said = Envelope { content: Some(Client::text("the code is 4711")), ..Envelope::default() };
        let text = |envelope: &Envelope, state: Option<&MessageState>| {
            object(&inbox, 1, envelope, Client::content_now(envelope, state), state).expect("an object")["text"].take()
        };
        assert_eq!(text(&said, None), "the code is 4711");
        let recalled = MessageState { recall: Some(Envelope::default()), ..MessageState::default() };
        assert_eq!(text(&said, Some(&recalled)), Value::Null);
        // Recalled or expired, as the service gives it out.
        let left = Envelope { content: Some(Content::default()), ..said };
        let erased = Envelope { erased: true, ..left.clone() };
        assert_eq!([text(&left, None), text(&erased, None)], [Value::Null, Value::Null]);
    }
}
