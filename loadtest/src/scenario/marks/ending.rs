//! The end of the scenario: everybody reads the rest, and what each device and each writer sees must be so.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_client::FetchError;
use carillon_proto::{GroupId, TimelineId};
use futures_util::StreamExt as _;

use super::{
    Talks,
    device::{Device, Person, Talk},
    plan,
    reading::row_of,
    views::{Truth, check_mark_of_group, check_mark_of_pair, check_row},
};
use crate::{
    checker::View,
    scenario::{
        eventually,
        groups::read_log,
        read_back::{Inbox, read_back},
    },
};

/// Devices and users that are asked at the same time.
const AT_ONCE: usize = 16;
/// How long news may be on their way. After that, who does not know has to ask.
const ON_THE_WAY: Duration = Duration::from_secs(3);
/// Before something that is not right is looked at again.
const AGAIN: Duration = Duration::from_millis(500);

/// Numbers of devices and writers that were not told, and saw the present state only when they asked. News may be lost on their way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) devices: usize,
    pub(super) writers: usize,
}

/// Why something could not be compared.
enum Unclear {
    Wrong(String),
    Unread(String),
}

impl Talks<'_> {
    /// Everything that was accepted must stand in the inboxes and logs.
    pub(super) async fn read_back(&self) {
        let inbox = |device: &Arc<Device>| {
            let is_pair = matches!(device.person.talk, Talk::Pair(_));
            let (user, client, flows) = (device.person.name.clone(), device.client.clone(), device.flows.clone());
            is_pair.then_some(Inbox { user, client, flows })
        };
        read_back(&self.load, self.first().filter_map(inbox).collect()).await;
        let all = futures_util::stream::iter(0..self.config.plan.groups);
        all.for_each_concurrent(AT_ONCE, async |number| {
            let members = self.config.plan.members_of(plan::Talk::Group(number));
            let (group, owner) = (&self.groups[number], &self.devices[members.start][0]);
            let flows: Vec<_> =
                members.map(|user| self.load.checker.group_flow(&self.people[user].name, group)).collect();
            read_log(&self.load, group, self.timeline(number), Some(&owner.client), &flows).await;
        })
        .await;
    }

    /// Waits until everybody has read what it has to read.
    pub(super) async fn all_is_read(&self, patience: Duration) {
        let is_read = |device: &Arc<Device>| !device.person.reads || device.reading.lock().to_read().is_none();
        eventually(patience, || self.first().all(is_read)).await;
    }

    /// Counts the devices and writers that have to ask. News may come a little later than the answer to the device that has read.
    pub(super) async fn who_has_to_ask(&self) -> Asked {
        let is_told = |device: &&Arc<Device>| {
            // `truth` may lock the same device.
            let unread = self.truth(&device.person).unread;
            device.reading.lock().unread() == unread
        };
        let has_seen = |device: &&Arc<Device>| {
            device.peer.as_ref().is_none_or(|peer| {
                *device.person.seen.lock() == self.truth(peer).read.map(|read| read.id).unwrap_or_default()
            })
        };
        eventually(ON_THE_WAY, || {
            self.all().all(|device| is_told(&device)) && self.first().all(|device| has_seen(&device))
        })
        .await;
        Asked {
            devices: self.all().filter(|device| !is_told(device)).count(),
            writers: self.first().filter(|device| !has_seen(device)).count(),
        }
    }

    /// Each device reads its list, and each user the marks of the others. What is not so by the end of the patience is a finding.
    pub(super) async fn compare(&self, patience: Duration) {
        let give_up = Instant::now() + patience;
        let all = futures_util::stream::iter(self.all());
        all.for_each_concurrent(AT_ONCE, async |device| {
            let mut both = [false; 2];
            loop {
                let unclear = self.compare_device(device, &mut both).await;
                let Err(why) = unclear else { return };
                if Instant::now() < give_up {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                return match why {
                    Unclear::Wrong(why) => device.found(View::Mark, why),
                    Unclear::Unread(why) => device.inbox.unread(why),
                };
            }
        })
        .await;
    }

    /// `done`: the list was right, and the marks of others.
    async fn compare_device(&self, device: &Arc<Device>, done: &mut [bool; 2]) -> Result<(), Unclear> {
        if !done[0] {
            self.compare_list(device).await?;
            done[0] = true;
        }
        if device.is_first && !done[1] {
            self.compare_others(device).await?;
            done[1] = true;
        }
        Ok(())
    }

    async fn compare_list(&self, device: &Arc<Device>) -> Result<(), Unclear> {
        if device.person.reads && self.first_of(&device.person).reading.lock().to_read().is_some() {
            return Err(Unclear::Unread("its mark could not be moved: how far it has read is not known".to_owned()));
        }
        let truth = self.truth(&device.person);
        device.read_list().await.map_err(unread)?;
        let unread_by_device = device.reading.lock().unread();
        if unread_by_device != truth.unread {
            let told = format!("by what it was told, {unread_by_device} messages are unread, and {} are", truth.unread);
            return Err(Unclear::Wrong(told));
        }
        let list = device.client.read_conversations(None).await.map_err(unread)?;
        check_row(&truth, row_of(&list.conversations, &device.person.talk.recipient())).map_err(Unclear::Wrong)
    }

    /// Compares the marks of those to whom the user writes with what the service tells the user of them.
    async fn compare_others(&self, device: &Arc<Device>) -> Result<(), Unclear> {
        let others = self.others_of(&device.person);
        let names = others.iter().map(|other| other.name.clone()).collect();
        let group = match &device.person.talk {
            Talk::Pair(_) => None,
            Talk::Group(TimelineId::Group(group), _) => Some(group.clone()),
            Talk::Group(..) => return Ok(()),
        };
        let marks = device.client.read_marks(group.as_ref(), names).await.map_err(unread)?;
        for other in others {
            let first = self.first_of(&other);
            if other.reads && first.reading.lock().to_read().is_some() {
                // Its own row says that this is not known.
                continue;
            }
            let truth = self.truth(&other);
            let mark = marks.iter().find(|mark| mark.user == other.name);
            let compared = match &other.talk {
                Talk::Pair(_) => check_mark_of_pair(&truth, mark),
                Talk::Group(_, group) => check_mark_of_group(&truth, mark, group.head()),
            };
            compared.map_err(|why| Unclear::Wrong(format!("{}: {why}", other.name)))?;
        }
        Ok(())
    }

    /// A reader whose mark is at its last message has read everything. Of others, what their first devices were shown is unread, but for what
    /// their own messages have read.
    fn truth(&self, person: &Person) -> Truth {
        let reading = self.first_of(person).reading.lock();
        if person.reads {
            Truth { unread: 0, read: reading.last() }
        } else {
            Truth { unread: reading.unread(), read: None }
        }
    }

    fn first_of(&self, person: &Person) -> &Arc<Device> {
        &self.devices[person.number][0]
    }

    fn others_of(&self, person: &Person) -> Vec<Arc<Person>> {
        let members = self.config.plan.members_of(self.config.plan.talk_of(person.number));
        members.filter(|member| *member != person.number).map(|member| Arc::clone(&self.people[member])).collect()
    }

    fn timeline(&self, group: usize) -> TimelineId {
        TimelineId::Group(GroupId::new(&self.groups[group].name).expect("a name that this program has made"))
    }
}

fn unread(error: FetchError) -> Unclear {
    Unclear::Unread(format!("its conversations and marks could not be read: {error}"))
}
