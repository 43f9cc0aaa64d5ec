//! Changes of groups while messages are sent: members go and come back, and devices start again.

use std::{sync::Arc, time::Duration};

use carillon_client::{Client, SendError};
use carillon_proto::{GroupId, pb::client::members_change::Kind};

use super::{Groups, founding::members, member::Member};
use crate::scenario::Ending;

/// Members who go and come back, and devices that start again, until the run ends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unrest {
    /// So often, one member of one group goes, and comes back after half of the time.
    pub(crate) changes: Option<Duration>,
    /// So often, one device starts again.
    pub(crate) restarts: Option<Duration>,
}

/// Number of changes and restarts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) changes: u64,
    pub(super) restarts: u64,
}

/// The ways in which a member goes, in turn.
const WAYS: [Kind; 3] = [Kind::Banned, Kind::Removed, Kind::Left];

/// How often a change is tried that the service could not carry out.
const TRIES: usize = 20;

impl Groups<'_> {
    /// Goes on until it is told to end. Everybody is a member again then.
    pub(super) async fn members_go_and_come(&self, every: Option<Duration>, ending: &Ending) -> u64 {
        let Some(every) = every else { return 0 };
        let mut done = 0;
        for number in 0.. {
            if !ending.within(every / 2).await {
                break;
            }
            let group = number % self.config.plan.groups;
            let way = WAYS[number / self.config.plan.groups % WAYS.len()];
            let (owner, guest) = self.owner_and_guest(group);
            let (Some(owner), Some(guest_client)) = (owner.client(), guest.client()) else { continue };
            let id = self.group_id(group);
            let by = if way == Kind::Left { &guest_client } else { &owner };
            done += u64::from(change(by, &id, way, &guest.user).await);
            ending.within(every / 2).await;
            if way == Kind::Banned {
                done += u64::from(change(&owner, &id, Kind::Pardoned, &guest.user).await);
            }
            done += u64::from(change(&owner, &id, Kind::Added, &guest.user).await);
        }
        done
    }

    /// Devices in turn, but for those that send.
    pub(super) async fn devices_restart(&self, every: Option<Duration>, ending: &Ending) -> u64 {
        let Some(every) = every else { return 0 };
        let silent: Vec<&Arc<Member>> = self.silent().collect();
        let mut done = 0;
        for member in silent.iter().cycle() {
            if !ending.within(every).await {
                break;
            }
            if member.restart(&self.environment.tasks).await.is_err() {
                break;
            }
            done += 1;
        }
        done
    }
}

/// Tries until it is so. False if it is not.
async fn change(by: &Client, group: &GroupId, kind: Kind, user: &str) -> bool {
    for _ in 0..TRIES {
        match by.change_group(group, members(kind, vec![user.to_owned()])).await {
            Ok(()) => return true,
            // The answer to an earlier try may be missing: then it is so already, and this is refused.
            Err(SendError::Refused(refusal)) if !refusal.retry => return false,
            Err(SendError::Refused(_) | SendError::TimedOut { .. }) => {}
            Err(SendError::Ended(_) | SendError::InvalidId(_)) => return false,
        }
    }
    false
}
