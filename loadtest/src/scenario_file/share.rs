//! The share of each of several processes that make the load of a scenario together.

use super::{GroupsPart, MarksPart, PresencePart, ScenarioFile};
use crate::scenario;

/// Of a count.
fn share(all: usize, parts: usize, number: usize) -> usize {
    scenario::share::share(all as u64, parts as u64, number as u64) as usize
}

impl ScenarioFile {
    /// How many processes can share its load: users write to users of the same process, and each has some of every part.
    pub(crate) fn most_workers(&self) -> usize {
        [
            self.direct.as_ref().map(|direct| direct.users / 2),
            self.groups.as_ref().map(GroupsPart::most_workers),
            self.presence.as_ref().map(PresencePart::most_workers),
            self.marks.as_ref().map(MarksPart::most_workers),
            self.idle.as_ref().map(|idle| idle.connections),
            self.offline.as_ref().map(|offline| offline.absent.min(offline.senders).min(offline.messages as usize)),
            self.reconnect.as_ref().map(|reconnect| reconnect.connections.min(reconnect.senders)),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(1)
    }

    /// The part of all messages that the users of a worker send.
    pub(crate) fn part_of(&self, workers: usize, number: usize) -> f64 {
        let users = self.direct.as_ref().map_or(workers, |direct| direct.users);
        share(users, workers, number) as f64 / users as f64
    }

    /// Users who write or show something all the time.
    pub(crate) fn users(&self) -> usize {
        let Self { direct, groups, presence, marks, .. } = self;
        let messages =
            direct.as_ref().map_or(0, |direct| direct.users) + groups.as_ref().map_or(0, |groups| groups.users);
        messages + presence.as_ref().map_or(0, |presence| presence.users) + marks.as_ref().map_or(0, MarksPart::users)
    }

    /// The scenario of one of the workers. Levels, faults and the search are the coordinator's.
    pub(crate) fn of_worker(&self, workers: usize, number: usize) -> Self {
        let mut own = self.clone();
        own.target.server_pids.clear();
        own.target.admin.clear();
        own.target.gateway_admin.clear();
        own.level = super::LevelPart { acceptance_p99_ms: self.level.acceptance_p99_ms, ..Default::default() };
        own.chaos = None;
        let part = self.part_of(workers, number);
        if let Some(direct) = &mut own.direct {
            direct.users = share(direct.users, workers, number);
            direct.slow_readers = share(direct.slow_readers, workers, number).min(direct.users);
            direct.rate = direct.rate.map(|rate| rate * part);
            if let Some(ramp) = &mut direct.ramp {
                (ramp.from, ramp.to) = (ramp.from * part, ramp.to * part);
            }
        }
        if let Some(groups) = &mut own.groups {
            groups.share(|all| share(all, workers, number));
        }
        if let Some(presence) = &mut own.presence {
            presence.share(|all| share(all, workers, number));
        }
        if let Some(marks) = &mut own.marks {
            marks.share(|all| share(all, workers, number));
        }
        if let Some(idle) = &mut own.idle {
            idle.connections = share(idle.connections, workers, number);
        }
        if let Some(offline) = &mut own.offline {
            let all = offline.senders;
            offline.absent = share(offline.absent, workers, number);
            offline.senders = share(all, workers, number);
            offline.messages = share(offline.messages as usize, workers, number) as u64;
            offline.rate = offline.rate.map(|rate| rate * offline.senders as f64 / all as f64);
        }
        if let Some(reconnect) = &mut own.reconnect {
            reconnect.connections = share(reconnect.connections, workers, number);
            reconnect.senders = share(reconnect.senders, workers, number);
        }
        if let Some(capacity) = &mut own.capacity {
            capacity.from *= part;
            capacity.most = capacity.most.map(|most| most * part);
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::{super::PRESETS, *};

    #[test]
    fn shares_add_up_to_the_whole() {
        for (name, text) in PRESETS {
            let whole = ScenarioFile::parse(name, text, &[]).expect("valid");
            for workers in 1..=whole.most_workers().min(7) {
                let parts: Vec<_> = (0..workers).map(|number| whole.of_worker(workers, number)).collect();
                let users = |one: &ScenarioFile| one.direct.as_ref().map_or(0, |direct| direct.users);
                assert_eq!(parts.iter().map(users).sum::<usize>(), users(&whole));
                assert!(
                    parts.iter().all(|part| part.direct.is_none() || users(part) >= 2),
                    "everyone writes to someone"
                );
                let groups = |one: &ScenarioFile| one.groups.as_ref().map_or(0, |groups| groups.groups);
                assert_eq!(parts.iter().map(groups).sum::<usize>(), groups(&whole));
                assert!(parts.iter().all(|part| part.groups.as_ref().is_none_or(|groups| groups.check().is_ok())));
                let contacts = |one: &ScenarioFile| one.presence.as_ref().map_or(0, |presence| presence.users);
                assert_eq!(parts.iter().map(contacts).sum::<usize>(), contacts(&whole));
                let changes = |one: &ScenarioFile| one.presence.as_ref().map_or(0.0, |presence| presence.rate);
                assert!((parts.iter().map(changes).sum::<f64>() - changes(&whole)).abs() < 1e-6);
                let writers = |one: &ScenarioFile| one.marks.as_ref().map_or(0, MarksPart::users);
                assert_eq!(parts.iter().map(writers).sum::<usize>(), writers(&whole));
                let written = |one: &ScenarioFile| one.marks.as_ref().map_or(0.0, |marks| marks.rate);
                assert!((parts.iter().map(written).sum::<f64>() - written(&whole)).abs() < 1e-6);
                let patience = whole.time.patience;
                assert!(parts.iter().all(|part| part.presence.as_ref().is_none_or(|own| own.check(patience).is_ok())));
                assert!(parts.iter().all(|part| part.marks.as_ref().is_none_or(|marks| marks.check().is_ok())));
                let rate = |one: &ScenarioFile| one.direct.as_ref().and_then(|direct| direct.rate).unwrap_or(0.0);
                assert!((parts.iter().map(rate).sum::<f64>() - rate(&whole)).abs() < 1e-6);
                let messages = |one: &ScenarioFile| one.offline.as_ref().map_or(0, |offline| offline.messages);
                assert_eq!(parts.iter().map(messages).sum::<u64>(), messages(&whole));
                assert!(((0..workers).map(|number| whole.part_of(workers, number)).sum::<f64>() - 1.0).abs() < 1e-9);
            }
        }
    }
}
