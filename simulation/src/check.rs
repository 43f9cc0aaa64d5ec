//! When all is quiet, and what must hold then.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::{
    TimelineId, UserId,
    pb::store::{ReadHead, ReadTimeline, StoredEntry, TimelineRead, store_reply::Result as Outcome, store_request::Op},
};

use crate::{
    Guard,
    audience::is_to_group,
    clients::user_name,
    expiring::is_passing,
    model::{Device, Ended, Inbox, Model, recipient_of},
    store::MAP,
    world::World,
};

impl World<'_> {
    /// All devices are signed in, have all answers, and were shown everything.
    pub(crate) fn is_quiet(&self) -> bool {
        let away = self.away();
        (0..self.clients.len()).all(|client| self.is_live(client) || away.contains(&client))
            && self.gateways.iter().all(|node| node.up.as_ref().is_some_and(|up| up.pending() == 0))
            && self.model.waiting(&away).next().is_none()
            && self.model.waiting_for_groups(&away).next().is_none()
            && self.unsettled().is_none()
            && self.model.endings == 0
            && self.talkers_wait().next().is_none()
            && self.outboxes().is_none()
            && self.to_be_sent().is_none()
            && (0..self.scenario.users).all(|user| self.model.owner(&user_name(user)).is_some())
            && self.presences_wait().is_none()
            && self.files_wait().is_none()
    }

    /// Devices that come back when all else is quiet.
    fn away(&self) -> BTreeSet<usize> {
        (0..self.clients.len()).filter(|client| self.clients[*client].is_away).collect()
    }

    pub(crate) fn unquiet(&self) -> String {
        let gone = self.away();
        let away = (0..self.clients.len()).filter(|client| !self.is_live(*client) && !gone.contains(client));
        let away = away.map(|client| format!("device {client} is not signed in"));
        let pending = self.gateways.iter().enumerate().filter_map(|(gateway, node)| {
            let pending = node.up.as_ref().map_or(0, |up| up.pending());
            (pending > 0).then(|| format!("gateway {gateway} waits for {pending} answers"))
        });
        let members = self.unsettled();
        let groups = self
            .talkers_wait()
            .chain(self.outboxes())
            .chain(self.to_be_sent())
            .chain(self.files_wait())
            .chain(self.model.waiting_for_groups(&gone));
        let messages = self.model.waiting(&gone).chain(self.presences_wait());
        away.chain(pending).chain(members).chain(groups).chain(messages).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn check_end(&mut self) -> Result<(), String> {
        for user in 0..self.scenario.users {
            let name = user_name(user);
            let incarnation = self.model.owner(&name).ok_or_else(|| format!("{name} is still deleted"))?;
            let read = self.read_inbox(&name, incarnation);
            let inbox = self.model.inboxes.get(&(name.clone(), incarnation));
            let expected = inbox.map(Inbox::stored).unwrap_or_default();
            if read != expected {
                return Err(format!("the inbox of {name} is not what was appended to it"));
            }
        }
        self.check_cursors()?;
        self.check_groups()?;
        self.check_conversations()?;
        self.check_references()?;
        self.check_scheduled()?;
        self.check_reports()?;
        self.check_files()?;
        self.check_contacts()?;
        self.model.check_order(!self.is_without(Guard::Names))?;
        self.model.check_sends()?;
        self.model.check_sends_to_groups(!self.is_without(Guard::Names))?;
        self.report.count(&self.model);
        Ok(())
    }

    /// The store has no device further than its application has said.
    fn check_cursors(&self) -> Result<(), String> {
        for device in &self.model.devices {
            let timeline = TimelineId::Inbox(UserId::new(&device.user).expect("valid"));
            let (incarnation, name) = (device.incarnation, device.name.clone());
            let op = ReadHead { timeline: Some(timeline.to_key()), device: name, incarnation, unread_of: None };
            let Outcome::Head(head) = self.cluster.read(MAP.timeline_of(&timeline), &Op::ReadHead(op)) else {
                continue;
            };
            if head.cursor > device.acknowledged {
                let (Device { user, name, acknowledged, .. }, cursor) = (device, head.cursor);
                return Err(format!("{user}/{name} is at {cursor} in the store, but acknowledged only {acknowledged}"));
            }
        }
        Ok(())
    }

    fn read_inbox(&self, user: &str, incarnation: u64) -> Vec<StoredEntry> {
        let timeline = TimelineId::Inbox(UserId::new(user).expect("valid"));
        let op = ReadTimeline { timeline: Some(timeline.to_key()), incarnation, ..ReadTimeline::default() };
        match self.cluster.read(MAP.timeline_of(&timeline), &Op::ReadTimeline(op)) {
            Outcome::TimelineRead(TimelineRead { entries, .. }) => entries,
            _ => Vec::new(),
        }
    }
}

