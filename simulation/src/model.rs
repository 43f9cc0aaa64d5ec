//! What the service promises, and what has been seen of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use carillon_proto::{
    Position, TimelineId,
    pb::{
        client::{self, Accepted, Envelope, recipient::To},
        link,
        store::{
            Append, TimelineCommand, TimelineKey, store_reply::Result as Outcome, timeline_command::Op,
            timeline_key::Kind,
        },
    },
};
use prost::Message as _;

use crate::{
    audience::SeenGroups,
    clients::{device_name, user_name},
    files::{Files, Reference},
    marks::Marks,
    membership::Groups,
    presence::Presence,
    recalls,
    reports::Reports,
    scheduled::Scheduled,
};

pub(crate) struct Model {
    /// Inboxes, by user and incarnation.
    pub(crate) inboxes: BTreeMap<(String, u64), Inbox>,
    /// The incarnation that has the name now; None while it is deleted.
    owners: BTreeMap<String, Option<u64>>,
    /// The one that had it first.
    first_owners: BTreeMap<String, u64>,
    /// Users whose deletion was answered, each with the generation below which sessions are over.
    over_below: BTreeMap<String, u64>,
    pub(crate) devices: Vec<Device>,
    pub(crate) groups: Groups,
    pub(crate) marks: Marks,
    pub(crate) scheduled: Scheduled,
    pub(crate) presence: Presence,
    pub(crate) reported: Reports,
    pub(crate) files: Files,
    withheld: Withheld,
    pub(crate) recalled_alone: recalls::Alone,
    /// Inboxes of deleted users that a router has still to find.
    pub(crate) endings: u64,
    /// The first thing that went wrong.
    pub(crate) broken: Option<String>,
}

#[derive(Default)]
pub(crate) struct Inbox {
    epoch: u64,
    /// The operator has been told that its owner is deleted.
    is_closed: bool,
    /// Entries in the order of their positions.
    pub(crate) entries: Vec<Entry>,
    /// Sender, its device and the client's id: at which position.
    pub(crate) known: BTreeMap<(String, String, String), u64>,
    /// By duplicate key: of what had expired before it came no other name is left.
    by_key: BTreeMap<Bytes, u64>,
}

/// Messages that did not enter the inbox of a user who had blocked the sender.
#[derive(Default)]
struct Withheld {
    /// Owner of the inbox, and id of the message.
    ids: BTreeSet<(String, String)>,
    /// Owner of the inbox, sender, and the client's id.
    names: BTreeSet<(String, String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    pub(crate) bytes: Bytes,
    /// The incarnation of the sender's account, in a group.
    pub(crate) by: u64,
    /// The store has removed the content, as its time was over.
    pub(crate) is_gone: bool,
    /// The message was recalled, or is an edit of such a message.
    pub(crate) is_recalled: bool,
    /// To files.
    pub(crate) media: Vec<Reference>,
}

#[derive(Default)]
pub(crate) struct Device {
    pub(crate) user: String,
    pub(crate) name: String,
    /// The incarnation of the account for which the device signs in.
    pub(crate) incarnation: u64,
    /// The next position that it must be shown.
    pub(crate) next: u64,
    /// The application is done with all up to here and has said so.
    pub(crate) acknowledged: u64,
    pub(crate) sends: BTreeMap<String, Option<Ended>>,
    pub(crate) waits: BTreeSet<String>,
    /// Sends that it was told of as refused, for now or for good.
    pub(crate) refused: BTreeSet<String>,
    pub(crate) groups: SeenGroups,
}

/// The end of a send.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    Accepted(Accepted),
    /// For good: it must not be in any timeline.
    Refused(String),
    /// The message may be there, once.
    Unknown,
}

impl Inbox {
    pub(crate) fn at(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }
}

impl Entry {
    pub(crate) fn references(&self) -> &[Reference] {
        &self.media
    }
}

