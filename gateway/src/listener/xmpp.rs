//! Streams of XMPP.

use std::{sync::Arc, time::Instant};

use carillon_proto::pb::store::session::Protocol;
use rand::RngExt as _;
use tokio_rustls::TlsAcceptor;

use super::{
    accept::{Accepted, Entrance},
    refusal::refuse_with,
    tls::{Tls, XmppTlsSide},
};
use crate::{
    connection::{Arrival, Shared, now, serve as serve_connection},
    dialect::xmpp::{Seed, Service, refusal},
    transport::xmpp::stream::XmppStream,
};

/// A listener for streams of XMPP.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) shared: Arc<Shared>,
    pub(super) service: Arc<Service>,
    /// `None`: a proxy in front ends TLS.
    pub(super) tls: Option<Arc<Tls>>,
    /// Streams are inside TLS from their first byte on.
    pub(super) is_direct: bool,
    pub(super) entrance: Arc<Entrance>,
}

pub(super) async fn serve(streams: Streams, mut accepted: Accepted) {
    let Streams { shared, service, tls, is_direct, entrance } = streams;
    let Some(address) = entrance.source(&mut accepted).await else { return };
    let Accepted { stream, deadline, mut place, .. } = accepted;
    let side = tls.map(|tls| tls.xmpp());
    if let Err(refused) = place.belongs_to(Some(address)) {
        // Gives the slot to others.
        let Some(place) = entrance.give_back(place, refused) else { return };
        let deadline = deadline.min(Instant::now() + entrance.time(&place));
        let direct = |side: XmppTlsSide| TlsAcceptor::from(side.config);
        let acceptor = side.filter(|_| is_direct).map(direct);
        let words = refusal(service, seed(), refused.text(), now());
        return Box::pin(refuse_with(&words, stream, acceptor, deadline)).await;
    }
    let arrival = Arrival { protocol: Protocol::Xmpp, address, deadline };
    let transport = XmppStream::new(stream, service, seed(), side, is_direct);
    Box::pin(serve_connection(shared, transport, arrival)).await;
    drop(place);
}

fn seed() -> Seed {
    Seed::new(rand::rng().random())
}
