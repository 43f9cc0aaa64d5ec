//! Streams of messages between two nodes, both ways: over gRPC, or, when both are in one process, of the messages as they
//! are, which nobody encodes, frames and decodes. See docs/adr/0009-streams-in-one-process.md.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tonic::{Status, Streaming};

use crate::peer::Tier;

/// What a node says on a stream.
pub type Messages<T> = BoxStream<'static, Result<T, Status>>;

/// What the other side says.
pub struct Incoming<T>(Way<T>);

enum Way<T> {
    // Boxed, as it is many times as large.
    Wire(Box<Streaming<T>>),
    Near(Messages<T>),
}

/// Those of this process who take streams, by address and by the kinds of messages.
#[derive(Clone, Default)]
pub(crate) struct Services(Table);

type Table = Arc<Mutex<HashMap<Key, Arc<dyn Any + Send + Sync>>>>;
type Key = (String, TypeId);

/// Who takes streams of `A` at an address, and answers with `B`.
struct Service<A, B> {
    allowed: &'static [Tier],
    open: Box<Open<A, B>>,
}

type Open<A, B> = dyn Fn(Tier, Incoming<A>) -> Result<Messages<B>, Status> + Send + Sync;

/// A node of this process. Opened once.
pub struct Near<A, B> {
    service: Arc<Service<A, B>>,
    caller: Tier,
}

/// Until it is dropped, streams are taken.
#[must_use]
pub struct Serving {
    keys: Vec<Key>,
    services: Table,
}

impl<T> Incoming<T> {
    /// None: it has said all. Cancel-safe.
    pub async fn message(&mut self) -> Result<Option<T>, Status> {
        match &mut self.0 {
            Way::Wire(messages) => messages.message().await,
            Way::Near(messages) => messages.next().await.transpose(),
        }
    }
}

impl<T> From<Streaming<T>> for Incoming<T> {
    fn from(messages: Streaming<T>) -> Self {
        Self(Way::Wire(Box::new(messages)))
    }
}

impl Services {
    pub(crate) fn serve<A: 'static, B: 'static>(
        &self,
        addresses: impl IntoIterator<Item = String>,
        allowed: &'static [Tier],
        open: impl Fn(Tier, Incoming<A>) -> Result<Messages<B>, Status> + Send + Sync + 'static,
    ) -> Serving {
        let service: Arc<dyn Any + Send + Sync> = Arc::new(Service { allowed, open: Box::new(open) });
        let keys: Vec<Key> = addresses.into_iter().map(|address| key::<A, B>(&address)).collect();
        self.0.lock().extend(keys.iter().map(|key| (key.clone(), Arc::clone(&service))));
        Serving { keys, services: Arc::clone(&self.0) }
    }

    pub(crate) fn find<A: 'static, B: 'static>(&self, address: &str, caller: Tier) -> Option<Near<A, B>> {
        let service = self.0.lock().get(&key::<A, B>(address)).cloned()?;
        Some(Near { service: service.downcast().ok()?, caller })
    }
}

fn key<A: 'static, B: 'static>(address: &str) -> Key {
    (address.to_owned(), TypeId::of::<(A, B)>())
}

impl<A: Send + 'static, B: Send + 'static> Near<A, B> {
    /// The node takes from `says` when it has room for more, as it reads from a connection.
    pub fn open(self, says: impl Stream<Item = A> + Send + 'static) -> Result<Incoming<B>, Status> {
        let Service { allowed, open } = &*self.service;
        if !allowed.contains(&self.caller) {
            return Err(Status::permission_denied(format!("the {} token does not open this", self.caller)));
        }
        open(self.caller, Incoming(Way::Near(says.map(Ok).boxed()))).map(|answers| Incoming(Way::Near(answers)))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut services = self.services.lock();
        for key in &self.keys {
            services.remove(key);
        }
    }
}
