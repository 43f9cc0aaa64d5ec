//! Edits, recalls, reactions, pins and votes: rules and reads. `timeline/annotations.rs` carries it out. See
//! docs/adr/0029-references.md.

mod envelope_head;
mod reader;
mod rules;

pub(super) use self::{
    envelope_head::EnvelopeHead,
    reader::{ReadBy, edits, envelope, mentions, pinned, state},
    rules::{Case, InGroup, MENTIONED, check, count_down, count_up, is_later, put_edit},
};
