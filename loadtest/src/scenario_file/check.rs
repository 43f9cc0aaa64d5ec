//! What can be said of a scenario before anything is connected: values that make no sense, and values that contradict each other.

use carillon_client::Address;

use super::{CapacityPart, ChaosPart, DirectPart, Rounds, ScenarioFile};
use crate::faults::{Change, Schedule};

/// The most of anything: beyond it, a number is a slip.
const MOST: usize = 10_000_000;

pub(super) fn ensure(so: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if so { Ok(()) } else { Err(wrong()) }
}

/// A key and its value, which must be a number above zero.
pub(super) fn above_zero(key: &str, value: f64) -> Result<(), String> {
    ensure(value.is_finite() && value > 0.0, || format!("{key} is {value}, and must be above 0"))
}

pub(super) fn within(key: &str, value: usize, least: usize) -> Result<(), String> {
    ensure((least..=MOST).contains(&value), || format!("{key} is {value}, and must be from {least} to {MOST}"))
}

impl ScenarioFile {
    pub(super) fn check(&self) -> Result<(), String> {
        ensure(!self.name.is_empty(), || "name is empty".to_owned())?;
        let target = &self.target;
        ensure(!target.addresses.is_empty(), || "target.addresses is empty".to_owned())?;
        for address in &target.addresses {
            address.parse::<Address>().map_err(|error| format!("target.addresses: {error}"))?;
        }
        above_zero("target.sends_per_user", target.sends_per_user)?;
        self.sign_in.check()?;
        let others = self.idle.is_some() || self.offline.is_some() || self.reconnect.is_some();
        let any = self.has_messages() || self.presence.is_some() || others;
        ensure(any, || {
            "it has no load: [direct], [groups], [presence], [marks], [idle], [offline] or [reconnect]".to_owned()
        })?;
        if let Some(direct) = &self.direct {
            self.check_direct(direct)?;
        }
        if let Some(groups) = &self.groups {
            groups.check()?;
            if let Some(rate) = groups.rate {
                above_zero("groups.rate", rate)?;
                self.check_rate("groups", rate, groups.senders(), "senders")?;
            }
        }
        if let Some(presence) = &self.presence {
            presence.check(self.time.patience)?;
        }
        if let Some(marks) = &self.marks {
            marks.check()?;
            self.check_rate("marks", marks.rate, marks.users(), "users")?;
        }
        if let Some(idle) = &self.idle {
            within("idle.connections", idle.connections, 1)?;
            within("idle.concurrency", idle.concurrency, 1)?;
        }
        if let Some(offline) = &self.offline {
            within("offline.absent", offline.absent, 1)?;
            within("offline.senders", offline.senders, 1)?;
            within("offline.window", offline.window, 1)?;
            within("offline.bytes", offline.bytes, 0)?;
            ensure(offline.messages > 0, || "offline.messages is 0".to_owned())?;
            self.check_rounds("offline", offline.rounds())?;
            if let Some(rate) = offline.rate {
                above_zero("offline.rate", rate)?;
                self.check_rate("offline", rate, offline.senders, "senders")?;
            }
        }
        if let Some(reconnect) = &self.reconnect {
            within("reconnect.connections", reconnect.connections, 1)?;
            within("reconnect.senders", reconnect.senders, 1)?;
            within("reconnect.bytes", reconnect.bytes, 0)?;
            self.check_rounds("reconnect", reconnect.rounds())?;
        }
        self.check_level()?;
        if let Some(capacity) = &self.capacity {
            self.check_capacity(capacity)?;
        } else {
            ensure(!self.time.measured.is_zero(), || "time.measured is 0".to_owned())?;
        }
        self.chaos.as_ref().map_or(Ok(()), |chaos| self.check_chaos(chaos))
    }

    /// Users write to each other all the time.
    pub(crate) fn has_messages(&self) -> bool {
        self.direct.is_some() || self.groups.is_some() || self.marks.is_some()
    }

    fn check_direct(&self, direct: &DirectPart) -> Result<(), String> {
        within("direct.users", direct.users, 2)?;
        within("direct.devices", direct.devices, 1)?;
        within("direct.window", direct.window, 1)?;
        within("direct.bytes", direct.bytes, 0)?;
        let DirectPart { users, slow_readers, .. } = direct;
        ensure(slow_readers <= users, || {
            format!("direct.slow_readers is {slow_readers}, and there are {users} direct.users")
        })?;
        ensure(direct.rate.is_none() || direct.ramp.is_none(), || {
            "direct has a rate and a ramp: one of them is enough".to_owned()
        })?;
        if let Some(rate) = direct.rate {
            above_zero("direct.rate", rate)?;
            self.check_rate("direct", rate, *users, "users")?;
        }
        if let Some(ramp) = direct.ramp {
            ensure(ramp.from.is_finite() && ramp.from >= 0.0, || {
                format!("direct.ramp.from is {}, and must not be below 0", ramp.from)
            })?;
            above_zero("direct.ramp.to", ramp.to)?;
            self.check_rate("direct", ramp.from.max(ramp.to), *users, "users")?;
        }
        Ok(())
    }

