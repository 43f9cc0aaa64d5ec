//! Checks of changes of contacts.

use carillon_proto::{
    ShardId, ShardMap,
    pb::store::{ChangeContact, Rejected, Said, SetContact, Word, change_contact::Change},
};

use super::{check_any_user, check_user, invalid};
use crate::machine::contacts::UNTOLD;

const MAX_NAME_BYTES: usize = 256;
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 128;
const MAX_TEXT_BYTES: usize = 1024;

pub(super) fn check_change(shard: ShardId, map: ShardMap, op: &ChangeContact) -> Result<(), Rejected> {
    check_user(shard, map, &op.user)?;
    let change = op.change.as_ref().ok_or_else(|| invalid("change of a contact says nothing"))?;
    if let Change::Sweep(_) = change {
        return if op.contact.is_empty() { Ok(()) } else { Err(invalid("a sweep is of no contact")) };
    }
    check_any_user(&op.contact)?;
    if op.contact == op.user {
        return Err(invalid("a user is no contact of its own"));
    }
    match change {
        Change::Set(set) => check_set(set),
        Change::Say(said) => {
            check_word(said.word)?;
            if said.peer.is_none() && matches!(said.word(), Word::Subscribe | Word::Subscribed) {
                return Err(invalid("it is not known to whom it is said"));
            }
            check_text(&said.text)
        }
        Change::Heard(heard) => match heard.said.len() {
            1..=UNTOLD => heard.said.iter().try_for_each(check_said),
            count => Err(invalid(format!("{count} words of a contact, not 1 to {UNTOLD}"))),
        },
        Change::Told(_) | Change::Remove(_) | Change::Sweep(_) => Ok(()),
    }
}

fn check_set(set: &SetContact) -> Result<(), Rejected> {
    if set.name.len() > MAX_NAME_BYTES {
        return Err(invalid(format!("name has {} bytes, not at most {MAX_NAME_BYTES}", set.name.len())));
    }
    if set.labels.len() > MAX_LABELS {
        return Err(invalid(format!("{} labels, not at most {MAX_LABELS}", set.labels.len())));
    }
    for (at, label) in set.labels.iter().enumerate() {
        match label.len() {
            1..=MAX_LABEL_BYTES => {}
            bytes => return Err(invalid(format!("label has {bytes} bytes, not 1 to {MAX_LABEL_BYTES}"))),
        }
        if set.labels[..at].contains(label) {
            return Err(invalid(format!("label {label:?} twice")));
        }
    }
    Ok(())
}

fn check_said(said: &Said) -> Result<(), Rejected> {
    check_word(said.word)?;
    check_text(&said.text)
}

/// An unknown word must not be taken for a known one.
fn check_word(word: i32) -> Result<(), Rejected> {
    match Word::try_from(word) {
        Ok(Word::Unspecified) | Err(_) => Err(invalid("word is not one of subscribe, subscribed and their opposites")),
        Ok(_) => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), Rejected> {
    match text.len() {
        0..=MAX_TEXT_BYTES => Ok(()),
        bytes => Err(invalid(format!("text has {bytes} bytes, not at most {MAX_TEXT_BYTES}"))),
    }
}
