//! The parts of a scenario file, carried out beside each other.

use std::{sync::Arc, time::Duration};

use futures_util::future::{FutureExt as _, LocalBoxFuture, try_join_all};

use super::{Ending, Environment, Found, Gate, RunError, direct, groups, herd, idle, marks, offline, presence};
use crate::{
    measure::window::Reading,
    report::{
        Integrity,
        figure::{Better, Figure, message_figures},
        recorder::Recorder,
        times::Times,
    },
    scenario_file::{Rounds, ScenarioFile},
};

/// A part of the run and what it has found.
struct Part {
    name: &'static str,
    found: Found,
}

/// Signs in, waits at the environment's gate, and carries out all parts until the time is over or the run is ended.
pub(crate) async fn run(environment: &Environment, scenario: &ScenarioFile) -> Result<Found, RunError> {
    let whole = Whole { environment, scenario, ending: &environment.ending, inner: Gate::closed() };
    let mut all: Vec<LocalBoxFuture<'_, Result<Vec<Part>, RunError>>> = Vec::new();
    if scenario.direct.is_some() {
        all.push(whole.direct().boxed_local());
    }
    if scenario.groups.is_some() {
        all.push(whole.groups().boxed_local());
    }
    if scenario.presence.is_some() {
        all.push(whole.presence().boxed_local());
    }
    if scenario.marks.is_some() {
        all.push(whole.marks().boxed_local());
    }
    if scenario.idle.is_some() {
        all.push(whole.idle().boxed_local());
    }
    if scenario.offline.is_some() {
        all.push(whole.offline().boxed_local());
    }
    if scenario.reconnect.is_some() {
        all.push(whole.reconnect().boxed_local());
    }
    let parts = all.len();
    // A part that fails ends the others, and the wait for those that have not arrived.
    let (found, window) = tokio::try_join!(try_join_all(all), whole.measure(parts).map(Ok))?;
    let mut parts: Vec<Part> = found.into_iter().flatten().collect();
    if parts.len() == 1 {
        return Ok(parts.remove(0).found);
    }
    let mut figures = message_figures(&window);
    if !scenario.has_messages() && scenario.offline.is_none() {
        figures.clear();
    }
    Ok(join(parts, Found { integrity: Integrity::default(), times: Vec::new(), figures, window, invalid: None }))
}

struct Whole<'a> {
    environment: &'a Environment,
    scenario: &'a ScenarioFile,
    ending: &'a Ending,
    /// Of the parts, which the environment's gate lets pass together.
    inner: Gate,
}

impl Whole<'_> {
    /// Lets the parts pass when all have arrived and the environment's gate is open, and measures what they do together.
    async fn measure(&self, parts: usize) -> crate::measure::window::Window {
        let Environment { recorder, servers, gate, .. } = self.environment;
        // Sign-ins, groups and contacts.
        recorder.set_phase("getting ready");
        self.inner.arrived(parts).await;
        gate.pass().await;
        self.inner.let_pass();
        let time = &self.scenario.time;
        recorder.set_phase("warming up");
        recorder.phase_lasts(time.warm_up.0);
        self.ending.within(time.warm_up.0).await;
        recorder.measure_from_now();
        recorder.set_phase("measuring");
        recorder.phase_lasts(time.measured.0);
        let before = Reading::now(recorder, servers).await;
        self.ending.within(time.measured.0).await;
        let window = before.until(&Reading::now(recorder, servers).await);
        recorder.set_phase("ending");
        window
    }

    /// The environment of a part: a recorder of its own, and other users than those of other parts.
    fn part(&self, name: &str, mark: &str) -> Environment {
        let environment = self.environment.clone();
        Environment {
            run: format!("{}-{name}", environment.run),
            recorder: Arc::new(Recorder::part_of(&environment.recorder, mark)),
            gate: self.inner.clone(),
            ..environment
        }
    }

    async fn direct(&self) -> Result<Vec<Part>, RunError> {
        let Some(part) = &self.scenario.direct else { return Ok(Vec::new()) };
        let environment = self.part("direct", "");
        let time = &self.scenario.time;
        let config = self.scenario.direct_config(part, &environment);
        let measured = async { _ = self.ending.within(time.measured.0).await };
        let times = (time.warm_up.0, time.patience.0);
        let found = direct::run_at(&environment, config, self.scenario.pace(part), times, measured).await?;
        Ok(vec![Part { name: "", found }])
    }

    async fn groups(&self) -> Result<Vec<Part>, RunError> {
        let Some(config) = self.scenario.groups_config() else { return Ok(Vec::new()) };
        let environment = self.part("groups", "groups");
        let time = &self.scenario.time;
        let measured = async { _ = self.ending.within(time.measured.0).await };
        let found = groups::run_at(&environment, config, (time.warm_up.0, time.patience.0), measured).await?;
        Ok(vec![Part { name: "groups", found }])
    }

    async fn presence(&self) -> Result<Vec<Part>, RunError> {
        let Some(config) = self.scenario.presence_config() else { return Ok(Vec::new()) };
        let mut environment = self.part("presence", "presence");
        if self.scenario.has_messages() || self.scenario.offline.is_some() || self.scenario.reconnect.is_some() {
            // Changes are no messages.
            environment.recorder = Arc::new(Recorder::beside(&self.environment.recorder, "presence"));
        }
        let time = &self.scenario.time;
        let measured = async { _ = self.ending.within(time.measured.0).await };
        let found = presence::run_at(&environment, config, (time.warm_up.0, time.patience.0), measured).await?;
        Ok(vec![Part { name: "presence", found }])
    }

    async fn marks(&self) -> Result<Vec<Part>, RunError> {
        let Some(config) = self.scenario.marks_config() else { return Ok(Vec::new()) };
        let environment = self.part("marks", "marks");
        let time = &self.scenario.time;
        let measured = async { _ = self.ending.within(time.measured.0).await };
        let found = marks::run_at(&environment, config, (time.warm_up.0, time.patience.0), measured).await?;
        Ok(vec![Part { name: "marks", found }])
    }

    async fn idle(&self) -> Result<Vec<Part>, RunError> {
        let Some(config) = self.scenario.idle_config() else { return Ok(Vec::new()) };
        let environment = self.part("idle", "idle");
        let held = async {
            environment.gate.pass().await;
            self.ending.within(self.scenario.whole()).await;
        };
        let found = idle::run(&environment, config, Duration::ZERO, held).await?;
        Ok(vec![Part { name: "idle", found }])
    }

    async fn offline(&self) -> Result<Vec<Part>, RunError> {
        let (Some(part), Some(config)) = (&self.scenario.offline, self.scenario.offline_config()) else {
            return Ok(Vec::new());
        };
        self.rounds("offline", part.rounds(), async |environment| offline::run(&environment, config.clone()).await)
            .await
    }

    async fn reconnect(&self) -> Result<Vec<Part>, RunError> {
        let (Some(part), Some(config)) = (&self.scenario.reconnect, self.scenario.herd_config()) else {
            return Ok(Vec::new());
        };
        self.rounds("reconnect", part.rounds(), async |environment| herd::run(&environment, config.clone()).await).await
    }

    async fn rounds(
        &self,
        name: &'static str,
        rounds: Rounds,
        mut round: impl AsyncFnMut(Environment) -> Result<Found, RunError>,
    ) -> Result<Vec<Part>, RunError> {
        self.inner.pass().await;
        let began = tokio::time::Instant::now();
        let time = &self.scenario.time;
        let end = began + self.scenario.whole();
        let mut next = began + time.warm_up.0 + rounds.after.0;
        let mut found = Vec::new();
        for number in 1.. {
            if !self.ending.within(next.saturating_duration_since(tokio::time::Instant::now())).await || next >= end {
                break;
            }
            let environment = self.part(&format!("{name}{number}"), name);
            let environment = Environment { gate: Gate::open(), ..environment };
            found.push(Part { name, found: round(environment).await? });
            let Some(every) = rounds.every else { break };
            // A round that took longer than the time between two leaves some out.
            while next <= tokio::time::Instant::now() {
                next += every.0;
            }
            if next >= end {
                break;
            }
        }
        Ok(found)
    }
}

