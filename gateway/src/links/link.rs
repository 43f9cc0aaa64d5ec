//! The link to one router: a stream in each direction, reopened whenever it breaks.

use std::{pin::pin, sync::Arc, time::Duration};

use carillon_proto::{
    Batches, Readiness, Ready, Woken, clock, limits, pause,
    pb::{
        client::Code,
        link::{
            DirectAnswer, FromRouter, GatewayDescription, Hello, RouterRequest, Signaled, ToRouter, direct_answer,
            router_client::RouterClient, router_request::Op, signaled::Notice,
        },
        store::NodeKind,
    },
    peer::{PeerError, PeerSecurity, cause},
    queues,
    stream::Incoming,
    tasks::Tasks,
    waiting::Waiting,
};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    DirectedRequest, Event, Hearing, ToLink,
    dispatch::Word,
    follows::GroupFollows,
    parts::{LinkHandle, Partitions},
};
use crate::outcome::refusal;

/// Deadline for opening the stream and receiving the first message.
const OPEN: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct RouterLink {
    pub(crate) address: Arc<str>,
    pub(crate) security: PeerSecurity,
    pub(crate) lease: watch::Receiver<Option<u64>>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) parts: Arc<Partitions>,
    pub(crate) hearing: Hearing,
    pub(crate) max_pending: usize,
    pub(crate) ready: Ready,
    pub(crate) tasks: Tasks,
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
    #[error("too much waits for the router")]
    Full,
}

impl RouterLink {
    /// Runs until it is cancelled.
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
                // A new lease: say hello again at once.
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
            self.hearing.census.down(&self.address);
            if was_up && self.events.send(Event::Down(Arc::clone(&self.address))).await.is_err() {
                return;
            }
            clock::sleep(pause::around(pause)).await;
        }
    }

    /// Opens the link and keeps it until it breaks, or the lease changes.
    async fn attempt(&self, lease: u64, was_up: &mut bool) -> Result<(), LinkError> {
        // When it is full, a request is refused as overload, and for other messages the link is cut.
        let (sender, outbound) = mpsc::channel(self.max_pending);
        queues::watch("gateway_requests", &sender);
        let hello = Hello { lease, kind: NodeKind::Gateway.into() };
        let first = ToRouter { hello: Some(hello), ..Default::default() };
        let rest = Batches::new(outbound, size).flat_map(|batch| stream::iter(messages(batch)));
        let outbound = stream::iter([first]).chain(rest);
        // Kept as long as the link.
        let mut client = None;
        let open = async {
            let mut inbound = match self.security.near(&self.address) {
                Some(router) => router.open(outbound)?,
                None => {
                    let channel = self.security.channel(&self.address)?;
                    let client = client.insert(
                        RouterClient::with_interceptor(channel, self.security.token())
                            .max_decoding_message_size(limits::MAX_NODE_MESSAGE_BYTES)
                            .max_encoding_message_size(limits::MAX_NODE_MESSAGE_BYTES),
                    );
                    Incoming::from(client.link(outbound).await?.into_inner())
                }
            };
            let first = inbound.message().await?.ok_or(LinkError::Closed)?;
            Ok::<_, LinkError>((inbound, first))
        };
        let (inbound, first) = clock::timeout(OPEN, open).await.ok_or(LinkError::Slow)??;
        let cut = CancellationToken::new();
        let way = LinkHandle { queue: sender, cut: cut.clone() };
        self.receive(first, &way).await?;
        let up = Event::Up(Arc::clone(&self.address), way.clone());
        self.events.send(up).await.map_err(|_| LinkError::Closed)?;
        *was_up = true;
        tracing::info!(router = %self.address, lease, "router link open");
        let mut watched = self.lease.clone();
        let another = pin!(watched.wait_for(|now| now.is_some_and(|now| now != lease)));
        let cancelled = pin!(cut.cancelled());
        let draining = pin!(tell_drain(self.ready.clone(), &way));
        tokio::select! {
            biased;
            () = Woken::new(cancelled) => Err(LinkError::Full),
            () = Woken::new(draining) => Err(LinkError::Closed),
            _ = Woken::new(another) => Ok(()),
            result = self.read(inbound, &way) => result,
        }
    }

    async fn read(&self, mut inbound: Incoming<FromRouter>, way: &LinkHandle) -> Result<(), LinkError> {
        while let Some(message) = inbound.message().await? {
            self.receive(message, way).await?;
        }
        Err(LinkError::Closed)
    }

    async fn receive(&self, message: FromRouter, way: &LinkHandle) -> Result<(), LinkError> {
        let FromRouter { registry, replies, pushes, evictions, behind, signals, directed, describe, load } = message;
        if let Some(load) = load {
            self.hearing.census.told(&self.address, load);
        }
        for push in pushes {
            self.hearing.feeding.pushed(push);
        }
        for behind in behind {
            self.hearing.feeding.behind(behind);
        }
        for signal in signals {
            let signal = match signal {
                Signaled { connections, notice: Some(Notice::Presences(told)), .. } => {
                    self.hearing.presences.told(&connections, told, clock::now().into_std());
                    continue;
                }
                signal => Arc::new(signal),
            };
            if let Some(group) = of_group(&signal) {
                self.hearing.feeding.signaled(group, &signal);
            }
            for connection in &signal.connections {
                if let Some(mailbox) = self.hearing.connections.get(*connection) {
                    mailbox.signal(Arc::clone(&signal));
                }
            }
        }
        for directed in directed {
            let asked = DirectedRequest::new(&directed, way);
            match self.hearing.connections.get(directed.connection) {
                Some(mailbox) => mailbox.directed(directed, asked),
                None => asked.answer(Err(refusal(Code::Unavailable, "the connection has ended", 500))),
            }
        }
        for id in describe {
            self.describe(id, way);
        }
        for evict in evictions {
            if let Some(mailbox) = self.hearing.connections.get(evict.connection) {
                mailbox.over(evict.why());
            }
        }
        let (followed, replies): (Vec<_>, Vec<_>) = match replies.iter().any(GroupFollows::is_answer) {
            true => replies.into_iter().partition(GroupFollows::is_answer),
            false => (Vec::new(), replies),
        };
        if !replies.is_empty() {
            self.parts.replies(&self.address, replies);
        }
        for reply in followed {
            let event = Event::Followed(Arc::clone(&self.address), reply);
            self.events.send(event).await.map_err(|_| LinkError::Closed)?;
        }
        if let Some(view) = registry {
            self.events.send(Event::Registry(view)).await.map_err(|_| LinkError::Closed)?;
        }
        Ok(())
    }
}

