//! Scheduled messages of the small router, which are never sent.

use carillon_proto::pb::{
    link::{ChangeScheduled, Schedule, router_reply::Result as Reply},
    store::{
        ReadScheduled, ScheduledChanged, ScheduledRead, ScheduledRow, scheduled_read::Row, scheduled_row::State as Is,
    },
};

use super::State;

impl State {
    pub(super) fn schedule(&self, schedule: Schedule) -> Reply {
        let mut store = self.store.lock();
        store.scheduled.push(schedule.schedule.expect("set"));
        let version = store.scheduled.len() as u64;
        Reply::ScheduledChanged(ScheduledChanged { version, id: version, changed: true, failed: false })
    }

    pub(super) fn change_scheduled(&self, change: ChangeScheduled) -> Reply {
        let mut store = self.store.lock();
        let change = change.change.expect("set");
        store.scheduled_changes.push(change.change);
        let version = store.scheduled.len() as u64;
        Reply::ScheduledChanged(ScheduledChanged { version, id: change.id, changed: true, failed: false })
    }

    pub(super) fn read_scheduled(&self, read: &ReadScheduled) -> Reply {
        let store = self.store.lock();
        let row = |(at, schedule): (u64, &carillon_proto::pb::store::Schedule)| Row {
            id: at,
            row: Some(ScheduledRow {
                client_id: schedule.client_id.clone(),
                to: schedule.to.clone(),
                content: schedule.content.clone(),
                at_ms: schedule.at_ms,
                state: Is::Waiting.into(),
                ..ScheduledRow::default()
            }),
        };
        let messages = (1..).zip(&store.scheduled).filter(|(at, _)| *at > read.after).map(row).collect();
        Reply::ScheduledRead(ScheduledRead { version: store.scheduled.len() as u64, messages, complete: true })
    }
}
