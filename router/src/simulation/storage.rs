//! The storage nodes' ends of a router's streams.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use carillon_proto::{
    Wakes,
    pb::store::{FromStore, StoreReply, StoreRequest, ToStore},
    peer::{PeerSecurity, Tier},
    stream::{Calls, CallsEnd, Incoming, Serving, Tell},
};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

/// Streams that were opened, with the addresses of the nodes.
#[derive(Clone, Default)]
pub(super) struct Opened(Arc<Mutex<Vec<(String, Stream)>>>);

pub(super) struct Stream {
    way: Way,
    wakes: Wakes,
    /// Requests of the batch that was taken last.
    taken: VecDeque<StoreRequest>,
}

enum Way {
    /// As between processes.
    Messages { said: Incoming<ToStore>, says: mpsc::UnboundedSender<FromStore> },
    /// As within a process. Dropping `_end` ends the stream.
    Calls { said: mpsc::UnboundedReceiver<StoreRequest>, tell: Tell<StoreReply>, _end: CallsEnd },
}

const CALLERS: &[Tier] = &[Tier::Router];

impl Opened {
    pub(super) fn take(&self) -> Vec<(String, Stream)> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Lets streams of messages be opened to a node, while it is up.
    pub(super) fn by_messages(self, security: &PeerSecurity, node: &str, is_up: Arc<AtomicBool>) -> Option<Serving> {
        let address = node.to_owned();
        security.serve_near([node.to_owned()], CALLERS, move |_, said| {
            let (says, heard) = mpsc::unbounded_channel();
            self.add(&address, &is_up, Way::Messages { said, says })?;
            Ok(UnboundedReceiverStream::new(heard).map(Ok).boxed())
        })
    }

    /// Lets streams of calls be opened to a node, while it is up.
    pub(super) fn by_calls(self, security: &PeerSecurity, node: &str, is_up: Arc<AtomicBool>) -> Option<Serving> {
        let address = node.to_owned();
        security.serve_calls([node.to_owned()], CALLERS, move |_, tell| {
            let (say, said) = mpsc::unbounded_channel();
            let (calls, end) = Calls::new(move |request| say.send(request).is_ok());
            self.add(&address, &is_up, Way::Calls { said, tell, _end: end })?;
            Ok(calls)
        })
    }

    fn add(&self, address: &str, is_up: &AtomicBool, way: Way) -> Result<(), Status> {
        if !is_up.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the node is down"));
        }
        let stream = Stream { way, wakes: Wakes::default(), taken: VecDeque::new() };
        self.0.lock().push((address.to_owned(), stream));
        Ok(())
    }
}

impl Stream {
    pub(super) fn is_called(&self) -> bool {
        self.wakes.called()
    }

    /// The next request that waits; `None` when there is none now.
    pub(super) fn next(&mut self) -> Option<StoreRequest> {
        loop {
            if let Some(request) = self.taken.pop_front() {
                return Some(request);
            }
            match self.wakes.poll(|context| self.way.poll(context)) {
                Poll::Ready(Some(requests)) => self.taken.extend(requests),
                Poll::Ready(None) | Poll::Pending => return None,
            }
        }
    }

    pub(super) fn says(&self, reply: StoreReply) {
        match &self.way {
            // The router may have left the stream.
            Way::Messages { says, .. } => drop(says.send(FromStore { replies: vec![reply] })),
            Way::Calls { tell, .. } => tell(reply),
        }
    }
}

impl Way {
    /// `None`: the router has ended the stream.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<StoreRequest>>> {
        match self {
            Self::Messages { said, .. } => pin!(said.message()).poll(context).map(|said| {
                let said = said.expect("no message of a router is an error");
                said.map(|ToStore { requests }| requests)
            }),
            Self::Calls { said, .. } => said.poll_recv(context).map(|said| said.map(|request| vec![request])),
        }
    }
}
