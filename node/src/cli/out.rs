//! Standard output and standard error, either of which may be closed, full, or a pipe that nobody reads any more. The
//! macros of the standard library panic then.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::Context as _;

/// Whoever read standard output has seen enough, as `head` has: no failure, and nothing more to do.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub(super) struct Unread;

/// What a command is there to print.
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

/// What a service says by the way: it goes on if nobody can hear it, or reads it.
pub(super) fn note(text: impl Display) {
    let text = text.to_string();
    briefly(move || {
        let _ = line(text);
    });
}

/// To standard error. If that can't be written to, there is nowhere left to say so.
pub(super) fn tell(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// As above, for a process that must end in any case: a reader that stands still is not waited for.
pub(super) fn tell_briefly(text: impl Display) {
    let text = text.to_string();
    briefly(move || tell(text));
}

/// Writes into a pipe that is full wait for its reader. After a second they do so alone.
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

/// Help, the version, or what is wrong with the arguments.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    match (error.use_stderr(), printed) {
        (true, _) => ExitCode::from(2),
        (false, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        (false, _) => ExitCode::SUCCESS,
    }
}
