//! The timelines that a session follows: the inbox, and groups. Groups that have something to do are kept apart, so that a device in
//! many groups costs nothing for those in which nothing happens.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use carillon_proto::{
    GroupId, KeyedMap, KeyedSet, Position, TimelineId,
    pb::{client::Start, link::TimelineProgress},
};

use super::{
    positions::GivenPositions,
    quiet::{Quiet, QuietGroups},
};
use crate::feeds::{Beginning, Followed, LiveGroup};

/// Most groups of one session whose backlogs are read at the same time.
const MAX_READS: usize = 4;
/// Most acknowledgements of groups that are sent at once.
const MAX_ACKS: usize = 64;
/// Pause before it is asked again whether the user is in a group.
pub(super) const CHECK_AGAIN: Duration = Duration::from_secs(1);

/// A timeline that the session follows.
pub(super) struct Timeline {
    pub(super) followed: Followed,
    pub(super) ack: Acks,
}

/// The device's acknowledgements, as positions; 0: none. The latest one waits while another is in flight.
#[derive(Default)]
pub(super) struct Acks {
    pub(super) latest: u64,
    pub(super) sent: u64,
    pub(super) done: u64,
    /// A position whose acknowledgement is measured, and when its entry came.
    pub(super) measured: Option<(u64, Instant)>,
}

#[derive(Default)]
pub(super) struct Timelines {
    /// `None` until its delivery begins.
    pub(super) inbox: Option<Timeline>,
    /// `None`, nearly always, while the user is in no group.
    groups: Option<Box<Groups>>,
}

/// Names a timeline of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which<'a> {
    Inbox,
    Group(&'a str),
}

#[derive(Default)]
pub(super) struct Groups {
    quiet: QuietGroups,
    /// All others.
    of: KeyedMap<GroupId, State>,
    /// When groups have something to do.
    due: BTreeSet<(Instant, GroupId)>,
    /// Groups that have to read, and wait until others have.
    waiting: VecDeque<GroupId>,
    /// Pages on their way.
    reads: usize,
    /// Groups with an acknowledgement to send.
    acks: BTreeSet<GroupId>,
    /// The client does not read.
    pub(super) is_paused: bool,
    /// Groups of which it is being asked whether the user is in them. True: something has happened since, so it is asked again.
    pub(super) checks: KeyedMap<GroupId, bool>,
    /// When groups are checked again.
    pub(super) check_again: BTreeSet<(Instant, GroupId)>,
    /// When those are checked of which nobody has told how far they reach.
    pub(super) begin_by: Option<Instant>,
    pub(super) loading: Option<Box<Loading>>,
}

/// The groups of the user are being read.
pub(super) struct Loading {
    pub(super) start: Start,
    /// How far the device has each group, as it says.
    pub(super) positions: GivenPositions,
    /// Groups that were checked since: that is more recent than what is read.
    pub(super) checked: KeyedSet<GroupId>,
    /// The last group that was read; empty: none.
    pub(super) after: String,
    /// Reading begins when the level of the cluster has risen.
    pub(super) waits_for_level: bool,
    /// When a failed read is repeated.
    pub(super) again_at: Option<Instant>,
}

pub(super) enum State {
    /// The head of the group is not known yet. Boxed, to keep the other states small: few groups are in this state for long.
    Beginning(Box<Beginning>),
    Following(Box<FollowedGroup>),
    /// The feed has ended, and it is being asked why. The client has everything up to here.
    Lost(Position),
}

pub(super) struct FollowedGroup {
    pub(super) timeline: Timeline,
    /// The position as in [`Beginning`]. Leaving the group before that position means nothing.
    pub(super) since: u64,
    /// The entry in `Groups::due`.
    scheduled: Option<Instant>,
    /// The group is in `Groups::acks`.
    in_acks: bool,
}

impl Timelines {
    /// `settle` must follow.
    pub(super) fn get_mut(&mut self, which: Which<'_>) -> Option<&mut Timeline> {
        match which {
            Which::Inbox => self.inbox.as_mut(),
            Which::Group(group) => match self.groups.as_mut()?.get_mut(group)? {
                State::Following(followed) => Some(&mut followed.timeline),
                State::Beginning(_) | State::Lost(_) => None,
            },
        }
    }

    /// The client's progress in each timeline.
    pub(super) fn progress(&self) -> impl Iterator<Item = TimelineProgress> {
        let quiet = self.groups.iter().flat_map(|groups| groups.quiet.iter());
        self.not_quiet().map(Timeline::progress).chain(quiet.map(|quiet| Timeline::of(quiet).progress()))
    }

    /// All but those of which the client has everything, and has acknowledged what it wanted to.
    pub(super) fn not_quiet(&self) -> impl Iterator<Item = &Timeline> {
        let groups = self.groups.iter().flat_map(|groups| groups.of.values()).filter_map(|state| match state {
            State::Following(followed) => Some(&followed.timeline),
            State::Beginning(_) | State::Lost(_) => None,
        });
        self.inbox.iter().chain(groups)
    }

    pub(super) fn groups(&self) -> Option<&Groups> {
        self.groups.as_deref()
    }

