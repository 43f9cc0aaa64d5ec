//! Steps on a timeline.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    Change, Fault, ParseError, Step,
    fault::{Needs, parse_length},
};

/// The steps of a run with their times, counted from the end of the warm-up. Written as one step a line; `#` begins a
/// comment:
///
/// ```text
/// 0s kill storage-leader for 3s
/// 1s partition router for 10s
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub steps: Vec<(Duration, Step)>,
    /// The first step is a change. The times of the others count from when the first replica moves, and a run in which the
    /// change was over before that says nothing.
    pub midway: bool,
}

/// The beginning or end of a step, by the step's index in the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    Begin(usize),
    End(usize),
}

impl Schedule {
    pub fn of(step: Step) -> Self {
        Self { steps: vec![(Duration::ZERO, step)], midway: false }
    }

    /// Reads one step, `add new with kill controller for 3s`, or `kill gateway for 3s and kill router for 5s`.
    pub fn of_line(text: &str) -> Result<Self, ParseError> {
        if text.contains(" and ") {
            let steps = text.split(" and ").map(|step| Ok((Duration::ZERO, step.parse::<Step>()?)));
            let schedule = Self { steps: steps.collect::<Result<_, _>>()?, midway: false };
            let lasts = |step: &Step| step.fault != Fault::Roll && step.fault.change().is_none();
            return if schedule.steps.iter().all(|(_, step)| lasts(step)) {
                Ok(schedule)
            } else {
                Err(ParseError::And(text.to_owned()))
            };
        }
        let Some((change, fault)) = text.split_once(" with ") else { return text.parse().map(Self::of) };
        let (change, fault): (Step, Step) = (change.parse()?, fault.parse()?);
        if change.fault.change().is_none() || fault.fault.change().is_some() {
            return Err(ParseError::With(text.to_owned()));
        }
        Ok(Self { steps: vec![(Duration::ZERO, change), (Duration::ZERO, fault)], midway: true })
    }

    /// The first change in it.
    pub(crate) fn change(&self) -> Option<Change> {
        self.steps.iter().find_map(|(_, step)| step.fault.change())
    }

    /// All beginnings and ends in the order of their times; at the same time, in the order of the steps. Changes end last: they are
    /// waited for when everything else is healed.
    pub fn edges(&self) -> Vec<(Duration, Edge)> {
        let both = |(at, (begin, step)): (usize, &(Duration, Step))| {
            [(*begin, Edge::Begin(at)), (*begin + step.length, Edge::End(at))]
        };
        let mut edges: Vec<_> = self.steps.iter().enumerate().flat_map(both).collect();
        edges.sort_by_key(|(when, _)| *when);
        let is_end_of_change =
            |(_, edge): &(Duration, Edge)| matches!(edge, Edge::End(at) if self.steps[*at].1.fault.change().is_some());
        edges.sort_by_key(is_end_of_change);
        let healed = edges.iter().map(|(when, _)| *when).max().unwrap_or_default();
        edges.iter_mut().filter(|edge| is_end_of_change(edge)).for_each(|(when, _)| *when = healed);
        edges
    }

    pub(crate) fn needs_snapshots(&self) -> bool {
        self.steps.iter().any(|(_, step)| step.fault.needs_snapshots())
    }

    pub(crate) fn needs(&self, what: Needs) -> bool {
        self.steps.iter().any(|(_, step)| step.fault.needs() == what)
    }
}

impl FromStr for Schedule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut steps = Vec::new();
        for (line, words) in (1..).zip(text.lines()) {
            let words = words.split('#').next().unwrap_or_default().trim();
            if words.is_empty() {
                continue;
            }
            let at_line = |error| ParseError::Line { line, error: Box::new(error) };
            let (when, step) =
                words.split_once(char::is_whitespace).ok_or_else(|| at_line(ParseError::Form(words.to_owned())))?;
            steps.push((parse_length(when).map_err(at_line)?, step.parse().map_err(at_line)?));
        }
        Ok(Self { steps, midway: false })
    }
}

impl fmt::Display for Schedule {
    /// As [`Schedule::of_line`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (_, step)) in self.steps.iter().enumerate() {
            let joined = if self.midway { " with " } else { " and " };
            write!(f, "{}{step}", if number == 0 { "" } else { joined })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_may_overlap() {
        let schedule: Schedule =
            "# two at once\n0s kill storage-leader for 3s\n\n1s pause router for 1s # short\n2s restart gateway"
                .parse()
                .expect("valid");
        let seconds: Vec<_> = schedule.edges().iter().map(|(when, edge)| (when.as_secs(), *edge)).collect();
        let expected = [
            (0, Edge::Begin(0)),
            (1, Edge::Begin(1)),
            (2, Edge::End(1)),
            (2, Edge::Begin(2)),
            (2, Edge::End(2)),
            (3, Edge::End(0)),
        ];
        assert_eq!(seconds, expected);
    }

    #[test]
    fn a_fault_in_the_middle_of_a_change_ends_before_the_change_is_waited_for() {
        let text = "add new with kill controller for 3s";
        let schedule = Schedule::of_line(text).expect("valid");
        assert_eq!((schedule.to_string().as_str(), schedule.midway), (text, true));
        let seconds: Vec<_> = schedule.edges().iter().map(|(when, edge)| (when.as_secs(), *edge)).collect();
        assert_eq!(seconds, [(0, Edge::Begin(0)), (0, Edge::Begin(1)), (3, Edge::End(1)), (3, Edge::End(0))]);
        for wrong in ["kill router with kill gateway", "add new with move storage-leader"] {
            assert!(matches!(Schedule::of_line(wrong), Err(ParseError::With(_))), "{wrong}");
        }
        assert!(Schedule::of_line("kill router for 3s").is_ok_and(|schedule| !schedule.midway));
    }

    #[test]
    fn faults_at_once_are_faults_that_last() {
        let text = "kill gateway for 3s and kill router for 5s";
        let schedule = Schedule::of_line(text).expect("valid");
        assert_eq!((schedule.to_string().as_str(), schedule.midway), (text, false));
        let seconds: Vec<_> = schedule.edges().iter().map(|(when, edge)| (when.as_secs(), *edge)).collect();
        assert_eq!(seconds, [(0, Edge::Begin(0)), (0, Edge::Begin(1)), (3, Edge::End(0)), (5, Edge::End(1))]);
        for wrong in ["kill router and add new", "roll gateways and kill router for 3s"] {
            assert!(matches!(Schedule::of_line(wrong), Err(ParseError::And(_))), "{wrong}");
        }
        assert!(Schedule::of_line("kill router for 3s and hug gateway").is_err());
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let error = "0s kill router\nsoon kill router".parse::<Schedule>().expect_err("wrong");
        assert_eq!(error.to_string(), "line 2: \"soon\" is no length of time: 500ms, 3s or 2m");
    }
}
