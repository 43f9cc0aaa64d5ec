//! What this gateway follows: one feed for each timeline, whatever the number of its sessions that follow it.
//!
//! A feed puts pushes in order, reads what is missing once for all, and hands each entry to the followers that are
//! live. A session that is not live (it signs in, reads slowly, or its mailbox was full) catches up by pages of its own
//! and joins in one step, so that what it has read and what is handed to it never cross. No waiting, no clock and no
//! protocol in here.

mod delivery;
mod entry;
mod feed;
mod followed;
mod follower;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use entry::{Entry, Form, Origin, TimelineName};
pub(crate) use feed::{FeedId, Join, Joined, JoinedFeed, Page, Push, ReadFailed};
pub(crate) use followed::{Followed, Next, OtherEpoch, Step};
pub(crate) use follower::{Follower, Hand, Over};
pub(crate) use table::{FeedRead, Feeds, TimelineRef};
