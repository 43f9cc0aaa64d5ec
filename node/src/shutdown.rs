//! The signals to which the process reacts.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT: stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on these signals do not end the process directly.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP: the settings of `reload` are read again.
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// From now on this signal does not end the process.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// The next signal; several that arrive at once count as one. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // No more signals will come.
            std::future::pending().await
        }
    }
}