    pub(super) fn groups_mut(&mut self) -> Option<&mut Groups> {
        self.groups.as_deref_mut()
    }

    pub(super) fn groups_or_new(&mut self) -> &mut Groups {
        let is_paused = self.inbox.as_ref().is_some_and(|inbox| inbox.followed.is_paused());
        self.groups.get_or_insert_with(|| Box::new(Groups { is_paused, ..Groups::default() }))
    }

    /// Keeps nothing of groups if there is none.
    pub(super) fn forget_no_groups(&mut self) {
        self.groups.take_if(|groups| groups.is_unused());
    }

    /// The position from which on entries of the group say whether the user has left.
    pub(super) fn since(&self, group: &str) -> u64 {
        match self.groups.as_ref().and_then(|groups| groups.of.get(group)) {
            Some(State::Following(followed)) => followed.since,
            _ => 0,
        }
    }

    /// When something of a timeline is due, acknowledgements aside.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let inbox = self.inbox.as_ref().and_then(|timeline| timeline.followed.wake_at());
        inbox.into_iter().chain(self.groups.as_ref().and_then(|groups| groups.wake_at())).min()
    }

    pub(super) fn has_inbox_ack(&self) -> bool {
        self.inbox.as_ref().is_some_and(|timeline| timeline.ack.is_due())
    }

    pub(super) fn has_group_acks(&self) -> bool {
        self.groups.as_ref().is_some_and(|groups| !groups.acks.is_empty())
    }

    /// After the timeline has changed.
    pub(super) fn settle(&mut self, which: Which<'_>) {
        if let (Which::Group(group), Some(groups)) = (which, &mut self.groups) {
            groups.settle(group);
        }
    }
}

impl Groups {
    fn is_unused(&self) -> bool {
        let has_none = self.of.is_empty() && self.quiet.is_empty();
        let checks = !self.checks.is_empty() || !self.check_again.is_empty();
        has_none && !checks && self.loading.is_none() && !self.is_paused
    }

    pub(super) fn contains(&self, group: &str) -> bool {
        self.of.contains_key(group) || self.quiet.contains(group)
    }

    /// The group, if it is not followed yet.
    pub(super) fn beginning(&self, group: &str) -> Option<Beginning> {
        match self.of.get(group)? {
            State::Beginning(beginning) => Some(**beginning),
            State::Following(_) | State::Lost(_) => None,
        }
    }

    /// `settle` must follow.
    pub(super) fn get_mut(&mut self, group: &str) -> Option<&mut State> {
        self.wake(group);
        self.of.get_mut(group)
    }

    /// Groups, unknown here, of which the client has everything, and whose feeds deliver what comes.
    pub(super) fn are_live(&mut self, groups: Vec<LiveGroup>) {
        self.quiet.extend(groups);
    }

    /// Replaces what was known of the group.
    pub(super) fn set(&mut self, group: GroupId, state: State) {
        self.remove(group.as_str());
        self.of.insert(group, state);
    }

    pub(super) fn follow(&mut self, group: GroupId, since: u64, followed: Followed) {
        let timeline = Timeline { followed, ack: Acks::default() };
        self.set(group, State::Following(Box::new(FollowedGroup::new(timeline, since))));
    }

    /// True if a group that is followed from now on takes its first step at once; otherwise it is scheduled.
    pub(super) fn begins_now(&mut self, group: &str) -> bool {
        let lacks = match self.of.get(group) {
            Some(State::Following(followed)) => followed.timeline.followed.lacks(),
            _ => return false,
        };
        let now = !(self.is_paused || lacks && self.reads >= MAX_READS);
        if !now {
            self.settle(group);
        }
        now
    }

    pub(super) fn remove(&mut self, group: &str) -> Option<(GroupId, State)> {
        self.wake(group);
        self.quiet.forget(group);
        let (group, state) = self.of.remove_entry(group)?;
        if let State::Following(followed) = &state
            && let Some(at) = followed.scheduled
        {
            self.due.remove(&(at, group.clone()));
        }
        self.acks.remove(&group);
        Some((group, state))
    }

    /// Keeps in mind when the group has something to do, whether it has something to acknowledge, and whether it is quiet.
    pub(super) fn settle(&mut self, group: &str) {
        let Some(State::Following(followed)) = self.of.get_mut(group) else { return };
        if followed.is_quiet() {
            return self.sleep(group);
        }
        let (at, has_ack) = (followed.timeline.followed.wake_at(), followed.timeline.ack.is_due());
        // Nearly always.
        if (at, has_ack) == (followed.scheduled, followed.in_acks) {
            return;
        }
        let before = std::mem::replace(&mut followed.scheduled, at);
        let had_ack = std::mem::replace(&mut followed.in_acks, has_ack);
        let Some(group) = self.of.get_key_value(group).map(|(name, _)| name.clone()) else { return };
        if at != before {
            if let Some(before) = before {
                self.due.remove(&(before, group.clone()));
            }
            self.due.extend(at.map(|at| (at, group.clone())));
        }
        match has_ack {
            true if !had_ack => _ = self.acks.insert(group),
            false if had_ack => _ = self.acks.remove(&group),
            _ => {}
        }
    }

