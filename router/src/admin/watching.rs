//! Operators watch the traffic of a user.

use std::{pin::Pin, sync::Arc};

use carillon_proto::{
    now_ms,
    pb::admin::{WatchEvent, watch_event::Kind},
};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Admin, user_id};
use crate::watches::Watcher;

/// Most operators who watch at a time.
const WATCHERS: usize = 16;

pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Watching {
    places: Arc<Semaphore>,
    closing: CancellationToken,
}

impl Watching {
    /// `closing` ends all streams.
    pub(crate) fn new(closing: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(WATCHERS)), closing }
    }
}

impl Admin {
    pub(super) async fn events(&self, user: &str) -> Result<Events, Status> {
        let user = user_id(user)?;
        // While its shard does not answer, the user is taken to be there.
        if self.read(&user).await.is_ok_and(|found| found.account.is_none()) {
            return Err(Status::not_found(format!("there never was a user {user}")));
        }
        let place = Arc::clone(&self.watching.places).try_acquire_owned();
        let full = |_| Status::resource_exhausted(format!("{WATCHERS} operators watch already"));
        let place = place.map_err(full)?;
        let owns = self.topology.borrow().owns(user.as_str());
        let kind = Kind::Started.into();
        let started =
            WatchEvent { kind, user: user.as_str().to_owned(), time_ms: now_ms(), owns, ..WatchEvent::default() };
        let (watcher, events) = Watcher::new(user);
        watcher.tell(started);
        if !self.put_out.partitions.watch(&watcher).await {
            return Err(Status::unavailable("the router is stopping"));
        }
        let events = events.map(move |event| {
            // Free when the stream is dropped.
            let _held = &place;
            Ok(event)
        });
        Ok(events.take_until(self.watching.closing.clone().cancelled_owned()).boxed())
    }
}
