//! A group whose last owner's account has ended falls to another member. See docs/adr/0025-groups.md.

use std::io;

use carillon_proto::{
    DuplicateKey, group_change_envelope,
    pb::{
        client::{self, group_change::What, members_change::Kind},
        store::{Append, Appended, Group, Member, Role},
    },
};
use prost::Message as _;

use super::{Batch, CachedTimeline, Outcome, duplicate_key, groups::name_of};
use crate::machine::{
    broken, groups,
    keys::{self, RowBytes},
};

impl Batch<'_> {
    /// Makes another member the owner, and appends the envelope that says so behind that of the change. `group`: after the change, whose outcome
    /// is `recorded`.
    pub(super) fn put_heir(
        &mut self,
        key: &RowBytes,
        append: &Append,
        mut group: Group,
        recorded: Outcome,
    ) -> io::Result<Outcome> {
        let (Some(held), Outcome::Appended(appended)) = (self.held(key)?, recorded) else {
            return Err(broken("change of a group that was not appended"));
        };
        let number = held.state.number;
        let (user, before) = self.heir(number, append.time_ms)?.ok_or_else(|| broken("number of a group's members"))?;
        let after = Member { role: Role::Owner.into(), ..before };
        groups::count(&mut group, Some(&before), Some(&after));
        group.members_seq = appended.seq + 1;
        self.changes.put(keys::member(number, &user), after.encode_to_vec());
        self.changes.put(keys::group(number), group.encode_to_vec());
        let heir_key = DuplicateKey(duplicate_key(append)?).of_heir();
        let envelope = says(name_of(append)?, &user, append.time_ms, heir_key);
        self.record(key.clone(), held, heir_key.0, held.header(true), &envelope)?;
        Ok(Outcome::Appended(Appended { heir_envelope: envelope, ..appended }))
    }

    /// The answer to a repeat, with what followed the first attempt.
    pub(super) fn with_heir(
        &self,
        first: Outcome,
        held: Option<&CachedTimeline>,
        duplicate: [u8; 16],
    ) -> io::Result<Outcome> {
        let Outcome::Appended(first) = first else { return Ok(first) };
        let heir_envelope = match self.repeated(held, &DuplicateKey(duplicate).of_heir().0)? {
            Some(Outcome::Appended(heir)) => heir.first_envelope,
            Some(_) | None => bytes::Bytes::new(),
        };
        Ok(Outcome::Appended(Appended { heir_envelope, ..first }))
    }

    /// The member to whom the group falls. Reads all of its rows.
    fn heir(&self, number: u64, time_ms: u64) -> io::Result<Option<(String, Member)>> {
        let rows = keys::member(number, "")..=keys::after_members(number);
        let mut first = None;
        let mut take = |key: &[u8], value: &[u8]| {
            let member = Member::decode(value).map_err(|_| broken("row of a group"))?;
            let Some(place) = groups::succession(&member, time_ms) else { return Ok(()) };
            let (_, user) = keys::member_of(key)?;
            if first.as_ref().is_none_or(|(before, known, _): &(_, String, _)| (place, user) < (*before, known)) {
                first = Some((place, user.to_owned(), member));
            }
            Ok::<_, io::Error>(())
        };
        for (key, value) in self.changes.within(&rows) {
            value.map_or(Ok(()), |value| take(key, value))?;
        }
        for row in self.shard.view().range(rows) {
            let (key, value) = row?;
            if self.changes.get(&key).is_none() {
                take(&key, &value)?;
            }
        }
        Ok(first.map(|(_, user, member)| (user, member)))
    }
}

/// The envelope that makes this user the owner. No user has sent it. The same arguments always give the same envelope.
fn says(group: &str, user: &str, time_ms: u64, key: DuplicateKey) -> bytes::Bytes {
    let (kind, role) = (Kind::Role.into(), client::Role::Owner.into());
    let members =
        client::MembersChange { kind, role, users: vec![user.to_owned()], ..client::MembersChange::default() };
    let change = client::GroupChange { what: Some(What::Members(members)) };
    group_change_envelope(group, "", key, time_ms, &change)
}
