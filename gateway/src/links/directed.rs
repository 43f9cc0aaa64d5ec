//! Directed requests for connections of this gateway: each is answered once, on every path.

use bytes::Bytes;
use carillon_proto::pb::{
    client::Code,
    link::{DirectAnswer, Directed, Refusal, direct_answer},
};

use super::{ToLink, parts::LinkHandle};
use crate::outcome::refusal;

/// A directed request for one connection. If it is dropped, the asker is told that nobody answered.
pub(crate) struct DirectedRequest {
    id: u64,
    way: Option<LinkHandle>,
}

impl DirectedRequest {
    pub(super) fn new(directed: &Directed, way: &LinkHandle) -> Self {
        Self { id: directed.id, way: Some(way.clone()) }
    }

    pub(crate) fn answer(mut self, result: Result<Bytes, Refusal>) {
        self.say(result);
    }

    fn say(&mut self, result: Result<Bytes, Refusal>) {
        let Some(way) = self.way.take() else { return };
        let result = Some(match result {
            Ok(body) => direct_answer::Result::Body(body),
            Err(refusal) => direct_answer::Result::Refusal(refusal),
        });
        // Without room the link is closed, and with it everything it owes.
        if way.queue.try_send(ToLink::Answer(DirectAnswer { id: self.id, result })).is_err() {
            way.cut.cancel();
        }
    }
}

impl Drop for DirectedRequest {
    fn drop(&mut self) {
        self.say(Err(refusal(Code::Unavailable, "the connection ended before it answered", 500)));
    }
}
