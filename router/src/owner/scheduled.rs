//! Messages that are to be sent later: kept, changed and read in the shard of their user's inbox. See docs/adr/0033-scheduled.md.

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, Epoch, Level, ShardId, TimelineId, UserId,
    pb::{
        link::{self, ScheduledNews, signaled::Notice},
        store::{
            self, Person, ReadUser, ScheduledChanged, TimelineCommand, User, change_scheduled::Change, store_request,
            timeline_command,
        },
    },
};

use super::{Answer, Continuation, Owner, unexpected};
use crate::{
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
};

/// A change under way.
pub(super) struct ScheduleChanging {
    user: UserId,
    incarnation: u64,
    shard: ShardId,
    /// The message is to be sent at once.
    sends: bool,
    slot: ReplySlot,
}

/// A message that is to be scheduled when its recipient was read.
pub(super) struct Scheduling {
    command: store::Schedule,
    to: TimelineId,
    parts: RequestContext,
}

impl Owner {
    pub(super) fn schedule(&mut self, schedule: link::Schedule, parts: RequestContext) {
        let Some(schedule) = schedule.schedule else { return self.refuse(parts.slot, &NOTHING) };
        let (key, to) = match named(&parts.user, &schedule) {
            Ok(named) => named,
            Err(failure) => return self.refuse(parts.slot, &failure),
        };
        let domain = match &to {
            TimelineId::Inbox(user) => user.domain(),
            TimelineId::Group(group) => group.domain(),
        };
        if !self.topology.domains.allow(parts.user.domain(), domain) {
            return self.refuse(parts.slot, &Failure::OtherDomain(to.owner().to_owned()));
        }
        let command = store::Schedule {
            timeline: Some(TimelineId::Inbox(parts.user.clone()).to_key()),
            new_epoch: Epoch::random().0,
            duplicate_key: key.0.to_vec().into(),
            to_incarnation: None,
            ..schedule
        };
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Scheduled);
        }
        let (shard, op) = match &to {
            TimelineId::Inbox(user) if *user == parts.user => {
                let to_incarnation = Some(command.incarnation);
                return self.put_scheduled(store::Schedule { to_incarnation, ..command }, parts);
            }
            // What this router knows of the accounts of others may be old.
            TimelineId::Inbox(user) => {
                let read = ReadUser { user: user.as_str().to_owned(), ..ReadUser::default() };
                (self.topology.shards.directory_of(user), store_request::Op::ReadUser(read))
            }
            TimelineId::Group(_) => {
                let read = store::ReadGroup { timeline: Some(to.to_key()), ..store::ReadGroup::default() };
                (self.topology.shards.timeline_of(&to), store_request::Op::ReadGroup(read))
            }
        };
        let deadline = parts.deadline;
        let scheduling = Box::new(Scheduling { command, to, parts });
        self.ask(shard, op, String::new(), deadline, Continuation::Scheduling(scheduling));
    }

    /// The recipient is known: the message is for this account or group, and for no later one of the name.
    pub(super) fn recipient_read(&mut self, scheduling: Scheduling, answer: Result<StoreAnswer, StoreFailure>) {
        let Scheduling { command, to, parts } = scheduling;
        let to_incarnation = match answer {
            Ok(StoreAnswer::User(User { account: Some(account), .. })) if account.deleted => {
                return self.refuse(parts.slot, &Failure::NoUser(to.owner().to_owned()));
            }
            // Nobody has had the name: it may have its first owner when the time comes.
            Ok(StoreAnswer::User(User { account, .. })) => account.map(|account| account.incarnation),
            // Whether the user may write there is decided when the time comes.
            Ok(StoreAnswer::GroupRead(read)) => Some(read.incarnation),
            Err(StoreFailure::NotFound { .. }) => None,
            other => return self.refuse(parts.slot, &unexpected(other)),
        };
        self.put_scheduled(store::Schedule { to_incarnation, ..command }, parts);
    }

    fn put_scheduled(&mut self, command: store::Schedule, parts: RequestContext) {
        let incarnation = command.incarnation;
        self.write_scheduled(timeline_command::Op::Schedule(command), incarnation, false, parts);
    }

    pub(super) fn change_scheduled(&mut self, change: link::ChangeScheduled, parts: RequestContext) {
        let Some(change) = change.change else { return self.refuse(parts.slot, &NOTHING) };
        let (incarnation, sends) = (change.incarnation, matches!(change.change, Some(Change::Now(_))));
        let timeline = Some(TimelineId::Inbox(parts.user.clone()).to_key());
        let command = timeline_command::Op::ChangeScheduled(store::ChangeScheduled { timeline, ..change });
        self.write_scheduled(command, incarnation, sends, parts);
    }

    fn write_scheduled(&mut self, command: timeline_command::Op, incarnation: u64, sends: bool, parts: RequestContext) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Scheduled);
        }
        let RequestContext { user, slot, deadline, .. } = parts;
        let shard = self.topology.shards.timeline_of_owner(user.as_str());
        let op = store_request::Op::Timeline(TimelineCommand { op: Some(command) });
        let changing = Box::new(ScheduleChanging { user, incarnation, shard, sends, slot });
        self.ask(shard, op, String::new(), deadline, Continuation::Scheduled(changing));
    }

    pub(super) fn scheduled_changed(&mut self, changing: ScheduleChanging, answer: Result<StoreAnswer, StoreFailure>) {
        let ScheduleChanging { user, incarnation, shard, sends, slot } = changing;
        let changed = match answer {
            Ok(StoreAnswer::ScheduledChanged(changed)) => changed,
            Err(StoreFailure::NoRoom { detail }) => return self.refuse(slot, &Failure::NoRoom(detail)),
            other => return self.refuse(slot, &unexpected(other)),
        };
        if sends {
            self.nudges.nudge(shard);
        }
        if let ScheduledChanged { version, id, changed: true, .. } = changed {
            let user = Some(Person { user: user.as_str().to_owned(), incarnation });
            self.scheduled_news(ScheduledNews { user, version, id, failed: false });
        }
        self.end(slot, Ok(Answer::ScheduledChanged(changed)));
    }

    pub(super) fn read_scheduled(&mut self, read: link::ReadScheduled, parts: RequestContext) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Scheduled);
        }
        let timeline = TimelineId::Inbox(parts.user);
        let shard = self.topology.shards.timeline_of(&timeline);
        let read = store::ReadScheduled { timeline: Some(timeline.to_key()), ..read.read.unwrap_or_default() };
        let op = store_request::Op::ReadScheduled(read);
        self.ask(shard, op, String::new(), parts.deadline, Continuation::Read(parts.slot));
    }

    /// All sessions of the user are told; each gateway knows which of them want to know.
    pub(super) fn scheduled_news(&mut self, news: ScheduledNews) {
        let Some(Person { user, incarnation }) = news.user.clone() else { return };
        let Ok(user) = UserId::new(&user) else { return };
        self.signal_to(&user, incarnation, Notice::ScheduledNews(news));
    }
}

const NOTHING: Failure = Failure::Invalid("the request says nothing about a scheduled message");

/// The key that the message will have, and whom it is for.
fn named(user: &UserId, schedule: &store::Schedule) -> Result<(DuplicateKey, TimelineId), Failure> {
    let (device, client_id) = (DeviceId::new(&schedule.device)?, ClientId::new(&schedule.client_id)?);
    let to = schedule.to.as_ref().map(TimelineId::from_key).transpose()?.flatten();
    let to = to.ok_or(Failure::Invalid("the scheduled message is for nobody"))?;
    Ok((DuplicateKey::new(user, &device, &client_id).of_incarnation(schedule.incarnation), to))
}
