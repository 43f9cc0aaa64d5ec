//! A part of a step: what was measured in it, and what that says.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::report::{
    capacity::{Judgement, StepWindow},
    recorded::Counts,
    recorder::LATE_US,
    sample::Quantiles,
    times::pairs,
};

/// The service level that a rate has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) acceptance_p99_ms: f64,
    pub(crate) delivery_p99_ms: Option<f64>,
}

/// The part of the wanted rate that has to be accepted: the ends of a window cut through batches.
const RATE_PART: f64 = 0.98;
/// Up to this part of late sends is the machine's noise.
const LATE_PART: f64 = 0.01;

/// Measurements of one process, or of several together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// Of this window alone.
    pub(crate) counts: Counts,
    #[serde(with = "pairs")]
    pub(crate) acceptance: Histogram<u64>,
    #[serde(with = "pairs")]
    pub(crate) acceptance_once_sent: Histogram<u64>,
    #[serde(with = "pairs")]
    pub(crate) delivery: Histogram<u64>,
    pub(crate) generator_cores: f64,
    /// Why the generator has no time to spare; `None` if it has.
    pub(crate) generator_full: Option<String>,
}

impl Measured {
    /// Adds what another process has measured at the same time.
    pub(crate) fn join(&mut self, other: Self) {
        self.seconds = self.seconds.max(other.seconds);
        self.counts.add(&other.counts);
        for (own, more) in [
            (&mut self.acceptance, &other.acceptance),
            (&mut self.acceptance_once_sent, &other.acceptance_once_sent),
            (&mut self.delivery, &other.delivery),
        ] {
            own.add(more).expect("same bounds");
        }
        self.generator_cores += other.generator_cores;
        self.generator_full = self.generator_full.take().or(other.generator_full);
    }

    /// `refused_at_gateways`: refusals that the clients did not tell, because they have repeated the send.
    pub(crate) fn judge(&self, rate: f64, wanted: &Wanted, refused_at_gateways: u64) -> StepWindow {
        let not_accepted = (self.counts.refused + self.counts.unknown).max(refused_at_gateways);
        let accepted_per_s = self.counts.accepted as f64 / self.seconds.max(1e-9);
        let missed = self.missed(rate, accepted_per_s, wanted, not_accepted);
        let (judgement, why) = match (missed, self.generators_fault(wanted, not_accepted)) {
            (None, _) => (Judgement::Holds, String::new()),
            (Some(_), Some(why)) => (Judgement::Generator, why),
            (Some(why), None) => (Judgement::Misses, why),
        };
        StepWindow {
            seconds: self.seconds,
            accepted_per_s,
            acceptance: Quantiles::of(&self.acceptance),
            delivery: Quantiles::of(&self.delivery),
            acceptance_once_sent_p99_us: self.acceptance_once_sent.value_at_quantile(0.99),
            not_accepted,
            late: self.counts.late,
            generator_cores: self.generator_cores,
            judgement,
            why,
        }
    }

    fn missed(&self, rate: f64, accepted_per_s: f64, wanted: &Wanted, not_accepted: u64) -> Option<String> {
        if not_accepted > 0 {
            return Some(self::not_accepted(not_accepted));
        }
        let acceptance = p99_ms(&self.acceptance);
        if acceptance > wanted.acceptance_p99_ms {
            return Some(format!("acceptance p99 {acceptance:.1} ms"));
        }
        let delivery = p99_ms(&self.delivery);
        if wanted.delivery_p99_ms.is_some_and(|wanted| delivery > wanted) {
            return Some(format!("delivery p99 {delivery:.1} ms"));
        }
        if wanted.delivery_p99_ms.is_some() && self.delivery.is_empty() {
            return Some("nothing was delivered".to_owned());
        }
        (accepted_per_s < RATE_PART * rate).then(|| format!("{accepted_per_s:.0} accepted a second"))
    }

    /// Why the generator, and not the service, has missed what was wanted. If it was met, nobody asks: what the generator is late by
    /// is in these times, and makes them longer.
    fn generators_fault(&self, wanted: &Wanted, not_accepted: u64) -> Option<String> {
        if let Some(why) = &self.generator_full {
            return Some(why.clone());
        }
        let Counts { late, scheduled, .. } = self.counts;
        let service_is_quick = not_accepted == 0 && p99_ms(&self.acceptance_once_sent) <= wanted.acceptance_p99_ms;
        (service_is_quick && late as f64 > LATE_PART * scheduled as f64)
            .then(|| format!("{late} of {scheduled} sends went out more than {} ms late", LATE_US / 1000))
    }
}

/// The judgement of most windows; `None` if one more is needed. Two that agree are enough, and three always do, or the rate is not held.
pub(super) fn agreed(windows: &[StepWindow]) -> Option<(Judgement, String)> {
    for (at, window) in windows.iter().enumerate() {
        if windows[..at].iter().any(|earlier| earlier.judgement == window.judgement) {
            return Some((window.judgement, window.why.clone()));
        }
    }
    (windows.len() >= 3).then(|| {
        let worst = windows.iter().find(|window| window.judgement == Judgement::Misses);
        (Judgement::Misses, worst.map_or_else(String::new, |window| window.why.clone()))
    })
}

