//! Standard output and standard error, either of which may be closed, full, or a pipe that nobody reads any more. The
//! macros of the standard library panic then.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;

/// The reader of standard output has closed it, as `head` does. This is not a failure, and the command ends.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub(super) struct Unread;

/// Prints the output of a command.
pub(super) fn print(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Unread.into()),
        Err(error) => Err(error).context("can't write to standard output"),
    }
}

pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))
}

/// Prints a line that nobody has asked for. A service goes on when stdout is closed or not read.
pub(super) fn note(text: impl Display) {
    static WRITING: AtomicBool = AtomicBool::new(false);
    let text = text.to_string();
    unless_stuck(&WRITING, move || {
        let _ = line(text);
    });
}

/// Prints to standard error. If that can't be written, there is no other place to report it.
pub(super) fn tell(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints to standard error without waiting longer than a second for a reader.
pub(super) fn tell_briefly(text: impl Display) {
    let text = text.to_string();
    briefly(move || tell(text));
}

/// Runs `write` on a thread of its own and waits for it for at most a second. Does nothing while the previous call
/// still waits for its reader.
fn unless_stuck(writing: &'static AtomicBool, write: impl FnOnce() + Send + 'static) {
    if let Some(turn) = Turn::take(writing) {
        briefly(move || {
            write();
            drop(turn);
        });
    }
}

/// The permission to write, given to one writer at a time.
struct Turn(&'static AtomicBool);

impl Turn {
    fn take(writing: &'static AtomicBool) -> Option<Self> {
        (!writing.swap(true, Ordering::Acquire)).then_some(Self(writing))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Runs `write` on a thread of its own and waits for it for at most a second.
fn briefly(write: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let writing = thread::Builder::new().spawn(move || {
        write();
        let _ = done.send(());
    });
    if writing.is_ok() {
        let _ = wait.recv_timeout(Duration::from_secs(1));
    }
}

/// Prints the help, the version, or what is wrong with the arguments.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    match (error.use_stderr(), printed) {
        (true, _) => ExitCode::from(2),
        (false, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        (false, _) => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_note_waits_for_a_reader() {
        static WRITING: AtomicBool = AtomicBool::new(false);
        let (read, unread) = mpsc::channel::<()>();
        let (told, notes) = mpsc::channel();
        let first = told.clone();
        unless_stuck(&WRITING, move || {
            let _ = unread.recv();
            let _ = first.send("first");
        });
        let second = told.clone();
        unless_stuck(&WRITING, move || {
            let _ = second.send("second");
        });
        drop(read);
        assert_eq!(notes.recv(), Ok("first"));
        // The turn ends after the text was written.
        while WRITING.load(Ordering::Acquire) {
            thread::yield_now();
        }
        unless_stuck(&WRITING, move || {
            let _ = told.send("third");
        });
        assert_eq!(notes.iter().collect::<Vec<_>>(), ["third"]);
    }
}
