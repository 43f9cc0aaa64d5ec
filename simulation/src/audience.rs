//! What devices are shown of groups: each entry in its turn, once, to who was a member at that place of the log, and nothing to
//! anybody else.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::Position;

use crate::{
    membership::Group,
    model::{Device, Ended, Entry, Model},
};

/// Accounts that are members: user and incarnation.
pub(crate) type Members = BTreeSet<(String, u64)>;

/// One device's part of one group, which is named with its epoch.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The position up to which the device has everything; `None`: it has begun without knowing.
    has: Option<u64>,
    acknowledged: u64,
}

pub(crate) type SeenGroups = BTreeMap<(String, u64), Seen>;

impl Group {
    /// Is the entry at this position for this account? Also the one by which it is no longer a member.
    fn is_for(&self, seq: u64, account: &(String, u64)) -> bool {
        self.is_member_after(seq, account) || self.is_member_after(seq - 1, account)
    }

    fn is_member_after(&self, seq: u64, account: &(String, u64)) -> bool {
        let members = (seq as usize).checked_sub(1).and_then(|at| self.members_after.get(at));
        members.is_some_and(|members| members.contains(account))
    }

    /// Can the account, which reads when there are so many entries, read this one?
    pub(crate) fn shows(&self, entries: u64, seq: u64, account: &(String, u64)) -> bool {
        self.is_member_after(entries, account) && (self.since(entries, account)..=entries).contains(&seq)
    }

    /// Has the account been a member, without an interruption, since there were so many entries?
    pub(crate) fn stays(&self, from: usize, account: &(String, u64)) -> bool {
        let last = self.entries.len() as u64;
        (from as u64..=last).all(|at| self.is_member_after(at, account))
    }

    /// The position at which the membership begins to which this entry belongs.
    fn since(&self, seq: u64, account: &(String, u64)) -> u64 {
        let last = if self.is_member_after(seq, account) { seq } else { seq - 1 };
        (1..=last).rev().take_while(|at| self.is_member_after(*at, account)).last().unwrap_or(seq)
    }
}

impl Model {
    /// A device was shown an entry of a group, or was told the place of what it sent.
    pub(crate) fn shown_of_group(
        &mut self,
        device: usize,
        group: &str,
        position: Position,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Result<(), String> {
        let (epoch, seq) = (position.epoch.0, position.seq);
        let Device { user, name, incarnation, groups: seen, .. } = &mut self.devices[device];
        let account = (user.clone(), *incarnation);
        let known = self.groups.of_epoch(group, epoch).filter(|known| known.entries.len() as u64 >= seq && seq > 0);
        let known = known.ok_or_else(|| format!("{user}/{name} was shown {seq} of {group}, which is not there"))?;
        if !is_it(&known.entries[seq as usize - 1]) {
            let there = &known.entries[seq as usize - 1].envelope;
            return Err(format!("{user}/{name} was shown at {seq} of {group} what is not there, but {there:?}"));
        }
        if !known.is_for(seq, &account) {
            return Err(format!("{user}/{name} was shown {seq} of {group}, which is not for it"));
        }
        let seen = seen.entry((group.to_owned(), epoch)).or_default();
        let has = seen.has.unwrap_or(seen.acknowledged.min(seq - 1));
        if seq <= has {
            return Err(format!("{user}/{name} was shown {seq} of {group} once more, after {has}"));
        }
        let from = known.since(seq, &account).max(has + 1);
        if from < seq {
            return Err(format!("{user}/{name} was shown {seq} of {group} instead of {from}"));
        }
        seen.has = Some(seq);
        Ok(())
    }

    pub(crate) fn acknowledged_of_group(&mut self, device: usize, group: &str, position: Position) {
        let seen = self.devices[device].groups.entry((group.to_owned(), position.epoch.0)).or_default();
        seen.acknowledged = seen.acknowledged.max(position.seq);
    }

    /// The device begins without knowing what it has of groups.
    pub(crate) fn forgets_groups(&mut self, device: usize) {
        self.devices[device].groups.values_mut().for_each(|seen| seen.has = None);
    }

    /// Entries that devices have not been shown yet, of groups that their users are in.
    pub(crate) fn waiting_for_groups(&self, away: &BTreeSet<usize>) -> impl Iterator<Item = String> {
        let there = self.devices.iter().enumerate().filter(|(number, _)| !away.contains(number));
        there.flat_map(|(_, device)| {
            let account = (device.user.clone(), device.incarnation);
            self.groups.0.iter().filter_map(move |(name, group)| {
                let head = group.entries.len() as u64;
                if !group.is_member_after(head, &account) {
                    return None;
                }
                let seen = device.groups.get(&(name.clone(), group.epoch));
                let has = seen.and_then(|seen| seen.has.or(Some(seen.acknowledged))).unwrap_or(0);
                let Device { user, name: own, .. } = device;
                (has < head).then(|| format!("{user}/{own} has {has} of {head} positions of {name}"))
            })
        })
    }

    /// Accepted: in the group. Refused for good: not in it. Messages of one device stand in the order in which they were sent.
    pub(crate) fn check_sends_to_groups(&self, refused_ones: bool) -> Result<(), String> {
        for ((name, _), group) in self.groups.all() {
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            for entry in &group.entries {
                let (of, client_id) = (&entry.envelope.sender_device, &entry.envelope.client_id);
                let Some(device) = self.devices.iter().find(|known| known.name == *of) else { continue };
                if entry.envelope.sender != device.user {
                    return Err(format!("{client_id} of {of} in {name} is not from {}", device.user));
                }
                match device.sends.get(client_id) {
                    None => return Err(format!("{:?} in {name} was never sent", entry.envelope)),
                    Some(Some(Ended::Refused(why))) => {
                        return Err(format!("{client_id} of {of} was refused for good but is in {name}: {why}"));
                    }
                    Some(Some(Ended::Accepted(_))) if refused_ones || !device.refused.contains(client_id) => {
                        let number = client_id.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
                        let before = last.entry(of).or_default();
                        if number <= *before {
                            return Err(format!("in {name} message {number} of {of} stands behind its {before}"));
                        }
                        *before = number;
                    }
                    Some(_) => {}
                }
            }
        }
        for device in &self.devices {
            for (client_id, ended) in device.sends.iter().filter(|(client_id, _)| is_to_group(client_id)) {
                let Some(Ended::Accepted(accepted)) = ended else { continue };
                let position = accepted.position.unwrap_or_default();
                let mut groups = self.groups.all().filter(|((_, epoch), _)| *epoch == position.epoch);
                let entry = groups.find_map(|(_, group)| group.entries.get((position.seq as usize).wrapping_sub(1)));
                if entry.is_none_or(|entry| entry.envelope.client_id != *client_id) {
                    return Err(format!("{client_id} of {} was accepted but is not where it should be", device.name));
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn is_to_group(client_id: &str) -> bool {
    client_id.starts_with('g')
}