impl Model {
    /// With the user of each device.
    pub(crate) fn new(devices: &[usize]) -> Self {
        let device = |(number, user): (usize, &usize)| Device {
            user: user_name(*user),
            name: device_name(number),
            next: 1,
            ..Device::default()
        };
        Self {
            inboxes: BTreeMap::new(),
            owners: BTreeMap::new(),
            first_owners: BTreeMap::new(),
            over_below: BTreeMap::new(),
            devices: devices.iter().enumerate().map(device).collect(),
            groups: Groups::default(),
            marks: Marks::default(),
            scheduled: Scheduled::default(),
            presence: Presence::default(),
            reported: Reports::default(),
            files: Files::default(),
            withheld: Withheld::default(),
            recalled_alone: recalls::Alone::default(),
            endings: 0,
            broken: None,
        }
    }

    pub(crate) fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Epoch and last position of the inbox of this incarnation of a user.
    pub(crate) fn head(&self, user: &str, incarnation: u64) -> (u64, u64) {
        let inbox = self.inboxes.get(&(user.to_owned(), incarnation));
        inbox.map_or((0, 0), |inbox| (inbox.epoch, inbox.entries.len() as u64))
    }

    /// All inboxes that the name has had.
    pub(crate) fn inboxes_of(&self, user: &str) -> impl Iterator<Item = &Inbox> {
        self.inboxes.range((user.to_owned(), 0)..=(user.to_owned(), u64::MAX)).map(|(_, inbox)| inbox)
    }

    pub(crate) fn owner(&self, user: &str) -> Option<u64> {
        self.owners.get(user).copied().flatten()
    }

    /// The inbox of the account that the name has now.
    pub(crate) fn inbox_of_owner(&self, user: &str) -> Option<&Inbox> {
        self.inboxes.get(&(user.to_owned(), self.owner(user)?))
    }

    pub(crate) fn first_owner(&self, user: &str) -> Option<u64> {
        self.first_owners.get(user).copied()
    }

    /// The name has an owner; devices that have no account yet are this one's.
    pub(crate) fn makes(&mut self, user: &str, incarnation: u64) {
        self.owners.insert(user.to_owned(), Some(incarnation));
        self.first_owners.entry(user.to_owned()).or_insert(incarnation);
        for device in self.devices.iter_mut().filter(|device| device.user == user && device.incarnation == 0) {
            device.incarnation = incarnation;
        }
    }

    pub(crate) fn deletes(&mut self, user: &str) {
        self.owners.insert(user.to_owned(), None);
    }

    /// From now on nothing that is sent to the user, or by it, is accepted any more.
    pub(crate) fn deletion_is_answered(&mut self, user: &str, generation: u64) {
        self.over_below.insert(user.to_owned(), generation);
        let all = (user.to_owned(), 0)..=(user.to_owned(), u64::MAX);
        self.inboxes.range_mut(all).for_each(|(_, inbox)| inbox.is_closed = true);
    }

    /// May the device be refused for good? Only if its account has ended.
    pub(crate) fn has_ended(&self, device: usize) -> bool {
        let device = &self.devices[device];
        self.owner(&device.user) != Some(device.incarnation)
    }

    /// The device is that of the name's owner now, and knows nothing.
    pub(crate) fn begins_anew(&mut self, device: usize) {
        let owner = self.owner(&self.devices[device].user).unwrap_or(0);
        let device = &mut self.devices[device];
        (device.incarnation, device.next, device.acknowledged) = (owner, 1, 0);
        device.groups.clear();
    }

