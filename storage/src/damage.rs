//! A disk that does not hold what was written to it: how such an error is told from others, and how the node hears of it.
//! What the node does then is in docs/adr/0020.

use std::{
    error::Error,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::io::Errno;
use tokio::sync::watch;

/// What an operator does about damage.
pub(crate) const REMEDY: &str = "this node must not serve. Stop it, and run `carillon repair` with its configuration: it makes the data whole, or \
     says which command does";

/// Something on the disk is not what was written. Stands inside an `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{what} is damaged: {why}")]
pub(crate) struct Damaged {
    what: String,
    why: String,
}

/// `what`: the file or the part of the store, as an operator knows it.
pub(crate) fn damaged(what: impl Into<String>, why: impl fmt::Display) -> io::Error {
    let damaged = Damaged { what: what.into(), why: why.to_string() };
    io::Error::new(io::ErrorKind::InvalidData, damaged)
}

/// True if the disk holds something else than what was written to it. A disk that can't be read or written now may hold
/// everything: that is no damage.
pub(crate) fn is_damage(error: &(dyn Error + 'static)) -> bool {
    any_inside(error, &|error| error.is::<Damaged>())
}

/// True if the process or the machine lacked something, which says nothing about the disk: files that may be open, memory.
pub(crate) fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    any_inside(error, &|error| matches!(errno(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)))
}

/// True if the disk is at fault. A command of a newer program, for example, is none of the disk.
fn is_the_disks(error: &(dyn Error + 'static)) -> bool {
    any_inside(error, &|error| error.is::<Damaged>() || errno(error).is_some()) && !is_shortage(error)
}

fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    Errno::from_io_error(error.downcast_ref()?)
}

fn any_inside(error: &(dyn Error + 'static), is_it: &dyn Fn(&(dyn Error + 'static)) -> bool) -> bool {
    // The inside of an `io::Error` is not among its sources.
    let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    is_it(error)
        || inside.is_some_and(|inside| any_inside(inside, is_it))
        || error.source().is_some_and(|source| any_inside(source, is_it))
}

/// Why this node leaves.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) text: String,
    /// False: the disk can't be read or written at the moment.
    pub(crate) is_damage: bool,
}

/// By which the parts of a node say that its disk fails them. Clones tell the same node.
#[derive(Clone)]
pub(crate) struct Alarm(Arc<Inner>);

struct Inner {
    found: watch::Sender<Option<Found>>,
    /// What each request asks.
    is_raised: AtomicBool,
}

impl Default for Alarm {
    fn default() -> Self {
        Self(Arc::new(Inner { found: watch::Sender::new(None), is_raised: AtomicBool::new(false) }))
    }
}

impl Alarm {
    /// Only the first error counts: others follow from it. `what` says who read or wrote.
    pub(crate) fn raise(&self, what: impl fmt::Display, error: &(dyn Error + 'static)) {
        let found = Found { text: format!("{what}: {error}"), is_damage: is_damage(error) };
        self.0.is_raised.store(true, Ordering::SeqCst);
        self.0.found.send_if_modified(|first| {
            if first.is_some() {
                return false;
            }
            tracing::error!(found = found.text, "the disk fails this node: it leaves service");
            *first = Some(found);
            true
        });
    }

    /// Raises the alarm if the disk is at fault.
    pub(crate) fn note(&self, what: impl fmt::Display, error: &(dyn Error + 'static)) {
        if is_the_disks(error) {
            self.raise(what, error);
        }
    }

    /// Passes a result on, and raises the alarm if the disk is at fault. Other errors are left to the caller.
    pub(crate) fn hear<T>(&self, what: impl fmt::Display, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.note(what, error))
    }

    pub(crate) fn found(&self) -> Option<Found> {
        self.0.found.borrow().clone()
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.is_raised.load(Ordering::SeqCst)
    }

    pub(crate) async fn raised(&self) -> Found {
        let mut found = self.0.found.subscribe();
        match found.wait_for(Option::is_some).await.map(|found| found.clone()) {
            Ok(Some(found)) => found,
            // The sender lives as long as `self`, and a value that was waited for is there.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't be opened: {source}")]
    struct Around {
        source: io::Error,
    }

    #[test]
    fn damage_is_known_however_it_is_wrapped() {
        let plain = || damaged("raft log", "entry 7");
        assert!(is_damage(&plain()));
        assert!(is_damage(&io::Error::other(plain())));
        assert!(is_damage(&Around { source: plain() }));
        assert!(is_damage(&io::Error::other(Around { source: io::Error::other(plain()) })));
        assert!(!is_damage(&io::Error::from_raw_os_error(5)));
        assert!(!is_damage(&io::Error::new(io::ErrorKind::InvalidData, "a command of a newer program")));
    }

    #[tokio::test]
    async fn only_what_the_disk_did_raises_the_alarm_and_the_first_counts() {
        let alarm = Alarm::default();
        let newer = io::Error::new(io::ErrorKind::InvalidData, "a command of a newer program");
        alarm.hear("shard timeline-0", Err::<(), _>(newer)).expect_err("passed on");
        let no_more_files = || io::Error::from(Errno::MFILE);
        alarm.hear("shard timeline-0", Err::<(), _>(no_more_files())).expect_err("passed on");
        alarm.note("shard timeline-0", &Around { source: no_more_files() });
        assert!(!alarm.is_raised());
        alarm.hear("shard timeline-1", Err::<(), _>(io::Error::from_raw_os_error(5))).expect_err("passed on");
        alarm.hear("shard timeline-2", Err::<(), _>(damaged("x", "y"))).expect_err("passed on");
        let found = alarm.raised().await;
        assert!(found.text.starts_with("shard timeline-1") && !found.is_damage, "{found:?}");
    }
}
