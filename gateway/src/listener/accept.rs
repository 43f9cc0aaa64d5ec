//! Accepts connections, gives each a place, and determines its client's address.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use carillon_proto::{accepting::Accepting, seldom::Seldom, tasks::Tasks};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};

use super::{
    proxies::Proxies,
    proxy_protocol::{Reader, Source},
    refusal::{REFUSAL, Refusal},
    slots::{Slot, Slots},
};

/// Connections of one listener that are being refused at the same time; further ones are closed without a message.
pub(crate) const REFUSING: usize = 40;

/// The entrance of one listener: its limits and rules.
pub(super) struct Entrance {
    slots: Arc<Slots>,
    refusing: Arc<Semaphore>,
    pub(super) proxies: Arc<Proxies>,
    /// Each connection begins with the PROXY protocol, and comes from a trusted proxy.
    pub(super) proxy_protocol: bool,
    /// From the first byte to the end of the sign-in.
    pub(super) sign_in_timeout: Duration,
}

pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    /// The other end of the socket.
    pub(super) peer: SocketAddr,
    /// The deadline of the sign-in, at which the connection is closed.
    pub(super) deadline: Instant,
    /// Released when the connection ends.
    pub(super) place: Place,
}

/// A place that a connection holds while it is open.
pub(super) enum Place {
    Slot(Slot),
    /// There was no slot, or it was given back: the connection stays only to be told so, and for health checks.
    Refusing(#[expect(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit, Refusal),
}

/// Accepts connections of one listener. Never returns.
pub(super) async fn run<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    name: &'static str,
    entrance: Arc<Entrance>,
    tasks: Tasks,
    handle: impl Fn(Accepted) -> F,
) {
    let mut accepting = Accepting::new(listener, name);
    loop {
        let (stream, peer) = accepting.next().await;
        let Some(place) = entrance.place() else { continue };
        let deadline = Instant::now() + entrance.time(&place);
        tasks.spawn("client-connection", handle(Accepted { stream, peer, deadline, place }));
    }
}

impl Place {
    /// Counts the connection for this address; an error says why it is refused. With `None` (a trusted proxy) it counts
    /// for no address.
    pub(super) fn belongs_to(&mut self, address: Option<IpAddr>) -> Result<(), Refusal> {
        match self {
            Self::Slot(slot) => match address {
                None => Ok(()),
                Some(address) => slot.belongs_to(address),
            },
            Self::Refusing(_, why) => Err(*why),
        }
    }
}

impl Entrance {
    pub(super) fn new(
        slots: Arc<Slots>,
        proxies: Arc<Proxies>,
        proxy_protocol: bool,
        sign_in_timeout: Duration,
    ) -> Self {
        Self { slots, refusing: Arc::new(Semaphore::new(REFUSING)), proxies, proxy_protocol, sign_in_timeout }
    }

    /// A place for a new connection; `None` if even all places for refused ones are taken.
    pub(super) fn place(&self) -> Option<Place> {
        self.slots.take().map(Place::Slot).or_else(|| self.refusing(Refusal::Full))
    }

    /// A slot for a gRPC stream, whose connection has a place of its own.
    pub(super) fn slot(&self, address: IpAddr) -> Result<Slot, Refusal> {
        let mut slot = self.slots.take().ok_or(Refusal::Full)?;
        slot.belongs_to(address).map(|()| slot)
    }

    /// Gives back the slot of a refused connection and takes a place for refused ones; `None` if there is none: the
    /// caller closes without a message.
    pub(super) fn give_back(&self, place: Place, why: Refusal) -> Option<Place> {
        match place {
            Place::Slot(slot) => {
                drop(slot);
                self.refusing(why)
            }
            Place::Refusing(..) => Some(place),
        }
    }

    fn refusing(&self, why: Refusal) -> Option<Place> {
        let turn = Arc::clone(&self.refusing).try_acquire_owned().ok()?;
        Some(Place::Refusing(turn, why))
    }

    /// The time for the sign-in, or for the refusal.
    pub(super) fn time(&self, place: &Place) -> Duration {
        match place {
            Place::Slot(_) => self.sign_in_timeout,
            Place::Refusing(..) => REFUSAL.min(self.sign_in_timeout),
        }
    }

    /// The client's address, from the socket and the PROXY protocol. `None`: the caller closes the connection.
    pub(super) async fn source(&self, accepted: &mut Accepted) -> Option<IpAddr> {
        let peer = accepted.peer.ip().to_canonical();
        if !self.proxy_protocol {
            return Some(peer);
        }
        // Boxed: most listeners have no proxy that speaks it.
        let read = Box::pin(async {
            self.check_proxy(peer)?;
            let mut reader = Reader::default();
            poll_fn(|cx| reader.poll(&mut accepted.stream, cx)).await
        });
        let source = timeout_at(accepted.deadline.into(), read).await.ok()?;
        self.client_of(peer, source).ok()
    }

    /// An error unless the peer is a trusted proxy.
    pub(super) fn check_proxy(&self, peer: IpAddr) -> io::Result<()> {
        if self.proxies.trust(peer) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "not one of gateway.proxies.trusted"))
    }

    /// The client that the PROXY header names. A missing header is an error, and is logged.
    pub(super) fn client_of(&self, peer: IpAddr, source: io::Result<Source>) -> io::Result<IpAddr> {
        match source {
            Ok(Source::Client(client)) => Ok(client.to_canonical()),
            Ok(Source::Proxy) => Ok(peer),
            Err(error) => {
                /// Limits the log lines: strangers can send any number of invalid headers.
                static TOLD: LazyLock<Seldom> = LazyLock::new(|| Seldom::new(3, Duration::from_secs(30)));
                // A proxy's health check sends nothing.
                if error.kind() != io::ErrorKind::UnexpectedEof
                    && let Some(left_out) = TOLD.turn(Instant::now())
                {
                    tracing::warn!(%peer, %error, left_out, "connection refused: this listener needs the PROXY protocol");
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::slots::Common;

    #[test]
    fn only_so_many_are_refused_at_a_time() {
        let slots = Slots::new(&Common::new(10, 1), "one", 3, false);
        let entrance = Entrance::new(slots, Arc::new(Proxies::default()), false, Duration::from_secs(10));
        let address = "192.0.2.1".parse().expect("an address");
        let mut held: Vec<_> = std::iter::from_fn(|| entrance.place()).collect();
        assert_eq!(held.len(), 3 + REFUSING);
        let (mut first, mut second) = (held.remove(0), held.remove(0));
        assert_eq!(first.belongs_to(Some(address)), Ok(()));
        assert_eq!(second.belongs_to(Some(address)), Err(Refusal::Crowded));
        let mut refused = held.pop().expect("refused");
        assert_eq!(refused.belongs_to(Some(address)), Err(Refusal::Full));
        // Nobody is refused on a slot, which is for others.
        assert!(entrance.give_back(second, Refusal::Crowded).is_none(), "all turns are taken");
        drop(refused);
        assert!(matches!(entrance.place(), Some(Place::Slot(_))));
        assert!(matches!(entrance.give_back(first, Refusal::Crowded), Some(Place::Refusing(_, Refusal::Crowded))));
    }
}
