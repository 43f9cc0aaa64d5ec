//! What waits for one connection's task.

use std::{sync::Arc, time::Duration};

use carillon_proto::pb::{
    client::Position,
    link::{Push, TimelineHead, evict::Why},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{links::Answered, metrics, session::Tag};

/// Pushes that wait. When it is full, a push is dropped and its position remembered: the session reads it from the
/// store.
const MAX_PUSHES: usize = 64;
const MAX_PUSH_BYTES: usize = 128 * 1024;

/// Any task puts in, the connection's task takes out.
#[derive(Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

/// All that came since it was looked at last.
#[derive(Default)]
pub(crate) struct Mail {
    /// One for each request that the session made, which bounds them.
    pub(crate) answers: Vec<(Tag, Answered)>,
    pub(crate) pushes: Vec<Arc<Push>>,
    push_bytes: usize,
    /// The highest position whose push was dropped.
    pub(crate) behind: Option<Position>,
    /// The latest heads that came with an announcement.
    pub(crate) heads: Option<Vec<TimelineHead>>,
    /// Why the session is over, if it is.
    pub(crate) over: Option<Why>,
    /// The gateway is stopping; when the client may come back.
    pub(crate) drain: Option<Duration>,
    /// The gateway reaches no router; when the client may come back.
    pub(crate) cut_off: Option<Duration>,
}

impl Mailbox {
    pub(crate) fn answer(&self, tag: Tag, answered: Answered) {
        self.put(|mail| mail.answers.push((tag, answered)));
    }

    pub(crate) fn push(&self, push: Arc<Push>) {
        self.put(|mail| {
            let full = mail.pushes.len() >= MAX_PUSHES || mail.push_bytes + push.envelope.len() > MAX_PUSH_BYTES;
            // After the first one was dropped the rest has to be read anyway.
            if full || mail.behind.is_some() {
                let position = push.position.unwrap_or_default();
                let higher = mail.behind.is_none_or(|at| at.epoch != position.epoch || at.seq < position.seq);
                if higher {
                    mail.behind = Some(position);
                }
                ::metrics::counter!(metrics::PUSHES_DROPPED).increment(1);
            } else {
                mail.push_bytes += push.envelope.len();
                mail.pushes.push(push);
            }
        });
    }

    pub(crate) fn announced(&self, heads: Vec<TimelineHead>) {
        self.put(|mail| mail.heads = Some(heads));
    }

    pub(crate) fn over(&self, why: Why) {
        self.put(|mail| mail.over = Some(why));
    }

    pub(crate) fn drain(&self, come_back: Duration) {
        self.put(|mail| mail.drain = Some(come_back));
    }

    pub(crate) fn cut_off(&self, come_back: Duration) {
        self.put(|mail| mail.cut_off = Some(come_back));
    }

    /// Waits until there is mail. Cancel-safe: what came stays.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut self.mail.lock())
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock());
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_remembers_how_far_it_fell_behind() {
        let mailbox = Mailbox::default();
        let push = |seq| {
            let position = Some(Position { epoch: 1, seq });
            Arc::new(Push { position, ..Default::default() })
        };
        for seq in 1..=MAX_PUSHES as u64 + 3 {
            mailbox.push(push(seq));
        }
        let mail = mailbox.take();
        assert_eq!(mail.pushes.len(), MAX_PUSHES);
        assert_eq!(mail.behind, Some(Position { epoch: 1, seq: MAX_PUSHES as u64 + 3 }));
        mailbox.push(push(100));
        assert_eq!(mailbox.take().pushes.len(), 1);
    }
}
