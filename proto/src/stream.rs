//! Bidirectional streams of messages between two nodes: over gRPC, or, within one process, as the messages themselves,
//! without encoding and framing. See docs/adr/0009-streams-in-one-process.md.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tonic::{Status, Streaming};

use crate::peer::Tier;

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

/// A service at one address that receives a stream of `A` and answers with a stream of `B`.
struct Service<A, B> {
    allowed: &'static [Tier],
    open: Box<Open<A, B>>,
}

type Open<A, B> = dyn Fn(Tier, Incoming<A>) -> Result<Messages<B>, Status> + Send + Sync;

/// A stream service in this process. One value opens one stream.
pub struct Near<A, B> {
    service: Arc<Service<A, B>>,
    caller: Tier,
}

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
        Serving { keys, service, services: Arc::clone(&self.0) }
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
    /// The service reads from `says` when it has room, as it would from a connection.
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
        let is_there = || services.find::<u8, u8>("a:1", Tier::Router).is_some();
        let before = serve();
        let after = serve();
        drop(before);
        assert!(is_there());
        drop(after);
        assert!(!is_there());
    }
}
