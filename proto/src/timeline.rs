//! Timelines and positions in them.

use std::fmt;

use bytes::Bytes;
use rand::RngExt as _;

use crate::{
    GroupId, InvalidId, UserId, id_text,
    pb::{client, store},
};

/// Names a timeline: the inbox of a user or the log of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimelineId {
    Inbox(UserId),
    Group(GroupId),
}

/// One life of a timeline. Positions of different epochs can't be compared. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// An epoch for a new timeline. Never 0, and at most 63 bits, so that signed integers can hold it in every
    /// language.
    pub fn random() -> Self {
        Self(rand::rng().random_range(1..=i64::MAX as u64))
    }
}

/// A position in a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: Epoch,
    /// Counts from 1, without gaps.
    pub seq: u64,
}

impl TimelineId {
    /// The id of the user or group, which determines shard and ring position.
    pub fn owner(&self) -> &str {
        match self {
            Self::Inbox(user) => user.as_str(),
            Self::Group(group) => group.as_str(),
        }
    }

    pub fn to_key(&self) -> store::TimelineKey {
        let kind = match self {
            Self::Inbox(_) => store::timeline_key::Kind::Inbox,
            Self::Group(_) => store::timeline_key::Kind::Group,
        };
        store::TimelineKey { kind: kind.into(), owner: Bytes::copy_from_slice(self.owner().as_bytes()) }
    }

    /// `None` if the key has no kind.
    pub fn from_key(key: &store::TimelineKey) -> Result<Option<Self>, InvalidId> {
        Ok(match key.kind() {
            store::timeline_key::Kind::Inbox => Some(Self::Inbox(UserId::new(key.owner_str()?)?)),
            store::timeline_key::Kind::Group => Some(Self::Group(GroupId::new(key.owner_str()?)?)),
            store::timeline_key::Kind::Unspecified => None,
        })
    }

    pub fn to_client(&self) -> client::Timeline {
        let owner = match self {
            Self::Inbox(user) => client::timeline::Owner::Inbox(user.as_str().to_owned()),
            Self::Group(group) => client::timeline::Owner::Group(group.as_str().to_owned()),
        };
        client::Timeline { owner: Some(owner) }
    }

    pub fn from_client(timeline: &client::Timeline) -> Result<Option<Self>, InvalidId> {
        Ok(match &timeline.owner {
            Some(client::timeline::Owner::Inbox(user)) => Some(Self::Inbox(UserId::new(user)?)),
            Some(client::timeline::Owner::Group(group)) => Some(Self::Group(GroupId::new(group)?)),
            None => None,
        })
    }
}

impl store::TimelineKey {
    /// The owner, which need not be valid.
    pub fn owner_str(&self) -> Result<&str, InvalidId> {
        id_text("owner of a timeline", &self.owner)
    }

    /// Validates the key without making an id of it. Gives its owner; `None` if the key has no kind.
    pub fn check(&self) -> Result<Option<&str>, InvalidId> {
        let owner = self.owner_str()?;
        match self.kind() {
            store::timeline_key::Kind::Inbox => UserId::check(owner)?,
            store::timeline_key::Kind::Group => GroupId::check(owner)?,
            store::timeline_key::Kind::Unspecified => return Ok(None),
        }
        Ok(Some(owner))
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbox(user) => write!(f, "inbox/{user}"),
            Self::Group(group) => write!(f, "group/{group}"),
        }
    }
}

impl From<Position> for client::Position {
    fn from(position: Position) -> Self {
        Self { epoch: position.epoch.0, seq: position.seq }
    }
}

impl From<client::Position> for Position {
    fn from(position: client::Position) -> Self {
        Self { epoch: Epoch(position.epoch), seq: position.seq }
    }
}
