//! Whether the service delivers, as the readiness of the canary.

use std::time::Duration;

use carillon_proto::Readiness;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// The last rounds of each direction, by the account that sends in it.
pub(crate) type Wellness = [Way; 2];

/// Messages of one account to the other.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// When one went well the last time.
    well_at: Option<Instant>,
    /// Why the last one did not; empty if it did.
    why: String,
}

impl Way {
    pub(crate) fn new() -> Self {
        Self { well_at: None, why: "no message has been sent yet".to_owned() }
    }

    /// Returns why the one before did not go well; empty if it did.
    pub(crate) fn went_well(&mut self, now: Instant) -> String {
        self.well_at = Some(now);
        std::mem::take(&mut self.why)
    }

    pub(crate) fn was_well(&self) -> bool {
        self.well_at.is_some()
    }

    pub(crate) fn failed(&mut self, why: String) {
        self.why = why;
    }
}

/// Runs until the rounds have ended.
pub(crate) async fn tell(mut wellness: watch::Receiver<Wellness>, tell: watch::Sender<Readiness>, within: Duration) {
    loop {
        let seen = wellness.borrow_and_update().clone();
        let (now, until) = readiness(&seen, within, Instant::now());
        tell.send_if_modified(|before| before.change(now));
        let ends = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        // Both are cancel-safe.
        tokio::select! {
            changed = wellness.changed() => if changed.is_err() { return },
            () = ends => {}
        }
    }
}

/// Both ways have to be open. With the time until which the canary is ready if nothing goes well any more.
fn readiness(wellness: &Wellness, within: Duration, now: Instant) -> (Readiness, Option<Instant>) {
    let until = wellness.each_ref().map(|way| way.well_at.map(|at| at + within));
    match wellness.iter().zip(until).find(|(_, until)| until.is_none_or(|until| until <= now)) {
        None => (Readiness::Ready, until.into_iter().flatten().min()),
        Some((way, _)) if way.why.is_empty() => (Readiness::NotReady("messages take too long".to_owned()), None),
        Some((way, _)) => (Readiness::NotReady(way.why.clone()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_canary_is_ready_as_long_as_the_last_success_of_both_ways_is_young() {
        let (rounds, seen) = watch::channel([Way::new(), Way::new()]);
        let (told, mut ready) = watch::channel(Readiness::NotReady("opening".to_owned()));
        let within = Duration::from_millis(200);
        let telling = tell(seen, told, within);
        let playing = async {
            let mut is = async |why: Option<&str>| {
                let wanted = ready.wait_for(|ready| ready.why() == why);
                let told = tokio::time::timeout(Duration::from_secs(20), wanted).await;
                drop(told.unwrap_or_else(|_| panic!("waited in vain for {why:?}")));
            };
            is(Some("no message has been sent yet")).await;
            let begun = Instant::now();
            rounds.send_modify(|[first, second]| {
                first.went_well(begun);
                second.failed("one way".to_owned());
            });
            is(Some("one way")).await;
            rounds.send_modify(|[_, second]| assert_eq!(second.went_well(begun), "one way"));
            is(None).await;
            rounds.send_modify(|[first, second]| {
                first.failed("lost".to_owned());
                // The other way goes on.
                second.went_well(begun + 10 * within);
            });
            is(Some("lost")).await;
            assert!(begun.elapsed() >= within, "{:?}", begun.elapsed());
            rounds.send_modify(|[first, _]| drop(first.went_well(Instant::now() + within)));
            is(None).await;
            drop(rounds);
        };
        tokio::join!(telling, playing);
    }
}