impl Inbox {
    fn stored(&self) -> Vec<StoredEntry> {
        let entries = self.entries.iter().zip(1..);
        entries.map(|(entry, seq)| StoredEntry { seq, envelope: entry.stored(), ..Default::default() }).collect()
    }
}

impl Model {
    /// Entries and answers that have not come yet, in words.
    pub(crate) fn waiting(&self, away: &BTreeSet<usize>) -> impl Iterator<Item = String> {
        let there = self.devices.iter().enumerate().filter(|(number, _)| !away.contains(number));
        there.flat_map(|(_, device)| {
            let (_, head) = self.head(&device.user, device.incarnation);
            let behind = (device.next != head + 1).then(|| {
                format!("{}/{} has {} of {head} positions", device.user, device.name, device.next.saturating_sub(1))
            });
            let waits = device.waits.iter().map(|id| format!("{}/{} has no answer to {id}", device.user, device.name));
            behind.into_iter().chain(waits)
        })
    }

    /// Accepted messages of one device to one user stand in the order in which they were sent, in both inboxes. One
    /// that its device gave up, or forgot, may still be under way while later ones are sent. If clients name no
    /// messages, one that was refused in between may stand behind later ones.
    fn check_order(&self, refused_ones: bool) -> Result<(), String> {
        for ((owner, _), inbox) in &self.inboxes {
            let mut last: BTreeMap<(&str, String), u64> = BTreeMap::new();
            for entry in &inbox.entries {
                let envelope = &entry.envelope;
                let Some(device) = self.devices.iter().find(|known| known.name == envelope.sender_device) else {
                    continue;
                };
                let is_accepted = matches!(device.sends.get(&envelope.client_id), Some(Some(Ended::Accepted(_))));
                if !is_accepted || !refused_ones && device.refused.contains(&envelope.client_id) {
                    continue;
                }
                let number = number_of(&envelope.client_id);
                let flow = (envelope.sender_device.as_str(), recipient_of(envelope));
                let before = last.entry(flow).or_default();
                if number <= *before {
                    let device = &envelope.sender_device;
                    let to = recipient_of(envelope);
                    return Err(format!(
                        "in the inbox of {owner}, message {number} of {device} to {to} stands behind its {before}"
                    ));
                }
                *before = number;
            }
        }
        Ok(())
    }

    /// Accepted: in both inboxes. Refused for good: in none. Nobody but a device of this world has sent anything.
    fn check_sends(&self) -> Result<(), String> {
        let mut known: BTreeSet<(&str, &str)> = BTreeSet::new();
        for device in &self.devices {
            for (client_id, ended) in device.sends.iter().filter(|(client_id, _)| !is_to_group(client_id)) {
                known.insert((&device.name, client_id));
                let to = user_name(client_id.split('-').next().and_then(|to| to.parse().ok()).unwrap_or(usize::MAX));
                let key = (device.user.clone(), device.name.clone(), client_id.clone());
                // Any owner of the name may have it: the one of then.
                let places = |user: &str| -> Vec<u64> {
                    self.inboxes_of(user).filter_map(|inbox| inbox.known.get(&key).copied()).collect()
                };
                let name = format!("{client_id} of {}", device.name);
                match ended {
                    None => return Err(format!("{name} never ended")),
                    Some(Ended::Unknown) => {}
                    Some(Ended::Accepted(accepted)) => {
                        let told = accepted.position.map(|position| position.seq);
                        let is_there = told.is_some_and(|told| places(&device.user).contains(&told));
                        let id = &accepted.message_id;
                        let has_come =
                            !places(&to).is_empty() || self.was_withheld(&to, id) || self.was_recalled_alone(id);
                        if !is_there || !has_come {
                            return Err(format!("{name} was accepted but is not where it should be"));
                        }
                    }
                    Some(Ended::Refused(why)) => {
                        if !places(&device.user).is_empty() || !places(&to).is_empty() {
                            return Err(format!("{name} was refused for good but is there: {why}"));
                        }
                    }
                }
            }
        }
        for entry in self.inboxes.values().flat_map(|inbox| &inbox.entries) {
            // Changes of memberships are told by nobody's device.
            let key = (entry.envelope.sender_device.as_str(), entry.envelope.client_id.as_str());
            let is_of_talkers =
                self.is_scheduled(&entry.envelope) || is_passing(&entry.envelope) || self.has_file(&entry.envelope);
            if entry.envelope.change.is_none() && !known.contains(&key) && !is_of_talkers {
                return Err(format!("{:?} was never sent", entry.envelope));
            }
        }
        Ok(())
    }
}

fn number_of(client_id: &str) -> u64 {
    client_id.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
