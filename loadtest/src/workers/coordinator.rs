//! The coordinator: gives each worker its share, and makes one report of what they tell.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::{
    crew::Crew,
    handshake::Secret,
    message::{Order, Told},
    together::together,
};
use crate::{
    capacity::{self, CapacityConfig, Drained, Loaded, Measured, Searched, Stopped},
    measure::window::{Reading, Window},
    report::{GeneratorReport, Integrity, Report, WorkerReport, figure::Figure},
    scenario::{Ending, Found},
    scenario_file::ScenarioFile,
    session::{Session, capacity_report},
};

pub(crate) struct Coordinator {
    pub(crate) listen: String,
    pub(crate) secret: Secret,
    pub(crate) workers: usize,
    /// How long all of them may take to come.
    pub(crate) patience: Duration,
}

/// Carries the scenario out with the workers.
pub(crate) async fn coordinate(
    coordinator: &Coordinator,
    session: &Session,
    scenario: &ScenarioFile,
) -> anyhow::Result<Report> {
    let most = scenario.most_workers();
    anyhow::ensure!(
        (1..=most).contains(&coordinator.workers),
        "{} workers can't share {}: from 1 to {most}, for each has two users or more, and some of each part",
        coordinator.workers,
        scenario.name
    );
    let listener = TcpListener::bind(&coordinator.listen)
        .await
        .with_context(|| format!("can't listen at {}", coordinator.listen))?;
    eprintln!("waiting for {} workers at {}", coordinator.workers, listener.local_addr()?);
    let environment = &session.environment;
    let ending = &environment.ending;
    let Coordinator { secret, workers, patience, .. } = coordinator;
    let crew = tokio::select! {
        crew = Crew::gather(listener, secret, *workers, *patience, &environment.recorder, &environment.tasks) => crew?,
        () = ending.ended() => return Ok(session.report(&Found::nothing(environment, None).await)),
    };
    let mut team = Team { crew, scenario, session };
    team.sign_in().await;
    let report = match scenario.capacity_config() {
        _ if team.crew.any_lost().is_some() => team.give_up().await,
        Some(config) => team.search(&config).await,
        None => team.run(ending).await,
    };
    let threads = team.crew.workers.iter().map(|worker| worker.threads).sum();
    Ok(Report { generator: GeneratorReport { workers: threads, ..report.generator }, ..report })
}

/// Looks this often whether any worker is left.
const LOOK: Duration = Duration::from_millis(500);

struct Team<'a> {
    crew: Crew,
    scenario: &'a ScenarioFile,
    session: &'a Session,
}

impl Team<'_> {
    async fn sign_in(&mut self) {
        let (count, scenario) = (self.crew.workers.len(), self.scenario);
        let environment = &self.session.environment;
        environment.recorder.set_phase("signing in");
        let names: Vec<_> = self.crew.workers.iter().map(|worker| worker.name.clone()).collect();
        self.crew
            .order(|at| Order::Work {
                name: names[at].clone(),
                run: format!("{}-w{}", environment.run, at + 1),
                scenario: Box::new(scenario.of_worker(count, at)),
            })
            .await;
        self.crew.all(|told| matches!(told, Told::Ready).then_some(())).await;
    }

    /// One of the workers can't do its part: the others go before anything has begun.
    async fn give_up(&mut self) -> Report {
        self.crew.order(|_| Order::Finish).await;
        let found = self.findings().await;
        let workers = self.reports(&found);
        let mut whole = Found::nothing(&self.session.environment, self.crew.any_lost()).await;
        found.iter().for_each(|(_, found)| whole.integrity.add(&found.integrity));
        Report { workers, ..self.session.report(&whole) }
    }

    async fn run(&mut self, ending: &Ending) -> Report {
        self.crew.order(|_| Order::Start).await;
        let (session, time) = (self.session, &self.scenario.time);
        let mut measuring = std::pin::pin!(measure(session, time.warm_up.0, time.measured.0, ending));
        // The workers have the same times; an early end is told to them.
        let (window, told) = loop {
            tokio::select! {
                measured = &mut measuring => break measured,
                () = tokio::time::sleep(LOOK) => {
                    if self.crew.present().is_empty() {
                        ending.end();
                    }
                }
            }
        };
        if ending.is_ended() {
            self.crew.order(|_| Order::Finish).await;
        }
        let found = self.findings().await;
        let workers = self.reports(&found);
        let names = found.into_iter().map(|(at, found)| (self.crew.workers[at].name.clone(), found)).collect();
        let mut whole = together(names, window, self.crew.any_lost());
        whole.figures.extend(told);
        Report { workers, ..session.report(&whole) }
    }

    async fn search(&mut self, config: &CapacityConfig) -> Report {
        let session = self.session;
        let searched: Searched = capacity::search(self, config, &session.environment).await;
        self.crew.order(|_| Order::Finish).await;
        let found = self.findings().await;
        let workers = self.reports(&found);
        let mut integrity = Integrity::default();
        found.iter().for_each(|(_, found)| integrity.add(&found.integrity));
        let lost = self.crew.any_lost();
        let mut report = Report { workers, ..capacity_report(session, searched, integrity) };
        if let Some(lost) = lost {
            report.invalidate(lost);
        }
        report
    }

    /// Waits until each worker that is not lost has come to its end.
    async fn findings(&mut self) -> Vec<(usize, Found)> {
        self.session.environment.recorder.set_phase("ending");
        let found = self
            .crew
            .all(|told| match told {
                Told::Done(found) => Some(*found),
                _ => None,
            })
            .await;
        self.crew.order(|_| Order::Dismissed).await;
        found
    }

    fn reports(&self, found: &[(usize, Found)]) -> Vec<WorkerReport> {
        let count = self.crew.workers.len();
        let report = |(at, worker): (usize, &super::crew::Worker)| {
            let own = found.iter().find(|(known, _)| *known == at).map(|(_, found)| &found.window);
            let users = self.scenario.of_worker(count, at).users();
            WorkerReport {
                name: worker.name.clone(),
                address: worker.address.to_string(),
                users,
                threads: worker.threads,
                cpu_us: own.map_or(0, |window| window.own_cpu_us),
                late: own.map_or(0, |window| window.counts.late),
                lost: self.crew.lost(at),
            }
        };
        self.crew.workers.iter().enumerate().map(report).collect()
    }

    fn none_lost(&self) -> Result<(), Stopped> {
        self.crew.any_lost().map_or(Ok(()), |lost| Err(Stopped::Worker(lost)))
    }
}