    /// The state machine has applied a command.
    pub(crate) fn applied(&mut self, command: &Bytes, outcome: &Outcome) {
        let command = TimelineCommand::decode(command.clone()).expect("it was applied");
        let followed = match (command.op, outcome) {
            (Some(Op::Append(append)), Outcome::Appended(appended)) if appended.withheld => self.withholds(&append),
            (Some(Op::Append(append)), Outcome::Appended(appended)) if is_of_group(&append) => {
                self.groups.message(&append, appended)
            }
            (Some(Op::Append(append)), Outcome::Appended(appended)) => {
                let alone = self.stands_alone(owner_of(append.timeline.as_ref()), &append);
                alone.and_then(|()| self.appended(append, appended.epoch, appended.seq, &appended.first_envelope))
            }
            (Some(Op::ChangeGroup(op)), Outcome::Appended(appended)) => self.groups.change(&op, appended),
            (Some(Op::SetMembership(set)), Outcome::Appended(appended)) => {
                self.membership_set(&set);
                let append = set.append.unwrap_or_default();
                self.appended(append, appended.epoch, appended.seq, &appended.first_envelope)
            }
            (Some(Op::MoveMarks(op)), Outcome::ConversationsMoved(moved)) => self.marks_moved(&op, moved),
            (Some(Op::EndTimeline(op)), Outcome::Done(_)) => self.groups.ends(&op),
            (Some(Op::PutReport(op)), Outcome::ReportPut(put)) => self.report_put(&op, put),
            (Some(op @ (Op::CreateMedia(_) | Op::CompleteMedia(_))), Outcome::Done(_)) => {
                self.file_command(&op);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(what) = followed {
            self.breaks(what);
        }
    }

    fn withholds(&mut self, append: &Append) -> Result<(), String> {
        let owner = owner_of(append.timeline.as_ref()).to_owned();
        let envelope = Envelope::decode(append.envelope.clone()).map_err(|error| error.to_string())?;
        let Envelope { id, sender, client_id, .. } = envelope;
        if !self.presence.has_blocked(&owner, &sender) {
            return Err(format!("{client_id} of {sender} was withheld from {owner}, who has not blocked it"));
        }
        self.withheld.ids.insert((owner.clone(), id));
        self.withheld.names.insert((owner, sender, client_id));
        Ok(())
    }

    pub(crate) fn was_withheld(&self, owner: &str, id: &str) -> bool {
        self.withheld.ids.contains(&(owner.to_owned(), id.to_owned()))
    }

    pub(crate) fn was_withheld_by_name(&self, owner: &str, sender: &str, client_id: &str) -> bool {
        self.withheld.names.contains(&(owner.to_owned(), sender.to_owned(), client_id.to_owned()))
    }

    fn appended(&mut self, append: Append, epoch: u64, seq: u64, first: &Bytes) -> Result<(), String> {
        let owner = owner_of(append.timeline.as_ref()).to_owned();
        let envelope = Envelope::decode(append.envelope.clone()).map_err(|error| error.to_string())?;
        // What became of a membership is no message of a session. Two changes may have the same name.
        let is_told = envelope.change.is_some();
        let is_left = envelope.erased && envelope.expires_at_ms != 0;
        let is_unnamed = is_told || is_left;
        let client_id = if is_unnamed { format!("{:?}", append.duplicate_key) } else { envelope.client_id.clone() };
        let key = (envelope.sender.clone(), envelope.sender_device.clone(), client_id);
        // The copy in the own inbox names no session: the inbox itself has ended.
        let over_below = self.over_below.get(&envelope.sender).filter(|_| envelope.sender != owner).copied();
        let is_over = !is_told && over_below.is_some_and(|below| append.sender_generation < below);
        let on_time = self.scheduled_is_sent(&envelope);
        let media = self.references_of(&envelope, append.header.as_deref());
        let inbox = self.inboxes.entry((owner.clone(), append.incarnation)).or_default();
        if inbox.epoch == 0 {
            inbox.epoch = epoch;
        }
        if inbox.epoch != epoch {
            return Err(format!("{owner} is of epoch {epoch} after {}", inbox.epoch));
        }
        let known = if is_left { inbox.by_key.get(&append.duplicate_key) } else { inbox.known.get(&key) }.copied();
        match known {
            Some(known) if known != seq => Err(format!("{key:?} is in {owner} at {known} and at {seq}")),
            Some(known) if !inbox.entries[known as usize - 1].was_answered(first) => {
                Err(format!("{key:?} in {owner} was answered with another message"))
            }
            Some(_) => Ok(()),
            None if inbox.is_closed => Err(format!("{owner} was deleted, and then got {key:?}")),
            None if is_over => Err(format!("the sender was deleted, and then {owner} got {key:?}")),
            None if !first.is_empty() => Err(format!("{key:?} in {owner} was called a repetition")),
            None if seq != inbox.entries.len() as u64 + 1 => {
                Err(format!("{owner} has position {seq} after {}", inbox.entries.len()))
            }
            None if on_time.is_err() => on_time,
            None => {
                inbox.entries.push(Entry {
                    envelope,
                    bytes: append.envelope,
                    by: 0,
                    is_gone: false,
                    is_recalled: false,
                    media,
                });
                recalls::note(&mut inbox.entries, false);
                inbox.known.insert(key, seq);
                inbox.by_key.insert(append.duplicate_key, seq);
                Ok(())
            }
        }
    }

    /// A router says that a message is accepted: it must be applied in both inboxes by now.
    pub(crate) fn accepted_by_router(&mut self, accepted: &link::Accepted) {
        let timeline = accepted.timeline.as_ref().and_then(|timeline| TimelineId::from_client(timeline).ok().flatten());
        if let Some(TimelineId::Group(group)) = &timeline {
            if let Err(what) = self.groups.accepted(group, accepted) {
                self.breaks(format!("accepted before it was appended: {what}"));
            }
            return;
        }
        let sender = timeline.map(|timeline| timeline.owner().to_owned()).unwrap_or_default();
        let position = accepted.position.unwrap_or_default();
        if let Err(what) = self.stands_in_both(&sender, position, &accepted.message_id) {
            self.breaks(format!("accepted before it was appended: {what}"));
        }
    }

    fn stands_in_both(&self, sender: &str, position: client::Position, id: &str) -> Result<(), String> {
        let seq = position.seq;
        let inbox = self.inboxes_of(sender).find(|inbox| inbox.epoch == position.epoch);
        let entry = inbox.and_then(|inbox| inbox.at(seq)).ok_or_else(|| format!("{sender} has nothing at {seq}"))?;
        if entry.envelope.id != *id {
            return Err(format!("{sender} has another message at {seq}"));
        }
        let recipient = recipient_of(&entry.envelope);
        let envelope = &entry.envelope;
        let key = (envelope.sender.clone(), envelope.sender_device.clone(), envelope.client_id.clone());
        // What had expired before it came here has only its id.
        let is_it = |entry: &&Entry| entry.envelope.id == *id;
        let of_name = |inbox: &Inbox| match envelope.erased {
            true => inbox.entries.iter().position(|entry| is_it(&entry)).map(|at| at as u64 + 1),
            false => inbox.known.get(&key).copied(),
        };
        let mut there = self.inboxes_of(&recipient).filter_map(|inbox| inbox.at(of_name(inbox)?)).peekable();
        if there.peek().is_none() && (self.was_withheld(&recipient, id) || self.was_recalled_alone(id)) {
            return Ok(());
        }
        if there.peek().is_none() {
            return Err(format!("{key:?} is not in the inbox of {recipient}"));
        }
        if !there.any(|there| there.may_be(envelope) || entry.may_be(&there.envelope)) {
            return Err(format!("{key:?} is another message in the inbox of {recipient}"));
        }
        Ok(())
    }

    pub(crate) fn sends(&mut self, device: usize, client_id: String) {
        self.devices[device].waits.insert(client_id.clone());
        self.devices[device].sends.insert(client_id, None);
    }

    pub(crate) fn ends(&mut self, device: usize, client_id: &str, ended: Ended) {
        let known = &mut self.devices[device];
        known.waits.remove(client_id);
        match known.sends.get_mut(client_id) {
            Some(how @ None) => *how = Some(ended),
            Some(Some(_)) => self.breaks(format!("{client_id} of device {device} ended twice")),
            None => self.breaks(format!("{client_id} of device {device} ended but was never sent")),
        }
    }

    pub(crate) fn refused(&mut self, device: usize, client_id: &str) {
        self.devices[device].refused.insert(client_id.to_owned());
    }

    pub(crate) fn waits_for_answers(&self, device: usize) -> bool {
        !self.devices[device].waits.is_empty()
    }

    /// A device restarts with what its application has stored.
    pub(crate) fn resumes(&mut self, device: usize, done: Position) {
        self.devices[device].next = done.seq + 1;
    }

    /// A device that did not know its position begins after this one.
    pub(crate) fn begins(&mut self, device: usize, after: u64) {
        let known = &mut self.devices[device];
        known.next = after + 1;
        if after > known.acknowledged {
            let what = format!("device {device} begins after {after}, but acknowledged only {}", known.acknowledged);
            self.breaks(what);
        }
    }

    pub(crate) fn acknowledged(&mut self, device: usize, timeline: &TimelineId, position: Position) {
        if let TimelineId::Group(group) = timeline {
            return self.acknowledged_of_group(device, group.as_str(), position);
        }
        let known = &mut self.devices[device];
        known.acknowledged = known.acknowledged.max(position.seq);
    }

    /// The device restarts: nobody hears the answers to its sends.
    pub(crate) fn forgets(&mut self, device: usize) {
        for client_id in std::mem::take(&mut self.devices[device].waits) {
            self.devices[device].sends.insert(client_id, Some(Ended::Unknown));
        }
    }

    /// A device was shown an envelope.
    pub(crate) fn delivered(&mut self, device: usize, timeline: &TimelineId, position: Position, envelope: &Envelope) {
        if let Err(what) = self.shown(device, timeline, position, |entry| entry.may_be(envelope)) {
            self.breaks(format!("{what}, as {envelope:?}"));
        }
    }

    /// A device was told the place of what it sent.
    pub(crate) fn sent(
        &mut self,
        device: usize,
        timeline: &TimelineId,
        position: Position,
        client_id: &str,
        message_id: &str,
    ) {
        let name = self.devices[device].name.clone();
        let is_it = |entry: &Entry| {
            let envelope = &entry.envelope;
            envelope.sender_device == name && envelope.client_id == client_id && envelope.id == message_id
        };
        if let Err(what) = self.shown(device, timeline, position, is_it) {
            self.breaks(format!("{what}, as {client_id}"));
        }
    }

    fn shown(
        &mut self,
        device: usize,
        timeline: &TimelineId,
        position: Position,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Result<(), String> {
        if let TimelineId::Group(group) = timeline {
            return self.shown_of_group(device, group.as_str(), position, is_it);
        }
        let Device { user, name, incarnation, next, .. } = &self.devices[device];
        let seq = position.seq;
        if seq != *next {
            return Err(format!("{user}/{name} was shown position {seq} instead of {next}"));
        }
        // What is another owner's is not there for this one.
        let inbox = self.inboxes.get(&(user.clone(), *incarnation));
        let entry = inbox.and_then(|inbox| inbox.at(seq));
        let entry = entry.ok_or_else(|| format!("{user}/{name} was shown {seq}, which is not there"))?;
        if !is_it(entry) {
            return Err(format!("{user}/{name} was shown at {seq} what is not there"));
        }
        self.devices[device].next += 1;
        Ok(())
    }
}

pub(crate) fn recipient_of(envelope: &Envelope) -> String {
    match envelope.to.as_ref().and_then(|to| to.to.as_ref()) {
        Some(To::User(user)) => user.clone(),
        Some(To::Group(_)) | None => String::new(),
    }
}

pub(crate) fn is_of_group(append: &Append) -> bool {
    append.timeline.as_ref().is_some_and(|timeline| timeline.kind() == Kind::Group)
}

/// The owner of the timeline; empty if none is named.
pub(crate) fn owner_of(timeline: Option<&TimelineKey>) -> &str {
    timeline.and_then(|timeline| timeline.owner_str().ok()).unwrap_or_default()
}