/// The group for whose followers the signal is.
fn of_group(signal: &Signaled) -> Option<&str> {
    match &signal.notice {
        Some(Notice::ChatState(told)) if !told.group.is_empty() => Some(&told.group),
        _ => None,
    }
}

impl RouterLink {
    /// Tells the router what this process tells of itself. Without room the router's question runs out of time.
    fn describe(&self, id: u64, way: &LinkHandle) {
        let Some(diagnostics) = self.security.diagnostics().cloned() else { return };
        let queue = way.queue.clone();
        self.tasks.spawn("gateway-description", async move {
            if let Ok(description) = diagnostics.describe().await {
                let told = GatewayDescription { id, description: Some(description) };
                let _ = queue.try_send(ToLink::Description(Box::new(told)));
            }
        });
    }
}

/// Tells the router when this gateway stops. Never ends.
async fn tell_drain(mut ready: Ready, way: &LinkHandle) {
    if ready.wait_for(|ready| *ready == Readiness::Draining).await.is_ok() {
        // Without room the link is cut soon.
        let _ = way.queue.try_send(ToLink::Draining);
    }
    std::future::pending().await
}

/// Keeps the order of the batch: in a message, sessions to forget come before the requests, and the end of the
/// announcements after them.
fn messages(batch: Vec<ToLink>) -> Vec<ToRouter> {
    let mut messages = vec![ToRouter { requests: Vec::with_capacity(batch.len()), ..ToRouter::default() }];
    for item in batch {
        let full = messages.last().is_none_or(|last| match &item {
            ToLink::Word(Word::Forget(_)) => !last.requests.is_empty() || last.announced_all != 0,
            ToLink::Request(_) => last.announced_all != 0,
            ToLink::Word(Word::AnnouncedAll(_)) | ToLink::Answer(_) | ToLink::Description(_) | ToLink::Draining => {
                false
            }
        });
        if full {
            messages.push(ToRouter::default());
        }
        let Some(last) = messages.last_mut() else { continue };
        match item {
            ToLink::Request(request) => last.requests.push(request),
            ToLink::Word(Word::Forget(forget)) => last.forgets.push(forget),
            ToLink::Word(Word::AnnouncedAll(version)) => last.announced_all = version,
            ToLink::Answer(answer) => last.direct_answers.push(answer),
            ToLink::Description(told) => last.descriptions.push(*told),
            ToLink::Draining => last.draining = true,
        }
    }
    messages
}

/// Approximate encoded size, in bytes.
fn size(item: &ToLink) -> usize {
    match item {
        ToLink::Request(RouterRequest { op: Some(Op::Send(send)), .. }) => 256 + send.content.len(),
        ToLink::Request(RouterRequest { op: Some(Op::Direct(direct)), .. }) => 256 + direct.body.len(),
        ToLink::Answer(DirectAnswer { result: Some(direct_answer::Result::Body(body)), .. }) => 256 + body.len(),
        ToLink::Description(told) => 256 + told.encoded_len(),
        ToLink::Request(_) | ToLink::Word(_) | ToLink::Answer(_) | ToLink::Draining => 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::link::Forget;

    #[test]
    fn messages_keep_the_order_of_what_is_said() {
        let request = |id| ToLink::Request(RouterRequest { id, ..Default::default() });
        let forget = |connection| ToLink::Word(Word::Forget(Forget { user: String::new(), connection }));
        let all = |version| ToLink::Word(Word::AnnouncedAll(version));
        let said = messages(vec![forget(1), request(2), request(3), forget(4), all(5), request(6), all(7), all(8)]);
        let short = |message: &ToRouter| {
            let forgets: Vec<u64> = message.forgets.iter().map(|forget| forget.connection).collect();
            let requests: Vec<u64> = message.requests.iter().map(|request| request.id).collect();
            (forgets, requests, message.announced_all)
        };
        let said: Vec<_> = said.iter().map(short).collect();
        assert_eq!(said, [(vec![1], vec![2, 3], 0), (vec![4], vec![], 5), (vec![], vec![6], 8)]);
    }
}
