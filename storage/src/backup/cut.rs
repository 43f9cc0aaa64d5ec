//! The two copies of a message are in the inboxes of recipient and sender, which a backup may have read at different
//! moments. A message of which the backup has one copy gets the other one here. Messages older than the time around
//! the backup are left as they are: a copy that is missing then is missing in the cluster, too, or was trimmed.

use std::{collections::BTreeMap, io};

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, Epoch, Level, ShardId, ShardMap, TimelineId, UserId,
    pb::{
        client::recipient::To,
        link::RawEnvelope,
        raft::SnapshotMeta,
        store::{Account, Append, EndTimeline, Header, TimelineCommand, TimelineKey, timeline_command::Op},
    },
};
use prost::Message as _;

use crate::machine::{
    DirectoryReader, EntryCommands, Kept, Machine as _, Outcome, TimelineMachine, TimelineReader, TimelineState,
};

/// How far the ages of one moment may differ by the clocks of two shards.
const SLACK_MS: i64 = 2 * 60 * 1000;
/// Inboxes, and messages of one, that are held in memory.
const INBOXES: usize = 256;
const MESSAGES: usize = 64;

/// What a restore has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// Messages of which one copy was missing.
    pub messages: u64,
    /// Inboxes of former owners of a name that had not ended when they were read.
    pub ended: u64,
}

/// A restored timeline shard.
pub(super) struct TimelineCopy {
    pub(super) machine: TimelineMachine,
    pub(super) reader: TimelineReader,
    /// What the shard's clock showed when the backup began.
    pub(super) began_ms: u64,
    pub(super) applied: Vec<u8>,
    pub(super) meta: SnapshotMeta,
}

impl TimelineCopy {
    fn apply(&mut self, op: Op) -> io::Result<Option<Outcome>> {
        let command = TimelineCommand { op: Some(op) }.encode_to_vec();
        let entry = EntryCommands { index: 0, commands: vec![command.into()] };
        Ok(self.machine.apply(&[entry], &self.applied)?.pop().and_then(|mut outcomes| outcomes.pop()))
    }
}

/// `before_ms`: how long before the beginning of the backup messages are looked at. Blocking.
pub(super) fn mend(
    map: ShardMap,
    before_ms: u64,
    timelines: &mut BTreeMap<ShardId, TimelineCopy>,
    directories: &BTreeMap<ShardId, &DirectoryReader>,
) -> io::Result<Mended> {
    let readers = timelines.iter().map(|(shard, copy)| (*shard, (copy.reader.clone(), copy.began_ms))).collect();
    let mut cut = Cut { map, before_ms, timelines, readers, directories, mended: Mended::default() };
    let shards: Vec<ShardId> = cut.timelines.keys().copied().collect();
    for shard in shards {
        cut.shard(shard)?;
    }
    Ok(cut.mended)
}

struct Cut<'a> {
    map: ShardMap,
    before_ms: u64,
    timelines: &'a mut BTreeMap<ShardId, TimelineCopy>,
    /// Of all timeline shards, with `began_ms`.
    readers: BTreeMap<ShardId, (TimelineReader, u64)>,
    directories: &'a BTreeMap<ShardId, &'a DirectoryReader>,
    mended: Mended,
}

/// A user with the account that the backup has.
struct Owner<'a> {
    user: &'a UserId,
    account: &'a Account,
}