/// Puts what the parts have found into one. `whole` has the figures of all together.
fn join(parts: Vec<Part>, mut whole: Found) -> Found {
    for Part { name, found } in parts {
        let label = |what: &str| if name.is_empty() { what.to_owned() } else { format!("{name}: {what}") };
        whole.integrity.add(&found.integrity);
        let times = found.times.into_iter().map(|times| Times { name: label(&times.name), ..times });
        Times::join(&mut whole.times, times);
        for figure in found.figures {
            let figure = Figure { name: label(&figure.name), ..figure };
            match whole.figures.iter_mut().find(|known| known.name == figure.name) {
                // The figures of all parts together stand there already.
                Some(_) if name.is_empty() => {}
                Some(known) => known.value = worse(known, &figure),
                None => whole.figures.push(figure),
            }
        }
        if let Some(why) = found.invalid {
            whole.invalid.get_or_insert(label(&why));
        }
    }
    whole
}

/// Of several rounds, the worst one counts.
fn worse(a: &Figure, b: &Figure) -> f64 {
    if a.better == Better::Higher { a.value.min(b.value) } else { a.value.max(b.value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::Summary,
        measure::{latencies::histogram, window::Window},
        report::recorded::Counts,
    };

    fn found(lost: u64, ms: u64, figure: Figure) -> Found {
        let mut times = histogram();
        times.saturating_record(ms * 1000);
        let mut integrity =
            Integrity { summary: Summary { sent: 10, accepted: 10, ..Summary::default() }, ..Integrity::default() };
        if lost > 0 {
            integrity.violations.insert("lost".to_owned(), lost);
            integrity.examples.push("lost: a message".to_owned());
        }
        Found {
            integrity,
            times: vec![Times::new("acceptance", times)],
            figures: vec![figure],
            window: Window {
                took: Duration::from_secs(1),
                counts: Counts::default(),
                servers: Vec::new(),
                own_cpu_us: 0,
                machine_busy: 0.0,
            },
            invalid: (lost > 1).then(|| "why".to_owned()),
        }
    }

    #[test]
    fn rounds_are_joined_and_the_worst_one_counts() {
        let catch_up = |seconds| Figure::lower("catch-up", "s", seconds);
        let parts = vec![
            Part { name: "", found: found(0, 5, Figure::higher("accepted", "1/s", 7.0)) },
            Part { name: "offline", found: found(1, 10, catch_up(2.0)) },
            Part { name: "offline", found: found(2, 30, catch_up(1.0)) },
        ];
        let whole = join(parts, found(0, 0, Figure::higher("accepted", "1/s", 27.0)));
        assert_eq!(
            (whole.integrity.summary.sent, whole.integrity.violations["lost"], whole.integrity.examples.len()),
            (40, 3, 2)
        );
        let values: Vec<_> = whole.figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
        assert_eq!(values, [("accepted", 27.0), ("offline: catch-up", 2.0)]);
        let offline = whole.times.iter().find(|times| times.name == "offline: acceptance").expect("times");
        assert_eq!((offline.histogram.len(), whole.invalid.as_deref()), (2, Some("offline: why")));
    }
}