/// The window of the measured time, and what gateways tell of it.
async fn measure(session: &Session, warm_up: Duration, measured: Duration, ending: &Ending) -> (Window, Vec<Figure>) {
    let recorder = Arc::clone(&session.environment.recorder);
    let (servers, gateways) = (&session.environment.servers, &session.environment.gateways);
    recorder.set_phase("warming up");
    recorder.phase_lasts(warm_up);
    ending.within(warm_up).await;
    recorder.measure_from_now();
    recorder.set_phase("measuring");
    recorder.phase_lasts(measured);
    let before = Reading::now(&recorder, servers).await;
    let told_before = gateways.read().await;
    ending.within(measured).await;
    let window = before.until(&Reading::now(&recorder, servers).await);
    let told = told_before.zip(gateways.read().await);
    let figures = told.map_or_else(Vec::new, |(before, after)| before.figures(&after, window.took));
    (window, figures)
}

impl Loaded for Team<'_> {
    async fn begin(&mut self, rate: f64) -> Result<(), Stopped> {
        let (count, scenario) = (self.crew.workers.len(), self.scenario);
        self.crew.order(|at| Order::Begin { rate: rate * scenario.part_of(count, at) }).await;
        self.crew.all(|told| matches!(told, Told::Begun).then_some(())).await;
        self.none_lost()
    }

    async fn measure(&mut self, length: Duration) -> Result<Measured, Stopped> {
        self.crew.order(|_| Order::Measure { ms: length.as_millis() as u64 }).await;
        let measured = self.crew.all(|told| match told {
            Told::Measured(measured) => Some(*measured),
            _ => None,
        });
        let measured = measured.await;
        self.none_lost()?;
        let named = measured.into_iter().map(|(at, one)| {
            let full = one.generator_full.map(|why| format!("{}: {why}", self.crew.workers[at].name));
            Measured { generator_full: full, ..one }
        });
        let whole = named.reduce(|mut all, one| {
            all.join(one);
            all
        });
        whole.ok_or_else(|| Stopped::Worker("there are no workers".to_owned()))
    }

    async fn end(&mut self, patience: Duration) -> Result<Drained, Stopped> {
        self.crew.order(|_| Order::End { patience_ms: patience.as_millis() as u64 }).await;
        let drained = self.crew.all(|told| match told {
            Told::Drained(drained) => Some(drained),
            _ => None,
        });
        let drained = drained.await;
        self.none_lost()?;
        let sum = |count: fn(&Drained) -> u64| drained.iter().map(|(_, drained)| count(drained)).sum::<u64>();
        Ok(Drained {
            complete: drained.iter().all(|(_, drained)| drained.complete),
            not_accepted: sum(|drained| drained.not_accepted),
            broken: sum(|drained| drained.broken),
        })
    }
}
