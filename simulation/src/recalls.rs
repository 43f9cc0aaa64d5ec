//! Which messages readers get without what they said.

use std::collections::BTreeSet;

use carillon_proto::pb::{
    client::{Envelope, content::Body},
    store::Append,
};
use prost::Message as _;

use crate::{
    model::{Entry, Model, recipient_of},
    references::{about, body},
};

/// Ids of recalls that stand in the inbox of their sender alone, as the recipient's did not have the message.
#[derive(Default)]
pub(crate) struct Alone(BTreeSet<String>);

impl Model {
    /// The sender's own inbox has taken a message by itself, which is its copy of a withheld one or a recall of what the recipient does not have.
    pub(crate) fn stands_alone(&mut self, owner: &str, append: &Append) -> Result<(), String> {
        let envelope = Envelope::decode(append.envelope.clone()).map_err(|error| error.to_string())?;
        let recipient = recipient_of(&envelope);
        let (Some(Body::Recall(_)), Some(target)) = (body(&envelope), about(&envelope)) else { return Ok(()) };
        if append.sender.is_empty() || recipient == owner || self.was_withheld(&recipient, &envelope.id) {
            return Ok(());
        }
        let is_said = |entry: &Entry| {
            let Entry { envelope, is_gone, is_recalled, .. } = entry;
            envelope.id == target.id && !envelope.erased && !is_gone && !is_recalled
        };
        if self.inbox_of_owner(&recipient).is_some_and(|inbox| inbox.entries.iter().any(is_said)) {
            return Err(format!("{} was recalled, and {recipient} has it still", target.id));
        }
        self.recalled_alone.0.insert(envelope.id);
        Ok(())
    }

    pub(crate) fn was_recalled_alone(&self, id: &str) -> bool {
        self.recalled_alone.0.contains(id)
    }
}

/// Notes what the last of these entries, which has just come, has made of others. `leads`: its sender may recall what others have written.
pub(crate) fn note(entries: &mut [Entry], leads: bool) {
    let Some((last, before)) = entries.split_last_mut() else { return };
    let Some(target) = about(&last.envelope) else { return };
    let is_meant = |entry: &Entry| entry.envelope.id == target.id && entry.envelope.change.is_none();
    let Some(found) = before.iter().position(is_meant) else { return };
    let author = before[found].envelope.sender.clone();
    let by_author = last.envelope.sender == author;
    match body(&last.envelope) {
        Some(Body::Edit(_)) if by_author => last.is_recalled = before[found].is_recalled,
        Some(Body::Recall(_)) if by_author || leads => {
            let is_edit = |entry: &Entry| {
                let is_of = about(&entry.envelope).is_some_and(|of| of.id == target.id);
                is_of && entry.envelope.sender == author && matches!(body(&entry.envelope), Some(Body::Edit(_)))
            };
            before[found].is_recalled = true;
            before.iter_mut().filter(|entry| is_edit(entry)).for_each(|entry| entry.is_recalled = true);
        }
        _ => {}
    }
}
