//! The progress of a run: a moving line on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal as _,
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::tasks::Tasks;
use indicatif::{ProgressBar, ProgressStyle};

use crate::report::{recorded::Counts, recorder::Recorder};

/// The progress bar, on standard error, so that the report can be piped.
pub(crate) struct Progress(Option<ProgressBar>);

const ON_A_TERMINAL: Duration = Duration::from_millis(250);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Shows the progress until `tasks` are stopped.
pub(crate) fn start(recorder: Arc<Recorder>, tasks: &Tasks) -> Progress {
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{elapsed} {bar:20} {msg}").expect("constant that is valid");
        ProgressBar::new(1).with_style(style)
    });
    let shown = bar.clone();
    let every = if bar.is_some() { ON_A_TERMINAL } else { ELSEWHERE };
    tasks.spawn("progress", async move {
        let (mut before, mut at) = (recorder.counts(), Instant::now());
        loop {
            tokio::time::sleep(every).await;
            let counts = recorder.counts();
            let phase = recorder.phase();
            let line = line(&phase.name, &counts, &before, at.elapsed());
            (before, at) = (counts, Instant::now());
            match &shown {
                Some(bar) => {
                    // The bar is full if nobody knows how long the phase takes.
                    let lasts_ms = phase.lasts.map_or(0, |lasts| lasts.as_millis() as u64);
                    bar.set_length(lasts_ms.max(1));
                    bar.set_position((recorder.elapsed_ms() - phase.began_ms).min(lasts_ms.max(1)));
                    bar.set_message(line);
                }
                None => eprintln!("{:>4} s {line}", recorder.elapsed().as_secs()),
            }
        }
    });
    Progress(bar)
}

impl Progress {
    pub(crate) fn end(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

fn line(phase: &str, now: &Counts, before: &Counts, passed: Duration) -> String {
    let rate = |now: u64, before: u64| (now - before) as f64 / passed.as_secs_f64().max(1e-3);
    let (accepted, delivered) = (rate(now.accepted, before.accepted), rate(now.delivered, before.delivered));
    let mut line = format!("{phase}: {} signed in", now.signed_in);
    if now.accepted > 0 {
        line += &format!(", {accepted:.0} accepted/s, {delivered:.0} delivered/s, {} accepted", now.accepted);
    }
    if now.refused + now.unknown > 0 {
        line += &format!(", {} refused, {} unknown", now.refused, now.unknown);
    }
    line
}