/// Why a rate is not held at which so many sends were not accepted.
pub(super) fn not_accepted(count: u64) -> String {
    format!("{count} sends were refused or had no answer")
}

fn p99_ms(times: &Histogram<u64>) -> f64 {
    times.value_at_quantile(0.99) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::latencies::histogram;

    const WANTED: Wanted = Wanted { acceptance_p99_ms: 50.0, delivery_p99_ms: Some(100.0) };

    /// 1,000 messages in ten seconds, all with these times in milliseconds.
    fn measured(acceptance: u64, once_sent: u64, delivery: u64, late: u64) -> Measured {
        let times = |ms: u64| {
            let mut times = histogram();
            times.record_n(ms * 1000, 1000).expect("within the bounds");
            times
        };
        Measured {
            seconds: 10.0,
            counts: Counts { accepted: 1000, scheduled: 1000, late, ..Counts::default() },
            acceptance: times(acceptance),
            acceptance_once_sent: times(once_sent),
            delivery: times(delivery),
            generator_cores: 0.5,
            generator_full: None,
        }
    }

    fn judge(measured: &Measured) -> Judgement {
        measured.judge(100.0, &WANTED, 0).judgement
    }

    #[test]
    fn each_part_of_the_level_counts() {
        assert_eq!(judge(&measured(40, 40, 90, 0)), Judgement::Holds);
        assert_eq!(judge(&measured(60, 60, 90, 0)), Judgement::Misses);
        assert_eq!(judge(&measured(40, 40, 110, 0)), Judgement::Misses);
        let good = measured(40, 40, 90, 0);
        assert_eq!(good.judge(103.0, &WANTED, 0).judgement, Judgement::Misses, "too few were accepted");
        assert_eq!(good.judge(100.0, &WANTED, 1).judgement, Judgement::Misses, "a gateway has refused one");
        let undelivered = Measured { delivery: histogram(), ..good.clone() };
        assert_eq!(judge(&undelivered), Judgement::Misses, "nobody was shown anything");
        let unasked = Wanted { delivery_p99_ms: None, ..WANTED };
        assert_eq!(undelivered.judge(100.0, &unasked, 0).judgement, Judgement::Holds);
        let unknown = Measured { counts: Counts { unknown: 1, ..good.counts }, ..good };
        assert_eq!(judge(&unknown), Judgement::Misses);
    }

    #[test]
    fn the_generators_own_delay_is_not_the_services() {
        assert_eq!(judge(&measured(60, 10, 90, 500)), Judgement::Generator, "it was late");
        assert_eq!(judge(&measured(60, 60, 90, 500)), Judgement::Misses, "the service is slow anyway");
        assert_eq!(judge(&measured(60, 10, 90, 5)), Judgement::Misses, "it was late only a few times");
        assert_eq!(judge(&measured(40, 10, 90, 500)), Judgement::Holds, "though it was late");
        let full = Measured { generator_full: Some("it was".to_owned()), ..measured(60, 60, 90, 0) };
        assert_eq!(judge(&full), Judgement::Generator);
        assert_eq!(judge(&Measured { acceptance: histogram(), ..full }), Judgement::Holds, "and yet it was enough");
    }

    #[test]
    fn two_windows_must_agree() {
        let window = |judgement| StepWindow { judgement, ..measured(1, 1, 1, 0).judge(100.0, &WANTED, 0) };
        let (holds, misses, generator) =
            (window(Judgement::Holds), window(Judgement::Misses), window(Judgement::Generator));
        let said = |windows: &[&StepWindow]| {
            agreed(&windows.iter().map(|&window| window.clone()).collect::<Vec<_>>()).map(|(judgement, _)| judgement)
        };
        assert_eq!(said(&[&holds]), None);
        assert_eq!(said(&[&holds, &holds]), Some(Judgement::Holds));
        assert_eq!(said(&[&holds, &misses]), None);
        assert_eq!(said(&[&holds, &misses, &holds]), Some(Judgement::Holds));
        assert_eq!(said(&[&holds, &misses, &misses]), Some(Judgement::Misses));
        assert_eq!(said(&[&holds, &misses, &generator]), Some(Judgement::Misses));
    }

    #[test]
    fn what_several_processes_measured_is_one() {
        let mut all = measured(40, 40, 90, 0);
        let full = Some("worker-2 is full".to_owned());
        all.join(Measured { generator_full: full.clone(), ..measured(60, 60, 90, 7) });
        assert_eq!((all.counts.accepted, all.counts.late, all.acceptance.len()), (2000, 7, 2000));
        assert_eq!((all.seconds, all.generator_cores, &all.generator_full), (10.0, 1.0, &full));
        assert_eq!(all.judge(200.0, &WANTED, 0).accepted_per_s, 200.0);
    }
}
