//! How far a transfer is, for somebody who sits before a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Mutex,
    time::{Duration, Instant},
};

use carillon_client::Moved;

/// Transfers that take less are not told of.
const PATIENCE: Duration = Duration::from_millis(500);
const BETWEEN: Duration = Duration::from_millis(200);

/// Draws a line on standard error, if that is a terminal and programs do not read the output.
pub(super) struct Progress {
    what: &'static str,
    drawn: Option<Mutex<Drawn>>,
}

struct Drawn {
    began: Instant,
    /// The first bytes that this attempt has moved.
    from: Option<u64>,
    last: Option<Instant>,
}

impl Progress {
    /// `what`: for example "sent". `json`: programs read the output.
    pub(super) fn new(what: &'static str, json: bool) -> Self {
        let is_seen = !json && io::stderr().is_terminal() && io::stdout().is_terminal();
        let drawn = || Mutex::new(Drawn { began: Instant::now(), from: None, last: None });
        Self { what, drawn: is_seen.then(drawn) }
    }

    pub(super) fn tell(&self, moved: Moved) {
        let Some(drawn) = &self.drawn else { return };
        let Ok(mut drawn) = drawn.lock() else { return };
        let now = Instant::now();
        let from = *drawn.from.get_or_insert(moved.bytes);
        let elapsed = now - drawn.began;
        let is_due = drawn.last.map_or(elapsed >= PATIENCE, |last| now - last >= BETWEEN);
        if is_due {
            drawn.last = Some(now);
            let line = line(self.what, moved, moved.bytes.saturating_sub(from), elapsed);
            let _ = write!(io::stderr().lock(), "\r{line}\x1b[K");
        }
    }
}

/// Leaves nothing of the line.
impl Drop for Progress {
    fn drop(&mut self) {
        let was_drawn = |drawn: &Mutex<Drawn>| drawn.lock().is_ok_and(|drawn| drawn.last.is_some());
        if self.drawn.as_ref().is_some_and(was_drawn) {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, Moved { bytes, of }: Moved, new: u64, elapsed: Duration) -> String {
    let share = u128::from(bytes) * 100 / u128::from(of.max(1));
    let rate = u128::from(new) * 1000 / elapsed.as_millis().max(1);
    let (bytes, of, rate) = (size(bytes.into()), size(of.into()), size(rate));
    format!("{share} % {what}: {bytes} of {of}, {rate}/s")
}

fn size(bytes: u128) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_and_rate_are_told() {
        let moved = Moved { bytes: 3 << 20, of: 12 << 20 };
        assert_eq!(line("sent", moved, 2 << 20, Duration::from_secs(4)), "25 % sent: 3.0 MiB of 12.0 MiB, 512.0 KiB/s");
        let none = Moved { bytes: 0, of: 0 };
        assert_eq!(line("sent", none, 0, Duration::ZERO), "0 % sent: 0 B of 0 B, 0 B/s");
    }
}
