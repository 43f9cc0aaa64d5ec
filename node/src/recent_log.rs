//! The last warnings and errors of this process, in memory: a bounded ring, which the operator may read.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    sync::{Arc, OnceLock},
};

use carillon_proto::now_ms;
use parking_lot::Mutex;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use tracing::{
    Event,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, Registry, layer::Context};

use crate::cli::date;

const LINES: usize = 1_000;
const BYTES: usize = 256 * 1024;
/// The rest of a longer line is cut off.
const LINE_BYTES: usize = 1_024;
/// Fields that name users or their devices. A number stands in their place, the same for the same name until the process ends.
const PEOPLE: [&str; 4] = ["user", "device", "sender", "recipient"];

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct RecentLog {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<String>,
    bytes: usize,
    left_out: u64,
}

/// What is kept, the oldest line first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) lines: Vec<String>,
    /// Earlier lines that are not kept any more.
    pub(crate) left_out: u64,
}

impl RecentLog {
    /// That of this process.
    pub(crate) fn of_process() -> &'static Self {
        static OF_PROCESS: OnceLock<RecentLog> = OnceLock::new();
        OF_PROCESS.get_or_init(Self::default)
    }

    pub(crate) fn kept(&self) -> Kept {
        let ring = self.ring.lock();
        Kept { lines: ring.lines.iter().cloned().collect(), left_out: ring.left_out }
    }

    fn add(&self, line: String) {
        let mut ring = self.ring.lock();
        ring.bytes += line.len();
        ring.lines.push_back(line);
        while ring.lines.len() > LINES || ring.bytes > BYTES {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.len();
            ring.left_out += 1;
        }
    }
}

impl Layer<Registry> for RecentLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, Registry>) {
        let meta = event.metadata();
        let mut line = Line(format!("{} {:>5} {}:", date::format(now_ms()), meta.level(), meta.target()));
        event.record(&mut line);
        self.add(line.0);
    }
}

/// One event. Its message comes first, because macros put it first.
struct Line(String);

impl Line {
    fn append(&mut self, field: &Field, value: &dyn fmt::Display) {
        let name = field.name();
        let before = self.0.len();
        // Writing to a text does not fail.
        let _ = match name {
            "message" => write!(self.0, " {value}"),
            _ if PEOPLE.contains(&name) => write!(self.0, " {name}={}", pseudonym(&value.to_string())),
            _ => write!(self.0, " {name}={value}"),
        };
        // One event is one line.
        if self.0[before..].contains(char::is_control) {
            let clean: String = self.0[before..].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            self.0.replace_range(before.., &clean);
        }
        if self.0.len() > LINE_BYTES {
            let end = (0..=LINE_BYTES - 3).rev().find(|at| self.0.is_char_boundary(*at)).unwrap_or(0);
            self.0.truncate(end);
            self.0.push_str("...");
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.append(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.append(field, &format_args!("{value:?}"));
    }
}

/// A number for a name, by which lines of one user can be found without knowing the user.
fn pseudonym(name: &str) -> String {
    static KEY: OnceLock<[u8; 16]> = OnceLock::new();
    let key = KEY.get_or_init(|| rand::rng().random());
    let hash = Sha256::new().chain_update(key).chain_update(name.trim_matches('"')).finalize();
    let [a, b, c, d, ..] = hash[..] else { return "#".to_owned() };
    format!("#{:08x}", u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn logged(work: impl FnOnce()) -> Kept {
        let log = RecentLog::default();
        let subscriber = Registry::default().with(log.clone());
        tracing::subscriber::with_default(subscriber, work);
        log.kept()
    }

    #[test]
    fn lines_have_what_happened_and_not_to_whom() {
        let kept = logged(|| {
            let (user, reason) = ("alice", "wrong password");
            tracing::warn!(user, reason, "sign-in failed\nTwice");
            tracing::warn!(%user, "again");
            tracing::warn!(user = "bob", "another");
        });
        let [first, again, another] = kept.lines.as_slice() else { panic!("{kept:?}") };
        assert!(first.contains(" WARN carillon::recent_log"), "{first}");
        assert!(first.contains(": sign-in failed Twice") && first.contains(" reason=wrong password"), "{first}");
        assert!(!kept.lines.concat().contains("alice") && !another.contains("bob"), "{kept:?}");
        let number = |line: &str| line.split_once("user=#").expect("a number").1[..8].to_owned();
        assert_eq!(number(first), number(again));
        assert_ne!(number(first), number(another));
    }

    #[test]
    fn lines_and_bytes_are_bounded() {
        let kept = logged(|| (0..LINES + 5).for_each(|number| tracing::error!(number, "short")));
        assert_eq!((kept.lines.len(), kept.left_out), (LINES, 5));
        assert!(
            kept.lines.last().expect("a line").ends_with(&format!("number={}", LINES + 4)),
            "{:?}",
            kept.lines.last()
        );
        let kept = logged(|| (0..LINES).for_each(|_| tracing::error!("{}", "é".repeat(LINE_BYTES * 4))));
        let bytes: usize = kept.lines.iter().map(String::len).sum();
        assert!(bytes <= BYTES && kept.lines.iter().all(|line| line.len() <= LINE_BYTES), "{bytes}");
        assert_eq!(kept.lines.len() as u64 + kept.left_out, LINES as u64);
    }
}
