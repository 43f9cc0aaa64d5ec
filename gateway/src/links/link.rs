//! The link to one router: a stream in each direction, opened again whenever it breaks.

use std::{sync::Arc, time::Duration};

use carillon_proto::{
    Batches, limits,
    pb::{
        link::{FromRouter, Hello, RouterRequest, ToRouter, router_client::RouterClient, router_request::Op},
        store::NodeKind,
    },
    peer::{PeerError, PeerSecurity, cause},
    stream::Incoming,
    waiting::Waiting,
};
use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tonic::Status;

use super::{Event, Hearing, dispatch::Input};
use crate::jitter::jittered;

/// To open the stream and hear the first word.
const OPEN: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Link {
    pub(crate) address: Arc<str>,
    pub(crate) security: PeerSecurity,
    pub(crate) lease: watch::Receiver<Option<u64>>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) hearing: Hearing,
    pub(crate) max_pending: usize,
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{}", cause(.0))]
    Status(#[from] Status),
    #[error("router did not open the link within {} s", OPEN.as_secs())]
    Slow,
    #[error("router closed the link")]
    Closed,
}

impl Link {
    /// For ever.
    pub(crate) async fn run(mut self) {
        let mut pause = SHORTEST_PAUSE;
        let mut waiting = Waiting::new("a router's link");
        loop {
            let Some(lease) = *self.lease.borrow_and_update() else {
                if self.lease.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let mut was_up = false;
            let ended = self.attempt(lease, &mut was_up).await;
            if was_up {
                waiting.over();
            }
            match ended {
                // Another lease: say hello again, at once.
                Ok(()) => pause = Duration::ZERO,
                Err(error) if was_up => {
                    tracing::info!(router = %self.address, %error, "router link lost");
                    pause = SHORTEST_PAUSE;
                }
                Err(error) => {
                    waiting.still(&self.address, error);
                    pause = (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                }
            }
            if was_up && self.events.send(Event::Dispatch(Input::Down(Arc::clone(&self.address)))).await.is_err() {
                return;
            }
            sleep(jittered(pause)).await;
        }
    }

    /// Opens the link and keeps it until it breaks, or another lease runs.
    async fn attempt(&self, lease: u64, was_up: &mut bool) -> Result<(), LinkError> {
        let channel = self.security.channel(&self.address)?;
        let mut client = RouterClient::with_interceptor(channel, self.security.token())
            .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_NODE_MESSAGE_BYTES);
        // Never full: it has room for all that may be pending; a request beyond is refused as overload.
        let (sender, requests) = mpsc::channel(self.max_pending);
        let hello = Hello { lease, kind: NodeKind::Gateway.into() };
        let first = ToRouter { hello: Some(hello), ..Default::default() };
        let rest = Batches::new(requests, size).map(|requests| ToRouter { requests, ..Default::default() });
        let outbound = stream::iter([first]).chain(rest);
        let open = async {
            let mut inbound = match self.security.near(&self.address) {
                Some(router) => router.open(outbound)?,
                None => Incoming::from(client.link(outbound).await?.into_inner()),
            };
            let first = inbound.message().await?.ok_or(LinkError::Closed)?;
            Ok::<_, LinkError>((inbound, first))
        };
        let (inbound, first) = timeout(OPEN, open).await.map_err(|_| LinkError::Slow)??;
        self.receive(first).await?;
        let up = Event::Up(Arc::clone(&self.address), sender);
        self.events.send(up).await.map_err(|_| LinkError::Closed)?;
        *was_up = true;
        tracing::info!(router = %self.address, lease, "router link open");
        let mut watched = self.lease.clone();
        tokio::select! {
            result = self.read(inbound) => result,
            _ = watched.wait_for(|now| now.is_some_and(|now| now != lease)) => Ok(()),
        }
    }

    async fn read(&self, mut inbound: Incoming<FromRouter>) -> Result<(), LinkError> {
        while let Some(message) = inbound.message().await? {
            self.receive(message).await?;
        }
        Err(LinkError::Closed)
    }

    async fn receive(&self, message: FromRouter) -> Result<(), LinkError> {
        let FromRouter { registry, replies, pushes, evictions } = message;
        for push in pushes {
            self.hearing.feeding.pushed(push);
        }
        for evict in evictions {
            if let Some(mailbox) = self.hearing.connections.get(evict.connection) {
                mailbox.over(evict.why());
            }
        }
        let registry = registry.map(Input::Registry);
        let replies = (!replies.is_empty()).then(|| Input::Replies(Arc::clone(&self.address), replies));
        for input in [registry, replies].into_iter().flatten() {
            self.events.send(Event::Dispatch(input)).await.map_err(|_| LinkError::Closed)?;
        }
        Ok(())
    }
}

/// About how many bytes it takes.
fn size(request: &RouterRequest) -> usize {
    match &request.op {
        Some(Op::Send(send)) => 256 + send.content.len(),
        _ => 256,
    }
}
