//! The last entries of a feed, for sessions that are about to join.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::entry::Entry;

/// Most entries kept for sessions that are about to join. Older ones are read from the store.
const MAX_RECENT: usize = 64;
const MAX_RECENT_BYTES: usize = 64 * 1024;
/// How long they are kept after the last one arrived.
pub(super) const KEEP_RECENT: Duration = Duration::from_secs(2);

/// The last entries, without gaps up to the feed's next position.
pub(super) struct RecentEntries {
    entries: VecDeque<Arc<Entry>>,
    pub(super) bytes: usize,
    pub(super) since: Instant,
    /// When the entries are next checked for age. New entries do not change it.
    pub(super) look_at: Instant,
}

impl RecentEntries {
    pub(super) fn new(now: Instant) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, since: now, look_at: now + KEEP_RECENT }
    }

    pub(super) fn push(&mut self, entry: Arc<Entry>, now: Instant) {
        if entry.recalls {
            // The message is given to nobody any more. The store knows which one it is.
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
        self.since = now;
        while self.entries.len() > MAX_RECENT || self.bytes > MAX_RECENT_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.size();
        }
    }

    /// The entries from `next` on; `None` if `next` is no longer kept.
    pub(super) fn from(&self, next: u64) -> Option<Vec<Arc<Entry>>> {
        let first = self.entries.front()?.position.seq;
        let skip = usize::try_from(next.checked_sub(first)?).ok()?;
        Some(self.entries.iter().skip(skip).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        Epoch, Position, TimelineId, UserId,
        pb::client::{Content, Envelope, Recall, Text, content::Body},
    };
    use prost::Message as _;

    use super::*;
    use crate::feeds::{
        FeedId,
        entry::{Came, TimelineName},
    };

    #[test]
    fn who_joins_after_a_recall_reads_what_stood_before_from_the_store() {
        let now = Instant::now();
        let timeline = Arc::new(TimelineName::new(TimelineId::Inbox(UserId::new("alice").expect("valid"))));
        let entry = |seq, body| {
            let content = Some(Content { body: Some(body), ..Content::default() });
            let envelope = Envelope { content, ..Envelope::default() }.encode_to_vec().into();
            let position = Position { epoch: Epoch(7), seq };
            Arc::new(Entry::new(FeedId(1), Arc::clone(&timeline), position, envelope, Came::Push))
        };
        let mut recent = RecentEntries::new(now);
        recent.push(entry(1, Body::Text(Text { body: "secret".into() })), now);
        assert_eq!(recent.from(1).map(|kept| kept.len()), Some(1));
        recent.push(entry(2, Body::Recall(Recall::default())), now);
        recent.push(entry(3, Body::Text(Text { body: "hello".into() })), now);
        assert_eq!(recent.from(1).map(|kept| kept.len()), None);
        assert_eq!(recent.from(2).map(|kept| kept.len()), Some(2));
        assert_eq!(recent.bytes, recent.from(2).expect("kept").iter().map(|entry| entry.size()).sum::<usize>());
    }
}
