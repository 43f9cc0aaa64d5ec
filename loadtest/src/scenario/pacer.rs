//! The intended time of each message, and the thread that wakes its sender then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::report::recorder::Recorder;

/// The intended times of one sender's messages; they do not depend on what became of earlier messages.
#[derive(Clone)]
pub(crate) struct Schedule {
    /// Microseconds after the beginning of the run.
    first_us: f64,
    period_us: f64,
    /// Notified when a message is due.
    pub(crate) due: Arc<Notify>,
}

impl Schedule {
    /// The intended time of the message with this number, counted from 0.
    pub(crate) fn intended_us(&self, number: u64) -> u64 {
        (self.first_us + self.period_us * number as f64) as u64
    }
}

/// Wakes the senders in turn, each at its time. Stops when it is dropped.
pub(crate) struct Pacer {
    stop: Arc<AtomicBool>,
}

/// Shorter sleeps cost more than they gain; messages that are due meanwhile are sent together.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);

impl Pacer {
    /// `rate` is the rate of each sender, in messages a second.
    pub(crate) fn start(recorder: &Arc<Recorder>, senders: usize, rate: f64) -> (Self, Vec<Schedule>) {
        let period_us = 1e6 / rate;
        let start_us = recorder.elapsed().as_micros() as f64;
        let step_us = period_us / senders.max(1) as f64;
        let schedule = |sender: usize| Schedule {
            first_us: start_us + step_us * sender as f64,
            period_us,
            due: Arc::new(Notify::new()),
        };
        let schedules: Vec<_> = (0..senders).map(schedule).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, recorder, all) = (Arc::clone(&stop), Arc::clone(recorder), schedules.clone());
        // A thread of its own, because the runtime's timers are up to a millisecond late, which is as long as a whole
        // send.
        std::thread::spawn(move || wake_in_turn(&all, &recorder, &stopped));
        (Self { stop }, schedules)
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn wake_in_turn(schedules: &[Schedule], recorder: &Recorder, stop: &AtomicBool) {
    let mut number = 0u64;
    while !schedules.is_empty() && !stop.load(Ordering::Relaxed) {
        for schedule in schedules {
            let due = Duration::from_micros(schedule.intended_us(number));
            loop {
                let now = recorder.elapsed();
                if due <= now || stop.load(Ordering::Relaxed) {
                    break;
                }
                // Bounded, so that the thread notices the end.
                std::thread::sleep((due - now).clamp(SHORTEST_SLEEP, Duration::from_millis(100)));
            }
            schedule.due.notify_one();
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn senders_take_turns_and_their_times_do_not_wait_for_them() {
        let recorder = Arc::new(Recorder::default());
        let (_pacer, schedules) = Pacer::start(&recorder, 4, 100.0);
        let times: Vec<u64> = (0..3).flat_map(|number| schedules.iter().map(move |s| s.intended_us(number))).collect();
        assert!(
            times.windows(2).all(|two| two[1] - two[0] == 2500 || two[1] - two[0] == 2501 || two[1] - two[0] == 2499)
        );
        for schedule in &schedules {
            schedule.due.notified().await;
            assert!(recorder.us(std::time::Instant::now()) >= schedule.intended_us(0));
        }
    }
}
