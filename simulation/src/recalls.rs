//! Which messages readers get without what they said.

use carillon_proto::pb::client::content::Body;

use crate::{
    model::Entry,
    references::{about, body},
};

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
