//! Rows that wait for workers, in memory.

use std::collections::BTreeMap;

use carillon_proto::pb::store::{
    LeaveGroups, OutboxRow, Person, ReadMembers, ReadOutbox, SettleOutbox, TellMembers, member::Standing,
    outbox_row::Task, rejected::Reason, settle_outbox::Verdict,
};

use super::{
    GROUPS,
    commands::key,
    model::{Group, Model},
};
use crate::machine::{TimelineReader, Unread};

type Rows = BTreeMap<(u64, u32), OutboxRow>;

#[derive(Default)]
pub(super) struct Outbox {
    waiting: Rows,
    dead: Rows,
    /// Of the next row.
    at: (u64, u32),
}

impl Outbox {
    pub(super) fn is_at(&mut self, index: u64) {
        if self.at.0 != index {
            self.at = (index, 0);
        }
    }

    fn put(&mut self, row: OutboxRow) {
        while self.waiting.contains_key(&self.at) {
            self.at.1 += 1;
        }
        self.waiting.insert(self.at, row);
        self.at.1 += 1;
    }

    pub(super) fn tell(&mut self, tell: TellMembers, time_ms: u64) {
        if !tell.told.is_empty() || tell.ends {
            self.put(OutboxRow { time_ms, task: Some(Task::Tell(tell)), ..OutboxRow::default() });
        }
    }

    pub(super) fn leave(&mut self, user: &str, incarnation: u64, groups: BTreeMap<String, (u64, u64, Standing)>) {
        let groups: Vec<_> =
            groups.iter().filter(|(_, row)| row.2 == Standing::Member).map(|(name, _)| key(name)).collect();
        if !groups.is_empty() {
            let person = Some(Person { user: user.to_owned(), incarnation });
            self.put(OutboxRow { task: Some(Task::Leave(LeaveGroups { person, groups })), ..OutboxRow::default() });
        }
    }

    pub(super) fn settle(&mut self, op: &SettleOutbox) {
        for settled in &op.rows {
            let place = (settled.index, settled.number);
            match settled.verdict() {
                Verdict::Unspecified => unreachable!("not among the commands"),
                Verdict::Done => drop(self.waiting.remove(&place)),
                Verdict::Refused => {
                    let Some(row) = self.waiting.get_mut(&place) else { continue };
                    row.failures += 1;
                    row.why.clone_from(&settled.why);
                    if row.failures == 8 {
                        let row = self.waiting.remove(&place).expect("is there");
                        self.dead.insert(place, row);
                    }
                }
                Verdict::Replay => {
                    if let Some(row) = self.dead.remove(&place) {
                        self.waiting.insert(place, OutboxRow { failures: 0, ..row });
                    }
                }
                Verdict::Discard => drop(self.dead.remove(&place)),
            }
        }
    }
}

pub(super) fn check(reader: &TimelineReader, model: &Model) {
    for (dead, expected) in [(false, &model.outbox.waiting), (true, &model.outbox.dead)] {
        let (mut found, mut after) = (Rows::new(), (0, 0));
        loop {
            let op = ReadOutbox { after_index: after.0, after_number: after.1, limit: 2, dead };
            let page = reader.outbox(&op).expect("reads");
            if after == (0, 0) {
                assert_eq!(page.dead_letters as usize, model.outbox.dead.len());
            }
            for row in page.rows {
                after = (row.index, row.number);
                let told = row.row.expect("has one");
                if let Some(Task::Tell(tell)) = &told.task
                    && let Some(group) =
                        GROUPS.iter().filter_map(|name| model.get(name)).find(|of| of.number == tell.number)
                {
                    let mut known = group.known.iter();
                    let (key, _) = known.find(|(_, seq)| **seq == tell.seq).expect("was appended");
                    assert_eq!(row.envelope, vec![key[0]; 8]);
                }
                assert!(found.insert(after, told).is_none());
            }
            if page.complete {
                break;
            }
        }
        assert_eq!(found, *expected, "dead: {dead}");
    }
    for name in GROUPS {
        check_deleted(reader, name, model.get(name));
    }
}

/// The service reads who was in a group that was deleted.
fn check_deleted(reader: &TimelineReader, name: &str, group: Option<&Group>) {
    let incarnation = group.map_or(0, |group| group.incarnation);
    let op = |incarnation| ReadMembers {
        timeline: Some(key(name)),
        others: true,
        deleted: Some(incarnation),
        ..ReadMembers::default()
    };
    match reader.members(&op(incarnation)) {
        Ok(read) => {
            let group = group.filter(|group| group.deleted).expect("was deleted");
            let users: Vec<_> = read.members.into_iter().map(|row| row.user).collect();
            assert_eq!(users, group.rows.keys().cloned().collect::<Vec<_>>());
            assert!(reader.members(&op(incarnation + 1)).is_err(), "another group of the name");
        }
        Err(Unread::Rejected(why)) => {
            assert_eq!(why.reason(), Reason::NotFound);
            assert!(group.is_none_or(|group| !group.deleted));
        }
        Err(Unread::Engine(error)) => panic!("{error}"),
    }
}
