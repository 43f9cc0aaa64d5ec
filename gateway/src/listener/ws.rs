//! The WebSocket handshake.

use std::{net::IpAddr, sync::Arc, time::Instant};

use carillon_proto::pb::store::session::Protocol;
use hyper::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout_at,
};
use tokio_rustls::TlsAcceptor;

use super::{
    accept::{Accepted, Entrance, Place},
    http::{Socket, Upgraded, serve_until_upgrade},
    refusal::Refusal,
    site::Site,
};
use crate::{
    connection::{self, Arrival, Shared},
    transport::ws::WsTransport,
};

pub(super) async fn serve(
    shared: Arc<Shared>,
    site: Arc<Site>,
    acceptor: Option<TlsAcceptor>,
    entrance: Arc<Entrance>,
    mut accepted: Accepted,
) {
    let Some(peer) = entrance.source(&mut accepted).await else { return };
    let Accepted { stream, mut deadline, mut place, .. } = accepted;
    // A proxy's connections belong to its clients, which the headers name.
    if !entrance.proxies.trust(peer)
        && let Err(refusal) = place.belongs_to(Some(peer))
    {
        // Gives the slot to others.
        let Some(kept) = entrance.give_back(place, refusal) else { return };
        place = kept;
        deadline = deadline.min(Instant::now() + entrance.time(&place));
    }
    let mut client = ClientAddress { entrance, peer, address: peer, place: &mut place };
    // Each stage is boxed, so that a connection holds only its current one. The matches are on boxes, too: what is
    // matched on keeps its room until the end of the match.
    match acceptor {
        None => {
            let shaken = Box::pin(shake(stream, &site, deadline.into(), &mut client)).await;
            let arrival = Arrival { protocol: Protocol::Websocket, address: client.address, deadline };
            if let Some(served) = shaken.map(|transport| Box::pin(connection::serve(shared, transport, arrival))) {
                served.await;
            }
        }
        Some(acceptor) => {
            let both = async {
                // A client that does not finish the handshake in time is closed without a message.
                let stream = timeout_at(deadline.into(), acceptor.accept(stream)).await.ok()?.ok()?;
                shake(stream, &site, deadline.into(), &mut client).await
            };
            let shaken = Box::pin(both).await;
            let arrival = Arrival { protocol: Protocol::Websocket, address: client.address, deadline };
            if let Some(served) = shaken.map(|transport| Box::pin(connection::serve(shared, transport, arrival))) {
                served.await;
            }
        }
    }
    drop(place);
}

/// The client's address: the peer's, until the headers of a trusted proxy say more.
struct ClientAddress<'a> {
    entrance: Arc<Entrance>,
    peer: IpAddr,
    address: IpAddr,
    place: &'a mut Place,
}

impl ClientAddress<'_> {
    fn hear(&mut self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.address = self.entrance.proxies.client(self.peer, headers);
        self.place.belongs_to(Some(self.address))
    }
}

/// `None` if the client did not ask for a WebSocket, or was refused and told so.
async fn shake<S: AsyncRead + AsyncWrite + Socket + Unpin + Send>(
    stream: S,
    site: &Site,
    deadline: tokio::time::Instant,
    client: &mut ClientAddress<'_>,
) -> Option<WsTransport<S>> {
    let admit = |headers: &HeaderMap| client.hear(headers);
    let Upgraded { stream, early, format } = serve_until_upgrade(stream, site, deadline, admit).await?;
    Some(WsTransport::new(stream, early, format))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        listener::origin::Origins,
        transport::ws::{MessageSocket, SocketEvent},
    };
    use carillon_proto::{Readiness, tasks::Tasks};
    use std::{future::poll_fn, time::Duration};
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };
    use tokio_tungstenite::tungstenite::Message;

    /// Of the suite's largest message.
    const MAX_MESSAGE: usize = 16 * 1024 * 1024;

    /// The real handshake and the real WebSocket layer, which gives back what comes: what the Autobahn test suite asks
    /// for, and the service's own frames can't give.
    #[tokio::test]
    #[ignore = "a server for .ci/websocket; runs until its standard input ends"]
    async fn echoes_for_the_autobahn_test_suite() {
        let address = std::env::var("CARILLON_ECHO_LISTEN").expect("CARILLON_ECHO_LISTEN is host:port");
        let listener = TcpListener::bind(address).await.expect("listens");
        let (_tell, ready) = tokio::sync::watch::channel(Readiness::Ready);
        let site = Arc::new(Site { origins: Origins::default(), ready, media: None });
        let tasks = Tasks::new();
        let (echoing, site) = (tasks.clone(), Arc::clone(&site));
        tasks.spawn("echo-listener", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let site = Arc::clone(&site);
                echoing.spawn("echo", async move { echo(stream, &site).await });
            }
        });
        println!("echoes");
        // Until whoever started it is gone.
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        tasks.finish(Duration::from_secs(1)).await;
    }

    async fn echo(stream: TcpStream, site: &Site) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let admitted = serve_until_upgrade(stream, site, deadline.into(), |_| Ok(())).await;
        let Some(Upgraded { stream, early, .. }) = admitted else { return };
        let mut socket = MessageSocket::new(stream, early, MAX_MESSAGE);
        loop {
            match poll_fn(|cx| socket.poll(cx, true)).await {
                SocketEvent::Message(message @ (Message::Text(_) | Message::Binary(_))) => socket.queue(message),
                SocketEvent::Message(_) | SocketEvent::Flushed => {}
                SocketEvent::Failed(..) | SocketEvent::Ended => break,
            }
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), poll_fn(|cx| socket.poll_close(cx))).await;
    }
}
