//! Messages about messages in the small router: a few of the rules of the real store, and what pages tell.

use bytes::Bytes;
use carillon_proto::pb::{
    client::{Code, Envelope, MessageState, ReactionCount, content::Body},
    link::{ReadTimeline, Refusal, Send, router_reply::Result as Reply},
    store::{StoredEntry, header::Kind},
};
use prost::Message as _;

use super::State;

fn refusal(code: Code) -> Reply {
    Reply::Refusal(Refusal { code: code.into(), reason: "refused".to_owned(), ..Refusal::default() })
}

fn decode(envelope: &Bytes) -> Envelope {
    Envelope::decode(envelope.clone()).expect("an envelope")
}

impl State {
    /// Why this message can't be about what it names. All messages are of 1970, so none can be edited within a time.
    pub(super) fn refuses_reference(&self, log: &[Bytes], send: &Send) -> Option<Reply> {
        let header = send.header.as_deref()?;
        self.store.lock().headers.push(header.clone());
        let reference = header.refers_to.as_ref()?;
        let target = log.iter().map(decode).find(|target| target.id == reference.id);
        let Some(target) = target else { return Some(refusal(Code::NotFound)) };
        let by_author = target.sender.as_bytes() == send.sender;
        match header.kind() {
            Kind::Edit | Kind::Recall if !by_author => Some(refusal(Code::Forbidden)),
            Kind::Edit if header.edit_window_ms > 0 => Some(refusal(Code::TooLate)),
            _ => None,
        }
    }
}

/// The entries of this log, with what has become of each message if that is asked for.
pub(super) fn entries(log: &[Bytes], read: &ReadTimeline) -> Vec<StoredEntry> {
    let all = || {
        log.iter().zip(1..).map(|(envelope, seq)| StoredEntry { seq, envelope: envelope.clone(), ..Default::default() })
    };
    if let Some(edited) = all().find(|entry| entry.seq == read.edits_of) {
        let id = decode(&edited.envelope).id;
        let is_edit = |entry: &StoredEntry| matches!(body_about(&entry.envelope, &id), Some((Body::Edit(_), _)));
        return std::iter::once(edited).chain(all().filter(is_edit)).collect();
    }
    if read.pinned_with.is_some() {
        let is_pinned = |entry: &StoredEntry| {
            let id = decode(&entry.envelope).id;
            log.iter().any(|envelope| matches!(body_about(envelope, &id), Some((Body::Pin(_), _))))
        };
        return all().filter(is_pinned).collect();
    }
    let with_state = |entry: StoredEntry| match read.states {
        true => StoredEntry { state: state(log, &entry), ..entry },
        false => entry,
    };
    all().map(with_state).collect()
}

/// The body of this message, if it refers to the message of this id, and its envelope.
fn body_about(envelope: &Bytes, id: &str) -> Option<(Body, Envelope)> {
    let envelope = decode(envelope);
    let body = envelope.content.clone()?.body?;
    let target = match &body {
        Body::Edit(edit) => edit.target.as_ref(),
        Body::Recall(recall) => recall.target.as_ref(),
        Body::Reaction(reaction) => reaction.target.as_ref(),
        Body::Pin(pin) => pin.target.as_ref(),
        _ => None,
    };
    target.is_some_and(|target| target.id == id).then_some((body, envelope))
}

fn state(log: &[Bytes], of: &StoredEntry) -> Bytes {
    let id = decode(&of.envelope).id;
    let mut state = MessageState::default();
    for (body, envelope) in log.iter().filter_map(|envelope| body_about(envelope, &id)) {
        match body {
            Body::Recall(_) => state = MessageState { recall: Some(envelope), ..MessageState::default() },
            _ if state.recall.is_some() => {}
            Body::Edit(_) => (state.edit, state.edits) = (Some(envelope), state.edits + 1),
            Body::Reaction(reaction) => {
                let count = |emoji| ReactionCount { emoji, users: 1 };
                state.reactions.extend(reaction.emojis.into_iter().map(count));
            }
            _ => {}
        }
    }
    state.encode_to_vec().into()
}
