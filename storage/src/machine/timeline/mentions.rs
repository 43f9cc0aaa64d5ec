//! Who is mentioned in a group. See docs/adr/0029-references.md.

use std::{collections::BTreeSet, io};

use carillon_proto::pb::store::{Annotated, Header, Member, Mentioned, Mentions, member::Standing};
use prost::Message as _;

use super::{Batch, TimelineState};
use crate::machine::{
    annotations::MENTIONED,
    broken,
    keys::{self, Stored},
};

/// The row of everybody.
const EVERYBODY: (&str, u64) = ("", 0);

impl Batch<'_> {
    /// The next message of the group mentions members.
    pub(super) fn mention(&mut self, state: &TimelineState, mentions: &Mentions) -> io::Result<()> {
        self.mention_at(state, state.last + 1, mentions)
    }

    /// An edit of the message at this position, which has this row, mentions these instead.
    pub(super) fn mention_anew(
        &mut self,
        state: &TimelineState,
        seq: u64,
        row: &Annotated,
        header: &Header,
        mentions: Option<&Mentions>,
    ) -> io::Result<()> {
        self.forget_mentions_of(state.number, seq, row, header)?;
        match mentions {
            Some(mentions) => self.mention_at(state, seq, mentions),
            None => Ok(()),
        }
    }

    /// The message at this position, as it was edited last, mentions nobody any more. `header`: as it was written.
    pub(super) fn forget_mentions_of(
        &mut self,
        number: u64,
        seq: u64,
        row: &Annotated,
        header: &Header,
    ) -> io::Result<()> {
        let of_edit = |record: &[u8]| Ok(Stored::decode(record)?.header.message.and_then(|header| header.mentions));
        let mentions = match row.edits.last() {
            Some(edit) => self.get(&keys::record(number, edit.seq), of_edit)?.flatten(),
            None => header.mentions.clone(),
        };
        match mentions {
            Some(mentions) => self.forget_mentions(number, seq, &mentions),
            None => Ok(()),
        }
    }

    fn mention_at(&mut self, state: &TimelineState, seq: u64, mentions: &Mentions) -> io::Result<()> {
        let TimelineState { number, first, .. } = *state;
        let mut mentioned = Vec::new();
        if mentions.all || mentions.here {
            mentioned.push(EVERYBODY);
        } else {
            for user in mentions.users.iter().collect::<BTreeSet<_>>() {
                let member = self.member_named(number, user)?.filter(|row| row.standing() == Standing::Member);
                mentioned.extend(member.map(|Member { incarnation, .. }| (&**user, incarnation)));
            }
        }
        for (user, incarnation) in mentioned {
            let row = self.mentioned(number, user)?.filter(|row| row.incarnation == incarnation);
            let mut row = row.unwrap_or(Mentioned { incarnation, seqs: Vec::new() });
            row.seqs.retain(|seq| *seq >= first);
            // Nearly always at the end.
            let at = row.seqs.partition_point(|known| *known < seq);
            if row.seqs.get(at) != Some(&seq) {
                row.seqs.insert(at, seq);
            }
            if row.seqs.len() > MENTIONED {
                row.seqs.remove(0);
            }
            self.changes.put(keys::mentioned(number, user), row.encode_to_vec());
        }
        Ok(())
    }

    /// The mentions of this message do not count any more.
    pub(super) fn forget_mentions(&mut self, number: u64, seq: u64, mentions: &Mentions) -> io::Result<()> {
        let users: Vec<&str> = match mentions.all || mentions.here {
            true => vec![EVERYBODY.0],
            false => mentions.users.iter().map(|user| &**user).collect(),
        };
        for user in users {
            let Some(mut row) = self.mentioned(number, user)? else { continue };
            row.seqs.retain(|known| *known != seq);
            let key = keys::mentioned(number, user);
            match row.seqs.is_empty() {
                true => self.changes.delete(key),
                false => self.changes.put(key, row.encode_to_vec()),
            }
        }
        Ok(())
    }

    /// Removes the mentions of a user who is no member any more.
    pub(super) fn forget_mentioned(&mut self, number: u64, user: &str) -> io::Result<()> {
        if self.mentioned(number, user)?.is_some() {
            self.changes.delete(keys::mentioned(number, user));
        }
        Ok(())
    }

    fn mentioned(&self, number: u64, user: &str) -> io::Result<Option<Mentioned>> {
        let decode = |value: &[u8]| Mentioned::decode(value).map_err(|_| broken("row of who is mentioned"));
        self.get(&keys::mentioned(number, user), decode)
    }
}
