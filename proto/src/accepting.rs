//! Accepts connections while file descriptors may run out. When the table is full, the listener pauses instead of
//! spinning, and logs at a limited rate.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::seldom::Seldom;

/// Pause after a failed accept; an immediate retry would fail again. Connections wait in the kernel's backlog
/// meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// Least time between two log lines about failed accepts.
const TELL: Duration = Duration::from_secs(30);

/// A listener whose `next` never fails.
pub struct Accepting {
    listener: TcpListener,
    name: &'static str,
    failed: Seldom,
}

impl Accepting {
    /// `name` appears in the log.
    pub fn new(listener: TcpListener, name: &'static str) -> Self {
        Self { listener, name, failed: Seldom::new(1, TELL) }
    }

    /// The next connection, with Nagle's algorithm off.
    pub async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // The writer batches frames, so the kernel need not wait for more. If setting the option fails, the
                    // socket is already broken.
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if let Some(left_out) = self.failed.turn(Instant::now()) {
                        let (listener, again_ms) = (self.name, PAUSE.as_millis());
                        tracing::warn!(
                            %error, left_out, again_ms,
                            "{listener} can't accept connections, and tries again until it can"
                        );
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// True for errors of a single connection, such as one that was reset before it was accepted. The next accept may
/// succeed at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
