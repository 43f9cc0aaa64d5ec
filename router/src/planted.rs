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
