//! Messages that have lost what they said no longer count as unread. See docs/adr/0028-marks.md.

use std::io;

use carillon_proto::pb::store::{Conversation, ConversationsMoved, Emptied, TimelineKey, timeline_key::Kind};
use prost::Message as _;

use super::{Batch, annotations::Place};
use crate::machine::{annotations::EnvelopeHead, broken, emptied, keys};

impl Batch<'_> {
    /// The message with this number has lost what it said. Returns the conversation if less is unread in it now.
    pub(super) fn empty(
        &mut self,
        place: Place<'_>,
        said: &EnvelopeHead,
        number: u64,
    ) -> io::Result<Option<Box<ConversationsMoved>>> {
        let timeline = place.state.number;
        if place.in_group {
            let mut known = self.emptied(timeline, "")?;
            if emptied::insert(&mut known, number) {
                self.put_emptied(timeline, "", &known);
            }
            return Ok(None);
        }
        // Own messages never count.
        if said.sender == place.owner {
            return Ok(None);
        }
        let with = TimelineKey { kind: Kind::Inbox.into(), owner: said.sender.clone().into() };
        let row = self.conversation(&keys::conversation(timeline, &with))?;
        let Some(mut row) = row.filter(|row| row.read_counted < number) else { return Ok(None) };
        let mut known = self.emptied(timeline, &said.sender)?;
        if !emptied::insert(&mut known, number) {
            return Ok(None);
        }
        self.put_emptied(timeline, &said.sender, &known);
        row.emptied = emptied::count_above(&known, row.read_counted);
        self.conversation_moved(&place.state, &with, row).map(Some)
    }

    /// The conversation after its mark has moved: messages up to there are read.
    pub(super) fn read_emptied(
        &mut self,
        number: u64,
        with: &TimelineKey,
        row: Conversation,
    ) -> io::Result<Conversation> {
        if row.emptied == 0 {
            return Ok(row);
        }
        let peer = with.owner_str().map_err(|_| broken("user of a conversation"))?;
        let mut known = self.emptied(number, peer)?;
        emptied::forget(&mut known, row.read_counted);
        self.put_emptied(number, peer, &known);
        Ok(Conversation { emptied: emptied::count_above(&known, row.read_counted), ..row })
    }

    /// The conversation is gone.
    pub(super) fn forget_emptied(&mut self, number: u64, with: &TimelineKey, row: &Conversation) -> io::Result<()> {
        if row.emptied > 0 {
            let peer = with.owner_str().map_err(|_| broken("user of a conversation"))?;
            self.changes.delete(keys::emptied(number, peer));
        }
        Ok(())
    }

    fn emptied(&self, number: u64, peer: &str) -> io::Result<Emptied> {
        let decode = |value: &[u8]| Emptied::decode(value).map_err(|_| broken("row of messages without content"));
        Ok(self.get(&keys::emptied(number, peer), decode)?.unwrap_or_default())
    }

    fn put_emptied(&mut self, number: u64, peer: &str, known: &Emptied) {
        let key = keys::emptied(number, peer);
        match known.runs.is_empty() {
            true => self.changes.delete(key),
            false => self.changes.put(key, known.encode_to_vec()),
        }
    }
}
