//! The load of a search, made by this process.

use std::{sync::Arc, time::Duration};

use super::{Drained, Loaded, Measured, Stopped};
use crate::{
    direct::{Direct, DirectConfig, Report},
    measure::{generator::Generator, proc, servers::Servers, window::Reading},
    report::{recorded::Counts, recorder::Recorder},
    scenario::{Environment, RunError, pacer::Pace},
};

/// Users who are signed in, and send at one rate after another.
pub(crate) struct Steps {
    direct: Direct,
    users: usize,
    recorder: Arc<Recorder>,
    threads: usize,
    /// The counts at the beginning of the step.
    before: Counts,
}

impl Steps {
    pub(crate) async fn open(environment: &Environment, config: DirectConfig) -> Result<Self, RunError> {
        let (users, recorder) = (config.users, Arc::clone(&environment.recorder));
        let direct = Direct::open_in(environment, config).await?;
        Ok(Self { direct, users, recorder, threads: environment.workers, before: Counts::default() })
    }

    /// Reads everything back.
    pub(crate) async fn finish(self, patience: Duration) -> Report {
        self.direct.finish(patience).await
    }

    fn take_windows(&self) -> [hdrhistogram::Histogram<u64>; 3] {
        let Recorder { acceptance, acceptance_once_sent, delivery, .. } = &*self.recorder;
        [acceptance, acceptance_once_sent, delivery].map(|latencies| latencies.take_window())
    }
}

impl Loaded for Steps {
    async fn begin(&mut self, rate: f64) -> Result<(), Stopped> {
        self.recorder.measure_from_now();
        self.before = self.recorder.counts();
        self.direct.send(Some(Pace::Steady(rate).each_of(self.users)));
        Ok(())
    }

    async fn measure(&mut self, length: Duration) -> Result<Measured, Stopped> {
        self.take_windows();
        let none = Servers::default();
        let before = Reading::now(&self.recorder, &none).await;
        tokio::time::sleep(length).await;
        let window = before.until(&Reading::now(&self.recorder, &none).await);
        let [acceptance, acceptance_once_sent, delivery] = self.take_windows();
        // Whether sends were late is asked where the times are.
        let generator =
            Generator { workers: self.threads, cores: proc::cores(), scheduled: 0, late: 0, as_fast_as_possible: true };
        Ok(Measured {
            seconds: window.took.as_secs_f64(),
            counts: window.counts,
            acceptance,
            acceptance_once_sent,
            delivery,
            generator_cores: window.own_cores(),
            generator_full: generator.was_the_limit(&window),
        })
    }

    async fn end(&mut self, patience: Duration) -> Result<Drained, Stopped> {
        let complete = self.direct.pause(patience).await;
        let Counts { refused, unknown, .. } = self.recorder.counts().since(&self.before);
        Ok(Drained { complete, not_accepted: refused + unknown, broken: self.direct.broken() })
    }
}
