//! Tells whether the load generator was the limit, and not the service.

use super::window::Window;
use crate::report::recorder::LATE_US;

/// Above this part of the CPU time of its threads, the generator has no time to spare.
const FULL: f64 = 0.85;
/// Above this part of all cores' time, the machine is full.
const MACHINE_FULL: f64 = 0.95;
/// Up to this part of late sends is the machine's noise.
const LATE_PART: f64 = 0.01;

/// How the generator fared in the measured part of a run.
#[derive(Debug, Clone, Copy)]
pub struct Generator {
    /// Threads that make the load.
    pub workers: usize,
    /// Cores of the machine.
    pub cores: usize,
    /// Sends with a time of their own that only the generator could delay.
    pub scheduled: u64,
    /// The sends among `scheduled` that were late by more than [`LATE_US`].
    pub late: u64,
    /// True if the run measures the highest rate (closed loop). Then a generator that takes more of a full machine than
    /// the servers is the limit. At a given rate it is not: either the rate was reached or sends were late.
    pub as_fast_as_possible: bool,
}

impl Generator {
    /// Why the generator was the limit; `None` if it was not.
    ///
    /// Latencies and rates are the service's own only while the generator has time to spare. It has none if its threads
    /// are busy nearly all the time, if it sends late, or if machine and servers are full and the generator uses the
    /// larger part. Server CPU per message is right even then.
    pub fn was_the_limit(&self, window: &Window) -> Option<String> {
        let (own, can) = (window.own_cores(), self.workers.min(self.cores) as f64);
        if own > FULL * can {
            return Some(format!("it used {own:.2} of the {can} cores that its {} threads can use", self.workers));
        }
        if self.late as f64 > LATE_PART * self.scheduled as f64 {
            let Self { late, scheduled, .. } = self;
            return Some(format!("{late} of {scheduled} sends went out more than {} ms late", LATE_US / 1000));
        }
        // Without figures of the servers, all other use of the machine counts as theirs.
        let others = window.server_cores().unwrap_or(window.machine_busy * self.cores as f64 - own);
        if self.as_fast_as_possible && window.machine_busy > MACHINE_FULL && own > others {
            return Some(format!("the machine was full, and it used {own:.2} cores, the servers {others:.2}"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{measure::window::ServerWindow, report::recorded::Counts};

    fn window(own: f64, server: f64, machine_busy: f64) -> Window {
        let cpu_us = (server * 1e7) as u64;
        let server = ServerWindow { name: "s".into(), cpu_us, rss_before_bytes: 0, rss_after_bytes: 0 };
        Window {
            took: Duration::from_secs(10),
            counts: Counts::default(),
            servers: vec![server],
            own_cpu_us: (own * 1e7) as u64,
            machine_busy,
        }
    }

    #[test]
    fn a_generator_without_time_to_spare_is_the_limit() {
        let closed = Generator { workers: 2, cores: 2, scheduled: 0, late: 0, as_fast_as_possible: true };
        assert_eq!(closed.was_the_limit(&window(0.6, 1.3, 1.0)), None);
        assert!(closed.was_the_limit(&window(1.8, 0.1, 1.0)).is_some());
        assert!(closed.was_the_limit(&window(1.1, 0.8, 1.0)).is_some());
        assert_eq!(closed.was_the_limit(&window(1.1, 0.8, 0.9)), None);
        let unwatched = Window { servers: Vec::new(), ..window(1.1, 0.0, 1.0) };
        assert!(closed.was_the_limit(&unwatched).is_some());
        assert_eq!(closed.was_the_limit(&Window { own_cpu_us: 9_000_000, ..unwatched }), None);
        let one_thread = Generator { workers: 1, ..closed };
        assert!(one_thread.was_the_limit(&window(0.9, 0.3, 0.6)).is_some());
    }

    #[test]
    fn a_generator_that_sends_late_is_the_limit() {
        let open = Generator { workers: 2, cores: 2, scheduled: 1000, late: 10, as_fast_as_possible: false };
        assert_eq!(open.was_the_limit(&window(1.0, 0.9, 1.0)), None);
        assert!(Generator { late: 11, ..open }.was_the_limit(&window(0.1, 0.1, 0.2)).is_some());
    }
}
