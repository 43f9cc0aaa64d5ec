//! Bidirectional streams of messages between two nodes: over gRPC, or, within one process, as the messages themselves,
//! without encoding and framing, or as function calls, which wake no task. See docs/adr/0009-streams-in-one-process.md.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::{Status, Streaming};

use crate::tier::Tier;

/// The messages that a node sends on a stream.
pub type Messages<T> = BoxStream<'static, Result<T, Status>>;

/// The messages that a node receives on a stream.
pub struct Incoming<T>(Way<T>);

enum Way<T> {
    // Boxed, because it is many times larger than the other variant.
    Wire(Box<Streaming<T>>),
    Near(Messages<T>),
}

/// The stream services of this process, by address and message types.
#[derive(Clone, Default)]
pub(crate) struct Services(Table);

type Table = Arc<Mutex<HashMap<Key, Arc<dyn Any + Send + Sync>>>>;
type Key = (String, TypeId);

/// A service at one address. `F` opens one of its streams.
struct Service<F: ?Sized> {
    allowed: &'static [Tier],
    open: Box<F>,
}

/// Opens a stream that receives messages of `A` and answers with `B`.
type Open<A, B> = dyn Fn(Tier, Incoming<A>) -> Result<Messages<B>, Status> + Send + Sync;
type OpenCalls<A, B> = dyn Fn(Tier, Tell<B>) -> Result<Calls<A>, Status> + Send + Sync;

/// A stream service in this process. One value opens one stream.
pub struct Near<A, B>(Found<Open<A, B>>);

/// A service in this process whose streams are calls. One value opens one stream.
pub struct NearCalls<A, B>(Found<OpenCalls<A, B>>);

struct Found<F: ?Sized> {
    service: Arc<Service<F>>,
    caller: Tier,
}

/// The caller's function that takes one answer, on any thread. It must not wait.
pub type Tell<B> = Arc<dyn Fn(B) + Send + Sync>;

/// The caller's end of a stream in which each message is a function call. Answers may come before the call returns. Dropping
/// `ended` ends the stream.
pub struct Calls<A> {
    /// Passes one message to the node. False if the node did not take it: it has no room, or the stream has ended.
    pub say: Box<dyn Fn(A) -> bool + Send + Sync>,
    /// Resolves when the node has ended the stream.
    pub ended: BoxFuture<'static, ()>,
}

/// The node's end of [`Calls`]. Dropping it ends the stream.
pub struct CallsEnd(oneshot::Sender<()>);

/// Keeps a service registered. Dropping it removes the service.
#[must_use]
pub struct Serving {
    keys: Vec<Key>,
    service: Arc<dyn Any + Send + Sync>,
    services: Table,
}

impl<T> Incoming<T> {
    /// The next message; `None` when the other side has closed its half. Cancel-safe.
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

impl<A> Calls<A> {
    /// `say` is the field of this name.
    pub fn new(say: impl Fn(A) -> bool + Send + Sync + 'static) -> (Self, CallsEnd) {
        let (end, ended) = oneshot::channel();
        let ended = Box::pin(async move {
            // Nothing is ever sent; the sender is dropped.
            let _ = ended.await;
        });
        (Self { say: Box::new(say), ended }, CallsEnd(end))
    }
}

impl CallsEnd {
    /// Resolves when the caller has dropped `Calls::ended`.
    pub async fn left(&mut self) {
        self.0.closed().await;
    }
}

impl<T> From<Messages<T>> for Incoming<T> {
    fn from(messages: Messages<T>) -> Self {
        Self(Way::Near(messages))
    }
}

impl Services {
    pub(crate) fn serve<A: 'static, B: 'static>(
        &self,
        addresses: impl IntoIterator<Item = String>,
        allowed: &'static [Tier],
        open: impl Fn(Tier, Incoming<A>) -> Result<Messages<B>, Status> + Send + Sync + 'static,
    ) -> Serving {
        self.add::<Open<A, B>>(addresses, Service { allowed, open: Box::new(open) })
    }

    pub(crate) fn serve_calls<A: 'static, B: 'static>(
        &self,
        addresses: impl IntoIterator<Item = String>,
        allowed: &'static [Tier],
        open: impl Fn(Tier, Tell<B>) -> Result<Calls<A>, Status> + Send + Sync + 'static,
    ) -> Serving {
        self.add::<OpenCalls<A, B>>(addresses, Service { allowed, open: Box::new(open) })
    }

    fn add<F: Send + Sync + ?Sized + 'static>(
        &self,
        addresses: impl IntoIterator<Item = String>,
        service: Service<F>,
    ) -> Serving {
        let service: Arc<dyn Any + Send + Sync> = Arc::new(service);
        let keys: Vec<Key> = addresses.into_iter().map(|address| (address, TypeId::of::<F>())).collect();
        self.0.lock().extend(keys.iter().map(|key| (key.clone(), Arc::clone(&service))));
        Serving { keys, service, services: Arc::clone(&self.0) }
    }

    pub(crate) fn near<A: 'static, B: 'static>(&self, address: &str, caller: Tier) -> Option<Near<A, B>> {
        self.find(address, caller).map(Near)
    }

    pub(crate) fn near_calls<A: 'static, B: 'static>(&self, address: &str, caller: Tier) -> Option<NearCalls<A, B>> {
        self.find(address, caller).map(NearCalls)
    }

    fn find<F: Send + Sync + ?Sized + 'static>(&self, address: &str, caller: Tier) -> Option<Found<F>> {
        let service = self.0.lock().get(&(address.to_owned(), TypeId::of::<F>())).cloned()?;
        Some(Found { service: service.downcast().ok()?, caller })
    }
}

impl<F: ?Sized> Found<F> {
    fn check(&self) -> Result<(), Status> {
        if self.service.allowed.contains(&self.caller) {
            Ok(())
        } else {
            Err(Status::permission_denied(format!("the {} token does not open this", self.caller)))
        }
    }
}

impl<A: Send + 'static, B: Send + 'static> Near<A, B> {
    /// The service reads from `says` when it has room, as it would from a connection.
    pub fn open(self, says: impl Stream<Item = A> + Send + 'static) -> Result<Incoming<B>, Status> {
        self.0.check()?;
        (self.0.service.open)(self.0.caller, says.map(Ok).boxed().into()).map(Incoming::from)
    }
}

impl<A: 'static, B: 'static> NearCalls<A, B> {
    /// `tell` receives each answer.
    pub fn open(self, tell: Tell<B>) -> Result<Calls<A>, Status> {
        self.0.check()?;
        (self.0.service.open)(self.0.caller, tell)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut services = self.services.lock();
        for key in &self.keys {
            // Another service may have taken over the address meanwhile; it stays.
            if services.get(key).is_some_and(|known| Arc::ptr_eq(known, &self.service)) {
                services.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_ends_leaves_its_address_to_the_one_that_has_taken_it_over() {
        let services = Services::default();
        let serve = || {
            services
                .serve::<u8, u8>(["a:1".to_owned()], &[Tier::Router], |_, _| Ok(futures_util::stream::empty().boxed()))
        };
        let is_there = || services.near::<u8, u8>("a:1", Tier::Router).is_some();
        let before = serve();
        let after = serve();
        drop(before);
        assert!(is_there());
        drop(after);
        assert!(!is_there());
    }
}
