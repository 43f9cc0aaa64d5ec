//! Finds the highest rate at which a service holds a level.

mod search;
mod steps;
mod window;

use std::time::Duration;

pub(crate) use self::{
    search::Bounds,
    steps::Steps,
    window::{Measured, Wanted},
};
use self::{
    search::{Limit, Next, Search},
    window::{agreed, not_accepted},
};
use crate::{
    measure::window::{Reading, Window},
    report::{
        Capacity,
        capacity::{CapacityOutcome, Judgement, Purpose, Step, StepWindow},
        figure::{Figure, RATE, cost},
        times::Times,
    },
    scenario::Environment,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CapacityConfig {
    pub(crate) wanted: Wanted,
    pub(crate) bounds: Bounds,
    /// Sending at a new rate before anything is measured.
    pub(crate) settle: Duration,
    /// The length of each window.
    pub(crate) window: Duration,
    /// How long the last messages of a step may take.
    pub(crate) patience: Duration,
}

/// How much longer the windows of a confirmation are.
const CONFIRMATION: u32 = 3;

/// A load whose rate can be set: made by this process, or by others.
pub(crate) trait Loaded {
    /// Begins to send at this rate, in messages a second over all users.
    async fn begin(&mut self, rate: f64) -> Result<(), Stopped>;
    /// Measures for this long.
    async fn measure(&mut self, length: Duration) -> Result<Measured, Stopped>;
    /// Stops sending, and waits, at most so long, for what is on its way.
    async fn end(&mut self, patience: Duration) -> Result<Drained, Stopped>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Drained {
    /// True if everything accepted was delivered.
    pub(crate) complete: bool,
    /// Sends of the whole step that were refused for good or had no answer: of one without an answer, that is known only long after its
    /// window.
    pub(crate) not_accepted: u64,
    /// Violations that are known by now.
    pub(crate) broken: u64,
}

/// Why the search can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    #[error("interrupted")]
    Interrupted,
    #[error("integrity is broken: {0} violations")]
    Broken(u64),
    #[error("{0}")]
    Worker(String),
    #[error("a gateway of target.gateway_admin does not answer: what it refuses is not known")]
    Gateways,
}

/// The result of a search, with the measurements that its report shows.
pub(crate) struct Searched {
    pub(crate) capacity: Capacity,
    /// Of the last confirmation, or of the last step if there was none.
    pub(crate) times: Vec<Times>,
    pub(crate) window: Window,
    /// Why the search ended early.
    pub(crate) stopped: Option<Stopped>,
}

struct Tried {
    step: Step,
    times: Vec<Times>,
    window: Window,
}

/// Tries rates until the highest one is found, or the run is ended.
pub(crate) async fn search(load: &mut impl Loaded, config: &CapacityConfig, environment: &Environment) -> Searched {
    let mut search = Search::new(config.bounds);
    let mut steps: Vec<Step> = Vec::new();
    let empty = Reading::now(&environment.recorder, &environment.servers).await;
    let mut last = (Vec::new(), empty.until(&empty));
    let (outcome, rate, why, stopped) = loop {
        let (rate, purpose) = match search.next() {
            Next::Try { rate, purpose } => (rate, purpose),
            Next::Done { outcome, rate, limit } => break (outcome, rate, meaning(outcome, limit, &steps), None),
        };
        let tried = tokio::select! {
            tried = attempt(load, config, environment, rate, purpose) => tried,
            () = environment.ending.ended() => Err(Stopped::Interrupted),
        };
        match tried {
            Ok(tried) => {
                eprintln!("{}", line(&tried.step));
                search.tried(rate, purpose, tried.step.judgement);
                steps.push(tried.step);
                last = (tried.times, tried.window);
            }
            Err(stopped) => {
                let held = steps.iter().filter(|step| step.judgement == Judgement::Holds).map(|step| step.rate);
                let why = format!("the search was stopped: {stopped}");
                break (CapacityOutcome::AtLeast, held.reduce(f64::max), why, Some(stopped));
            }
        }
    };
    let Wanted { acceptance_p99_ms, delivery_p99_ms } = config.wanted;
    let capacity = Capacity { acceptance_p99_ms, delivery_p99_ms, outcome, rate, why, steps };
    Searched { capacity, times: last.0, window: last.1, stopped }
}

async fn attempt(
    load: &mut impl Loaded,
    config: &CapacityConfig,
    environment: &Environment,
    rate: f64,
    purpose: Purpose,
) -> Result<Tried, Stopped> {
    let recorder = &environment.recorder;
    let at_ms = recorder.elapsed_ms();
    recorder.mark(format!("{rate:.0}/s"));
    load.begin(rate).await?;
    recorder.set_phase(format!("{} {rate:.0}/s", purpose.as_str()));
    let length = if purpose == Purpose::Confirm { config.window * CONFIRMATION } else { config.window };
    recorder.phase_lasts(config.settle + length * 2);
    tokio::time::sleep(config.settle).await;
    let before = Reading::now(recorder, &environment.servers).await;
    let (mut windows, mut times_of): (Vec<StepWindow>, Vec<[Times; 2]>) = (Vec::new(), Vec::new());
    let mut refused = environment.gateways.read().await;
    let (mut judgement, mut why) = loop {
        let measured = load.measure(length).await?;
        let now = environment.gateways.read().await;
        let refusals = refused.as_ref().zip(now.as_ref()).map_or(0, |(before, now)| before.refusals_until(now));
        // Refusals while a gateway did not answer are in the difference to its next answer.
        refused = now.or(refused);
        windows.push(measured.judge(rate, &config.wanted, refusals));
        let Measured { acceptance, delivery, .. } = measured;
        times_of.push([Times::new("acceptance", acceptance), Times::new("delivery", delivery)]);
        if let Some(agreed) = agreed(&windows) {
            break agreed;
        }
    };
    if judgement == Judgement::Holds && refused.is_none() && !environment.gateways.is_empty() {
        return Err(Stopped::Gateways);
    }
    // Of a window that the others have outvoted, the times do not count either.
    let mut times = Vec::new();
    let agrees = |window: &StepWindow| window.judgement == judgement;
    for (_, own) in windows.iter().zip(times_of).filter(|(window, _)| agrees(window)) {
        Times::join(&mut times, own);
    }
    let window = before.until(&Reading::now(recorder, &environment.servers).await);
    let drained = load.end(config.patience).await?;
    if drained.broken > 0 {
        return Err(Stopped::Broken(drained.broken));
    }
    if judgement == Judgement::Holds {
        if drained.not_accepted > 0 {
            (judgement, why) = (Judgement::Misses, not_accepted(drained.not_accepted));
        } else if !drained.complete {
            (judgement, why) = (Judgement::Misses, format!("not all was delivered within {:?}", config.patience));
        }
    }
    Ok(Tried { step: Step { at_ms, purpose, rate, judgement, why, windows }, times, window })
}

fn meaning(outcome: CapacityOutcome, limit: Limit, steps: &[Step]) -> String {
    let at = |rate: f64| {
        let step = steps.iter().rev().find(|step| step.rate == rate && step.judgement != Judgement::Holds);
        step.map_or_else(String::new, |step| format!("at {rate:.0}/s {}", step.why))
    };
    match (outcome, limit) {
        (CapacityOutcome::NotConfirmed, _) => "no rate held the level each time it was tried".to_owned(),
        (_, Limit::Service { at: rate }) => at(rate),
        (_, Limit::Generator { at: rate }) => {
            format!("the generator was the limit, so this is not the capacity of the service: {}", at(rate))
        }
        (_, Limit::Scenario) => {
            "the scenario tries no higher rate: capacity.most, or direct.users times target.sends_per_user".to_owned()
        }
    }
}

fn line(step: &Step) -> String {
    let p99 = step.p99_ms(|window| window.acceptance).unwrap_or_default();
    let (rate, purpose, judgement) = (step.rate, step.purpose.as_str(), step.judgement.as_str());
    format!("{purpose:>8} {rate:>8.0}/s: acceptance p99 {p99:.1} ms, {judgement} {}", step.why).trim_end().to_owned()
}

impl Searched {
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some(rate) = self.capacity.rate {
            figures.push(Figure::higher(RATE, "1/s", rate));
            figures.extend(cost(&self.window, self.window.counts.accepted, "message"));
        }
        figures.push(Figure::neutral("rates tried", "", self.capacity.steps.len() as f64));
        figures
    }

    /// Why it says nothing of the service's capacity; `None` if it does.
    pub(crate) fn inconclusive(&self) -> Option<String> {
        match (&self.stopped, self.capacity.outcome) {
            (Some(stopped), _) => Some(format!("the search was stopped: {stopped}")),
            (None, CapacityOutcome::AtLeast | CapacityOutcome::NotConfirmed) => Some(self.capacity.why.clone()),
            (None, CapacityOutcome::Found | CapacityOutcome::None) => None,
        }
    }
}