    /// The group may be about to have something to do.
    fn wake(&mut self, group: &str) {
        if let Some(quiet) = self.quiet.wake(group)
            && let TimelineId::Group(group) = &quiet.timeline.id
        {
            let group = group.clone();
            // All that comes is after the position of the membership.
            let followed = FollowedGroup::new(Timeline::of(quiet), 0);
            self.of.insert(group, State::Following(Box::new(followed)));
        }
    }

    /// The group is quiet.
    fn sleep(&mut self, group: &str) {
        if let Some((group, State::Following(followed))) = self.of.remove_entry(group) {
            let FollowedGroup { timeline: Timeline { followed, ack }, scheduled, in_acks, .. } = *followed;
            if let Some(at) = scheduled {
                self.due.remove(&(at, group.clone()));
            }
            if in_acks {
                self.acks.remove(&group);
            }
            let given = followed.given();
            self.quiet.put(Quiet { timeline: followed.timeline, given, acknowledged: ack.done });
        }
        // Many groups begin at once.
        if self.of.is_empty() {
            self.of = KeyedMap::default();
        } else if self.of.capacity() > 16 * self.of.len() {
            self.of.shrink_to(2 * self.of.len());
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let due = self.due.first().map(|(at, _)| *at).filter(|_| !self.is_paused);
        let check = self.check_again.first().map(|(at, _)| *at);
        let load = self.loading.as_ref().and_then(|loading| loading.again_at);
        [due, check, self.begin_by, load].into_iter().flatten().min()
    }

    /// The next group that has something to do now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<GroupId> {
        while !self.is_paused && self.due.first().is_some_and(|(at, _)| *at <= now) {
            let (_, group) = self.due.pop_first()?;
            let Some(State::Following(followed)) = self.of.get_mut(group.as_str()) else { continue };
            followed.scheduled = None;
            if self.reads >= MAX_READS && followed.timeline.followed.lacks() {
                self.waiting.push_back(group);
                continue;
            }
            return Some(group);
        }
        None
    }

    pub(super) fn begins_read(&mut self) {
        self.reads += 1;
    }

    /// A page has come, or has failed to.
    pub(super) fn has_read(&mut self) {
        self.reads = self.reads.saturating_sub(1);
        // Groups that are no longer followed wait for nothing.
        while let Some(group) = self.waiting.pop_front() {
            if self.of.contains_key(group.as_str()) {
                return self.settle(group.as_str());
            }
        }
    }

    /// Groups whose acknowledgements are to be sent now.
    pub(super) fn take_acks(&mut self) -> Vec<GroupId> {
        let due: Vec<GroupId> = self.acks.iter().take(MAX_ACKS).cloned().collect();
        for group in &due {
            self.acks.remove(group);
            if let Some(State::Following(followed)) = self.of.get_mut(group.as_str()) {
                followed.in_acks = false;
            }
        }
        due
    }

    /// Groups that are checked now.
    pub(super) fn take_checks(&mut self, now: Instant) -> Vec<GroupId> {
        let mut due = Vec::new();
        while self.check_again.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.check_again.pop_first().map(|(_, group)| group));
        }
        if self.begin_by.take_if(|at| *at <= now).is_some() {
            let begins =
                |(group, state): (&GroupId, &State)| matches!(state, State::Beginning(_)).then(|| group.clone());
            due.extend(self.of.iter().filter_map(begins));
        }
        due
    }
}

impl Timeline {
    fn of(Quiet { timeline, given, acknowledged }: Quiet) -> Self {
        let ack = Acks { done: acknowledged, ..Acks::default() };
        Self { followed: Followed::live(timeline, given), ack }
    }

    fn progress(&self) -> TimelineProgress {
        let Self { followed, ack } = self;
        TimelineProgress {
            timeline: Some(followed.timeline.id.to_client()),
            epoch: followed.epoch().0,
            pushed: followed.given(),
            head: followed.head(),
            acknowledged: ack.newest(),
        }
    }
}

impl FollowedGroup {
    fn new(timeline: Timeline, since: u64) -> Self {
        Self { timeline, since, scheduled: None, in_acks: false }
    }

    fn is_quiet(&self) -> bool {
        let Timeline { followed, ack } = &self.timeline;
        followed.is_quiet() && ack.is_done() && self.since <= followed.given()
    }
}

impl Acks {
    /// True if nothing is to be sent or answered.
    fn is_done(&self) -> bool {
        self.latest == 0 && self.sent == 0 && self.measured.is_none()
    }

    pub(super) fn newest(&self) -> u64 {
        self.latest.max(self.sent).max(self.done)
    }

    pub(super) fn is_due(&self) -> bool {
        self.latest != 0 && self.sent == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory of a connection for each of its groups, beside its place in the feed. docs/speed.md has the memory of a whole
    /// connection.
    #[test]
    fn a_group_that_is_followed_is_small() {
        let (of_all, of_one) = (size_of::<(GroupId, State)>(), size_of::<FollowedGroup>());
        assert!(of_all <= 40 && of_one <= 192, "{of_all} and {of_one} bytes");
    }
}
