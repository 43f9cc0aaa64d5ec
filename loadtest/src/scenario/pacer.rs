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

/// How many messages each sender sends a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    Steady(f64),
    /// It changes evenly from one rate to the other, and stays there.
    Ramp {
        from: f64,
        to: f64,
        over: Duration,
    },
}

impl Pace {
    /// The pace of each of so many senders that keep this pace together.
    pub fn each_of(self, senders: usize) -> Self {
        let part = |rate: f64| rate / senders.max(1) as f64;
        match self {
            Self::Steady(rate) => Self::Steady(part(rate)),
            Self::Ramp { from, to, over } => Self::Ramp { from: part(from), to: part(to), over },
        }
    }

    /// Microseconds from the start until this many messages are due.
    fn due_after_us(self, messages: f64) -> f64 {
        match self {
            Self::Steady(rate) => messages * 1e6 / rate,
            Self::Ramp { from, to, over } => {
                let seconds = over.as_secs_f64();
                let in_the_ramp = (from + to) / 2.0 * seconds;
                if messages >= in_the_ramp {
                    return (seconds + (messages - in_the_ramp) / to) * 1e6;
                }
                // `from * t + (to - from) / over * t² / 2` messages are due within the time t.
                let growth = (to - from) / seconds;
                2.0 * messages / (from + (from * from + 2.0 * growth * messages).sqrt()) * 1e6
            }
        }
    }
}

/// The intended times of one sender's messages; they do not depend on what became of earlier messages.
#[derive(Clone)]
pub(crate) struct Schedule {
    /// Microseconds after the beginning of the run.
    start_us: f64,
    pace: Pace,
    /// The part of a message by which this sender is behind the first one: 0 to 1.
    behind: f64,
    /// Notified when a message is due.
    pub(crate) due: Arc<Notify>,
}

impl Schedule {
    /// The intended time of the message with this number, counted from 0.
    pub(crate) fn intended_us(&self, number: u64) -> u64 {
        (self.start_us + self.pace.due_after_us(number as f64 + self.behind)) as u64
    }
}

/// Wakes the senders in turn, each at its time. Stops when it is dropped.
pub(crate) struct Pacer {
    stop: Arc<AtomicBool>,
}

/// Shorter sleeps cost more than they gain; messages that are due meanwhile are sent together.
const SHORTEST_SLEEP: Duration = Duration::from_micros(200);

impl Pacer {
    /// `pace` is that of each sender.
    pub(crate) fn start(recorder: &Arc<Recorder>, senders: usize, pace: Pace) -> (Self, Vec<Schedule>) {
        let start_us = recorder.elapsed().as_micros() as f64;
        let schedule = |sender: usize| Schedule {
            start_us,
            pace,
            behind: sender as f64 / senders.max(1) as f64,
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
        let (_pacer, schedules) = Pacer::start(&recorder, 4, Pace::Steady(100.0));
        let times: Vec<u64> = (0..3).flat_map(|number| schedules.iter().map(move |s| s.intended_us(number))).collect();
        assert!(
            times.windows(2).all(|two| two[1] - two[0] == 2500 || two[1] - two[0] == 2501 || two[1] - two[0] == 2499)
        );
        for schedule in &schedules {
            schedule.due.notified().await;
            assert!(recorder.us(std::time::Instant::now()) >= schedule.intended_us(0));
        }
    }

    #[test]
    fn a_ramp_goes_from_one_rate_to_the_other_and_stays_there() {
        let over = Duration::from_secs(10);
        for (from, to) in [(0.0, 100.0), (20.0, 200.0), (200.0, 20.0), (50.0, 50.0)] {
            let pace = Pace::Ramp { from, to, over };
            let rate_at = |message: f64| 1e6 / (pace.due_after_us(message + 0.5) - pace.due_after_us(message - 0.5));
            let in_the_ramp = (from + to) * 5.0;
            assert!((pace.due_after_us(in_the_ramp) - 1e7).abs() < 1.0, "{from} to {to}");
            assert!((pace.due_after_us(in_the_ramp + 3.0 * to) - 1.3e7).abs() < 1.0, "{from} to {to}");
            let halfway = (from + (from + to) / 2.0) / 2.0 * 5.0;
            let wanted = (from + to) / 2.0;
            assert!((rate_at(halfway) / wanted - 1.0).abs() < 0.05, "{from} to {to}: {}", rate_at(halfway));
        }
        assert_eq!(Pace::Steady(60.0).each_of(3), Pace::Steady(20.0));
    }
}
