//! The feeds of this gateway: one for each timeline that at least one session follows.
//!
//! A feed puts pushes in order, reads missing entries once for all followers, and delivers each entry to the live ones, in
//! pieces if they are many. A session that is not live (it signs in, reads slowly, or its mailbox was full) catches up by
//! pages of its own and joins in one step, so that backlog and live delivery never cross. The feeds do not wait, and know
//! neither clock nor protocol.

mod delivery;
mod entry;
mod feed;
mod followed;
mod follower;
mod follows;
mod read_page;
mod recent;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::time::Duration;

pub(crate) use entry::{Came, Entry, Form, TimelineName};
pub(crate) use feed::{FeedId, Join, Joined, JoinedFeed, Own};
pub(crate) use followed::{Followed, Next, OtherEpoch};
pub(crate) use follower::{Ending, Follower, Hand, Left};
pub(crate) use follows::{Beginning, Begun, FeedAnswer, FeedAsk, Follows, FoundGroups, LiveGroup};
pub(crate) use read_page::{ReadFailed, ReadPage};
pub(crate) use table::{FeedRead, Feeds, TimelineRef};

/// Pause before a read is repeated that failed or brought nothing.
const RETRY: Duration = Duration::from_millis(500);
