//! Who is mentioned in a group. See docs/adr/0029-references.md.

use std::{collections::BTreeSet, io};

use carillon_proto::pb::store::{Member, Mentioned, Mentions, member::Standing};
use prost::Message as _;

use super::{Batch, TimelineState};
use crate::machine::{annotations::MENTIONED, broken, keys};

/// The row of everybody.
const EVERYBODY: (&str, u64) = ("", 0);

impl Batch<'_> {
    /// The next message of the group mentions members.
    pub(super) fn mention(&mut self, state: &TimelineState, mentions: &Mentions) -> io::Result<()> {
        let TimelineState { number, first, last, .. } = *state;
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
            if row.seqs.len() == MENTIONED {
                row.seqs.remove(0);
            }
            row.seqs.push(last + 1);
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