    /// Gateways would refuse some of it, and clients repeat that: the times would be those of the limit.
    fn check_rate(&self, part: &str, rate: f64, users: usize, who: &str) -> Result<(), String> {
        let each = self.target.sends_per_user;
        ensure(rate <= users as f64 * each * (1.0 + 1e-9), || {
            format!(
                "{rate} messages a second of {users} {part}.{who} are more than gateways let them send: {each} a second \
                 for each. More {part}.{who}, or a higher gateway.sends_per_second there and target.sends_per_user here"
            )
        })
    }

    fn check_rounds(&self, part: &str, rounds: Rounds) -> Result<(), String> {
        ensure(rounds.every.is_none_or(|every| !every.is_zero()), || format!("{part}.every is 0"))?;
        let measured = self.time.measured;
        ensure(rounds.after < measured, || {
            format!("{part}.after is {}, and the measured time ends after {measured}", rounds.after)
        })
    }

    fn check_level(&self) -> Result<(), String> {
        let level = &self.level;
        ensure(level.lost.unwrap_or(0) == 0, || {
            "level.lost is not 0: a run in which something is lost is never passed".to_owned()
        })?;
        let limits = [
            ("level.acceptance_p99_ms", level.acceptance_p99_ms),
            ("level.delivery_p99_ms", level.delivery_p99_ms),
            ("level.rate", level.rate),
            ("level.server_cpu_us", level.server_cpu_us),
        ];
        limits.into_iter().try_for_each(|(key, value)| value.map_or(Ok(()), |value| above_zero(key, value)))?;
        let servers = !(self.target.server_pids.is_empty() && self.target.admin.is_empty());
        ensure(level.server_cpu_us.is_none() || servers, || {
            "level.server_cpu_us needs target.server_pids or target.admin".to_owned()
        })?;
        let delivered = self.has_messages() || self.presence.is_some();
        ensure(level.acceptance_p99_ms.is_none() || delivered || self.offline.is_some(), || {
            "level.acceptance_p99_ms needs [direct], [groups], [presence], [marks] or [offline]".to_owned()
        })?;
        ensure(level.delivery_p99_ms.is_none() || delivered, || {
            "level.delivery_p99_ms needs [direct], [groups], [presence] or [marks]".to_owned()
        })?;
        let rate = self.direct.as_ref().filter(|_| self.capacity.is_none()).and_then(|direct| direct.rate);
        match (level.rate, rate) {
            (Some(least), Some(rate)) => {
                ensure(least <= rate, || format!("level.rate is {least}, and direct.rate only {rate}"))
            }
            _ => Ok(()),
        }
    }

    fn check_capacity(&self, capacity: &CapacityPart) -> Result<(), String> {
        let others = [
            self.groups.is_some(),
            self.presence.is_some(),
            self.marks.is_some(),
            self.idle.is_some(),
            self.offline.is_some(),
            self.reconnect.is_some(),
        ]
        .contains(&true);
        let alone = !others && self.chaos.is_none();
        let direct = self.direct.as_ref().filter(|_| alone);
        let direct = direct.ok_or("[capacity] needs [direct], and nothing beside it")?;
        ensure(direct.rate.is_none() && direct.ramp.is_none(), || {
            "[capacity] looks for the rate: direct.rate and direct.ramp must not be given".to_owned()
        })?;
        ensure(direct.slow_readers == 0, || "[capacity] goes without direct.slow_readers".to_owned())?;
        ensure(self.level.acceptance_p99_ms.is_some(), || "[capacity] needs level.acceptance_p99_ms".to_owned())?;
        ensure(self.level.not_accepted.unwrap_or(0) == 0, || {
            "level.not_accepted is not 0: a rate at which something is refused is not held".to_owned()
        })?;
        above_zero("capacity.from", capacity.from)?;
        let most = self.most(direct, capacity);
        above_zero("capacity.most", most)?;
        ensure(capacity.from <= most, || {
            format!("capacity.from is {}, and {most} is the most that is tried", capacity.from)
        })?;
        if let Some(most) = capacity.most {
            self.check_rate("direct", most, direct.users, "users")?;
        }
        ensure((0.005..=1.0).contains(&capacity.precision), || {
            format!("capacity.precision is {}, and must be from 0.005 to 1", capacity.precision)
        })?;
        ensure(capacity.from >= capacity.least(), || {
            format!(
                "capacity.window of {} has fewer than 100 messages at capacity.from, and no 99th percentile",
                capacity.window
            )
        })
    }

    /// The highest rate that a search tries.
    pub(super) fn most(&self, direct: &DirectPart, capacity: &CapacityPart) -> f64 {
        capacity.most.unwrap_or(direct.users as f64 * self.target.sends_per_user)
    }

    fn check_chaos(&self, chaos: &ChaosPart) -> Result<(), String> {
        let goes_on = self.has_messages() || self.presence.is_some();
        ensure(goes_on, || "[chaos] needs [direct], [groups], [presence] or [marks]".to_owned())?;
        ensure(!chaos.faults.is_empty(), || "chaos.faults is empty".to_owned())?;
        let (mut added, mut removed) = (0, 0);
        for fault in &chaos.faults {
            let schedule = Schedule::of_line(fault).map_err(|error| format!("chaos.faults: {error}"))?;
            added += usize::from(schedule.change() == Some(Change::Add));
            removed += usize::from(schedule.change() == Some(Change::Remove));
        }
        ensure(removed <= added, || {
            format!("chaos.faults removes {removed} storage nodes and adds {added}: each round would leave fewer")
        })
    }
}
