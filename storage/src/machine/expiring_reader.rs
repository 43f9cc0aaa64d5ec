//! The search for messages whose time is over.

use std::io;

use carillon_proto::pb::store::ExpireMessages;

use super::{
    TimelineReader, keys,
    retention::{Retention, clock},
};

/// Most messages that one command expires: it bounds the time of one command. Replicas with different numbers would diverge: a change
/// needs a new level.
pub(crate) const EXPIRED: usize = 256;

impl TimelineReader {
    /// The command that removes what is due by the shard's clock, and how many messages it is for; `None`: nothing is due.
    pub(crate) fn due_messages(&self, retention: &Retention) -> io::Result<Option<(ExpireMessages, usize)>> {
        let view = self.shard.view();
        let until_ms = clock(&view)?.saturating_sub(retention.slack_ms);
        let mut count = 0;
        for row in view.range(keys::expiring_until(until_ms)).take(EXPIRED) {
            row?;
            count += 1;
        }
        Ok((count > 0).then_some((ExpireMessages { until_ms }, count)))
    }

    /// True if any message of the shard is to expire.
    pub(crate) fn has_expiring(&self) -> io::Result<bool> {
        let view = self.shard.view();
        view.range(keys::expiring_until(u64::MAX)).next().transpose().map(|row| row.is_some())
    }
}