impl Cut<'_> {
    fn shard(&mut self, shard: ShardId) -> io::Result<()> {
        let (reader, began_ms) = self.reader(shard)?;
        let mut after = None;
        loop {
            let page = reader.inboxes(after.as_ref(), INBOXES)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (inbox, state) in page {
                self.inbox(shard, &reader, began_ms, &inbox, &state)?;
            }
        }
    }

    fn inbox(
        &mut self,
        shard: ShardId,
        reader: &TimelineReader,
        began_ms: u64,
        inbox: &TimelineKey,
        state: &TimelineState,
    ) -> io::Result<()> {
        let Ok(user) = inbox.owner_str().and_then(UserId::new) else { return Ok(()) };
        let Some(account) = self.account(&user)? else { return Ok(()) };
        if state.number != 0 && state.incarnation < account.incarnation {
            // The user was deleted after the inbox was read.
            let end = EndTimeline { timeline: Some(inbox.clone()), incarnation: account.incarnation };
            self.copy(shard)?.apply(Op::EndTimeline(end))?;
            self.mended.ended += 1;
            return Ok(());
        }
        if account.deleted || state.number == 0 || state.incarnation != account.incarnation {
            return Ok(());
        }
        let mut next = reader.first_since(state, began_ms.saturating_sub(self.before_ms))?;
        while next <= state.last {
            let page = reader.kept(state, next, MESSAGES)?;
            let Some(last) = page.last() else { return Ok(()) };
            next = last.seq + 1;
            for message in page {
                let age_ms = began_ms as i64 - message.clock_ms as i64;
                self.message(&Owner { user: &user, account: &account }, age_ms, &message)?;
            }
        }
        Ok(())
    }

    /// `age_ms`: of the message when the backup began; negative if it came later.
    fn message(&mut self, owner: &Owner<'_>, age_ms: i64, message: &Kept) -> io::Result<()> {
        let Ok(envelope) = RawEnvelope::decode(message.envelope.clone()) else { return Ok(()) };
        let Some(Some(To::User(recipient))) = envelope.to.as_ref().map(|to| to.to.as_ref()) else { return Ok(()) };
        let names = (UserId::new(&envelope.sender), UserId::new(recipient));
        let (Ok(sender), Ok(recipient)) = names else { return Ok(()) };
        let ids = (DeviceId::new(&envelope.sender_device), ClientId::new(&envelope.client_id));
        let (Ok(device), Ok(client_id)) = ids else { return Ok(()) };
        let is_sent = *owner.user == sender;
        if sender == recipient || !(is_sent || *owner.user == recipient) {
            return Ok(());
        }
        let other = if is_sent { &recipient } else { &sender };
        let Some(account) = self.account(other)?.filter(|account| !account.deleted) else { return Ok(()) };
        let sender_incarnation = if is_sent { owner.account.incarnation } else { account.incarnation };
        let key = DuplicateKey::new(&sender, &device, &client_id).of_incarnation(sender_incarnation);
        let to_recipient = key.to(&recipient);
        if ![key.0, to_recipient.0].contains(&message.duplicate) {
            // Sent by a former owner of the name.
            return Ok(());
        }
        if is_sent && account.remade && envelope.time_ms < account.created_ms {
            // Sent to a former owner of the name.
            return Ok(());
        }
        // In the sender's inbox the key includes the recipient if the client has used its id for another message, too.
        let keys = if is_sent { vec![key] } else { vec![key, to_recipient] };
        self.put(other, account.incarnation, &keys, age_ms, message, &envelope)
    }

    /// Appends the message to this user's inbox, unless it is there.
    fn put(
        &mut self,
        user: &UserId,
        incarnation: u64,
        keys: &[DuplicateKey],
        age_ms: i64,
        message: &Kept,
        envelope: &RawEnvelope,
    ) -> io::Result<()> {
        let inbox = TimelineId::Inbox(user.clone());
        let (shard, inbox) = (self.map.timeline_of(&inbox), inbox.to_key());
        let (reader, began_ms) = self.reader(shard)?;
        let state = reader.state(&inbox)?;
        if state.is_some_and(|state| state.incarnation > incarnation) {
            return Ok(());
        }
        let state = state.filter(|state| state.number != 0 && state.incarnation == incarnation);
        let mut free = None;
        for key in keys {
            let there = state.map(|state| reader.envelope_of(&state, &key.0)).transpose()?.flatten();
            match there {
                None => free = free.or(Some(key)),
                Some(there) if RawEnvelope::decode(there.clone()).is_ok_and(|there| there.id == envelope.id) => {
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        let Some(key) = free else { return Ok(()) };
        if let Some(state) = state.filter(|state| state.first > 1) {
            let oldest = reader.kept(&state, state.first, 1)?.pop();
            let oldest_ms = oldest.map_or(i64::MIN, |oldest| began_ms as i64 - oldest.clock_ms as i64);
            if oldest_ms <= age_ms.saturating_add(SLACK_MS) {
                // It may have been there, and was trimmed.
                return Ok(());
            }
        }
        // What else the header says is not known of the other inbox; the files must be held.
        let media = if reader.level() >= Level::GROUPS { message.media.clone() } else { Vec::new() };
        let header = Header { countable: true, media, ..Header::default() };
        let append = Append {
            timeline: Some(inbox),
            duplicate_key: key.0.to_vec().into(),
            time_ms: envelope.time_ms,
            envelope: message.envelope.clone(),
            new_epoch: Epoch::random().0,
            incarnation,
            header: (!header.media.is_empty()).then(|| Box::new(header)),
            ..Append::default()
        };
        match self.copy(shard)?.apply(Op::Append(append))? {
            Some(Outcome::Appended(_)) => self.mended.messages += 1,
            other => return Err(io::Error::other(format!("a message can't be restored: {other:?}"))),
        }
        Ok(())
    }

    fn account(&self, user: &UserId) -> io::Result<Option<Account>> {
        let shard = self.map.directory_of(user);
        let reader = self.directories.get(&shard).ok_or_else(|| no(shard))?;
        Ok(reader.user(user.as_str())?.account)
    }

    fn reader(&self, shard: ShardId) -> io::Result<(TimelineReader, u64)> {
        self.readers.get(&shard).cloned().ok_or_else(|| no(shard))
    }

    fn copy(&mut self, shard: ShardId) -> io::Result<&mut TimelineCopy> {
        self.timelines.get_mut(&shard).ok_or_else(|| no(shard))
    }
}

fn no(shard: ShardId) -> io::Error {
    io::Error::other(format!("there is no {shard}"))
}
