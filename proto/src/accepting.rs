//! Accepting connections while descriptors may run out: a full table is waited out, without spinning and without a line
//! in the log for each try.

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

/// At once it would fail again. Connections wait in the system meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log.
const TELL: Duration = Duration::from_secs(30);

/// A listener that never fails.
pub struct Accepting {
    listener: TcpListener,
    name: &'static str,
    failed: Seldom,
}

impl Accepting {
    /// `name` is for the log.
    pub fn new(listener: TcpListener, name: &'static str) -> Self {
        Self { listener, name, failed: Seldom::new(1, TELL) }
    }

    /// The next connection, with Nagle's algorithm off.
    pub async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Frames are batched by who writes; the kernel need not wait for more. A socket that can't has
                    // broken already.
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

/// The one that was to be accepted has gone again; the next one may be there already.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
