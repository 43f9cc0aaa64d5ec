//! See `carillon_proto::planted`.

use carillon_proto::{
    pb::{client::timeline::Owner, link::Push},
    planted::PlantedBug,
};

/// True if the push is to be dropped without a trace.
pub(crate) fn withholds(push: &Push) -> bool {
    let owner = push.timeline.as_ref().and_then(|timeline| timeline.owner.as_ref());
    matches!(owner, Some(Owner::Inbox(user)) if PlantedBug::WithholdPushes.concerns(user))
}

/// True if nobody is told that a user without sessions is offline.
pub(crate) fn keeps_offline() -> bool {
    PlantedBug::UntoldOffline.is_planted()
}

/// True if a report may have messages that its reporter can't read.
pub(crate) fn reports_of_others() -> bool {
    PlantedBug::ReportsOfOthers.is_planted()
}

/// True if who refers to a file is looked for in the file's shard alone.
pub(crate) fn asks_own_shard_alone() -> bool {
    PlantedBug::AsksOwnShardAlone.is_planted()
}

/// True if all contacts are told of a user, whomever it has accepted.
pub(crate) fn shows_to_all() -> bool {
    PlantedBug::PresenceToAll.is_planted()
}
