//! The steps of the rows that have begun, and the ends of their groups.

use std::collections::VecDeque;

use carillon_proto::{
    limits,
    pb::store::{
        EndTimeline, Person, ReadMembers, Role, TimelineCommand, member::Standing, store_request::Op, timeline_command,
    },
};
use tokio::time::Instant;

use super::{
    outbox::{Asked, Effect, Lane, OutboxWorker},
    rows::{Ends, Next, in_lane, tells},
    steps::{Appending, Outcome, Step, came_to, is_temporary},
};
use crate::{
    delivery::Delivery,
    store::{StoreAnswer, StoreFailure},
};

/// Commands that are under way at once.
const AT_ONCE: usize = 64;
/// Rows of members of one read.
const MEMBERS: u32 = limits::HEADS as u32;

/// A lane with a step under way.
pub(super) struct Running {
    step: Step,
    /// The envelope with the time at which the step was sent.
    appending: Appending,
    /// The steps behind it.
    rest: VecDeque<Step>,
}

impl OutboxWorker {
    pub(super) fn queue(&mut self, lane: Lane, step: Step) {
        if self.pass.blocked.contains(&lane.0) {
            self.pass.begun[step.row].waits = true;
            return;
        }
        self.pass.lanes.entry(lane).or_default().push_back(step);
    }

    /// Has the next steps carried out; without any, does what comes after them.
    pub(super) fn go_on_with_run(&mut self, now: Instant, time_ms: u64) {
        while self.pass.running.len() < self.pass.at_once.unwrap_or(AT_ONCE)
            && let Some((lane, mut steps)) = self.pass.lanes.pop_first()
        {
            let Some(step) = steps.pop_front() else { continue };
            let (shard, op, appending) = step.command(self.shards, time_ms);
            self.effects.push(Effect::Ask(Asked::Step(lane.clone()), shard, op));
            self.pass.running.insert(lane, Running { step, appending, rest: steps });
        }
        if self.pass.running.is_empty() {
            self.after_steps(now, time_ms);
        }
    }

    pub(super) fn step_answered(
        &mut self,
        lane: Lane,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
        time_ms: u64,
    ) {
        let Some(Running { step, appending, mut rest }) = self.pass.running.remove(&lane) else { return };
        let is_overload = matches!(answer, Err(StoreFailure::Overloaded { .. }));
        match came_to(&step, &appending, answer) {
            // The step comes after those that are under way, and no more than these go at once from here on.
            Outcome::Waits if is_overload && !self.pass.running.is_empty() => {
                self.pass.at_once = Some(self.pass.running.len());
                rest.push_front(step);
            }
            Outcome::Done => {}
            Outcome::Appended(envelopes) => {
                let deliver = |(position, envelope)| {
                    Effect::Deliver(Delivery {
                        timeline: appending.timeline.clone(),
                        incarnation: appending.incarnation,
                        position,
                        envelope,
                        traceparent: String::new(),
                        except: None,
                        passed_on: false,
                    })
                };
                self.effects.extend(envelopes.into_iter().map(deliver));
            }
            Outcome::Instead(what) => rest.push_front(Step { what, ..step }),
            Outcome::Refused(why) => {
                self.pass.begun[step.row].refused = Some(why);
                self.block(&lane, &mut rest);
            }
            Outcome::Waits => {
                self.pass.begun[step.row].waits = true;
                self.block(&lane, &mut rest);
            }
        }
        if !rest.is_empty() {
            self.pass.lanes.insert(lane, rest);
        }
        self.go_on_with_run(now, time_ms);
    }

    /// Later steps for the user of this lane wait.
    fn block(&mut self, lane: &Lane, rest: &mut VecDeque<Step>) {
        rest.drain(..).for_each(|step| self.pass.begun[step.row].waits = true);
        self.pass.blocked.insert(lane.0.clone());
    }

    /// All steps that were planned are done, or were given up for now.
    fn after_steps(&mut self, now: Instant, time_ms: u64) {
        if let Some(begun) = self.pass.begun.last()
            && !begun.waits
            && begun.refused.is_none()
            && let Some(ends) = &begun.ends
        {
            let (group, incarnation) = (ends.tell.group.clone(), ends.tell.incarnation);
            match ends.next {
                Next::ReadMembers => {
                    let read = ReadMembers {
                        timeline: group,
                        others: true,
                        after_user: ends.after_user.clone(),
                        limit: MEMBERS,
                        deleted: Some(incarnation),
                        ..ReadMembers::default()
                    };
                    return self.ask(Asked::Members, Op::ReadMembers(read));
                }
                Next::EndTimeline => {
                    let end = EndTimeline { timeline: group, incarnation: incarnation + 1 };
                    let op = timeline_command::Op::EndTimeline(end);
                    return self.ask(Asked::Ending, Op::Timeline(TimelineCommand { op: Some(op) }));
                }
                Next::Nothing => {}
            }
        }
        self.settle(now, time_ms);
    }

    pub(super) fn members_read(&mut self, answer: Result<StoreAnswer, StoreFailure>, now: Instant, time_ms: u64) {
        match answer {
            Ok(StoreAnswer::MembersRead(read)) => {
                let at = self.pass.begun.len() - 1;
                let Some(ends) = &mut self.pass.begun[at].ends else { return };
                match read.members.last() {
                    Some(last) if !read.complete => ends.after_user.clone_from(&last.user),
                    _ => ends.next = Next::EndTimeline,
                }
                let steps: Result<Vec<_>, String> = read
                    .members
                    .iter()
                    .filter_map(|row| row.member.as_ref().map(|member| (&row.user, member)))
                    .filter(|(_, member)| matches!(member.standing(), Standing::Member | Standing::Invited))
                    .filter(|(_, member)| !member.untold)
                    .map(|(user, member)| {
                        let person = Person { user: user.clone(), incarnation: member.incarnation };
                        let what = tells(&ends.tell, ends.time_ms, &ends.envelope, Standing::Left, Role::Unspecified);
                        in_lane(at, Some(&person), &ends.group, what)
                    })
                    .collect();
                match steps {
                    Ok(steps) => steps.into_iter().for_each(|(lane, step)| self.queue(lane, step)),
                    Err(why) => self.pass.begun[at].refused = Some(why),
                }
            }
            // Another worker has ended it.
            Err(StoreFailure::NotFound { .. }) => self.ends(|ends| ends.next = Next::Nothing),
            other => self.ending_failed(other),
        }
        self.go_on_with_run(now, time_ms);
    }

    pub(super) fn ends(&mut self, change: impl FnOnce(&mut Ends)) {
        if let Some(ends) = self.pass.begun.last_mut().and_then(|begun| begun.ends.as_mut()) {
            change(ends);
        }
    }

    pub(super) fn ending_failed(&mut self, answer: Result<StoreAnswer, StoreFailure>) {
        let Some(begun) = self.pass.begun.last_mut() else { return };
        let failure = answer.err().unwrap_or(StoreFailure::Unexpected);
        if is_temporary(&failure) {
            begun.waits = true;
        } else {
            begun.refused = Some(failure.to_string());
        }
    }
}
