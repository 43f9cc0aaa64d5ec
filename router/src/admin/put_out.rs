//! Ends the connections of sessions that are over.

use std::time::Duration;

use carillon_proto::{
    LeaseId, UserId,
    pb::{
        admin::Ended,
        store::{Account, Session},
    },
    sessions,
};
use tokio::time::{self, Instant};

use super::Admin;
use crate::{gateway_links::GatewayLinks, partition::Partitions, peers::Peers};

/// How long a command waits for gateways to close the connections that it ended. Connections that are open after that
/// are reported as open: their gateway learns of it when it reaches a router.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Reaches the gateways that hold the connections.
#[derive(Clone)]
pub(crate) struct PutOut {
    pub(crate) links: GatewayLinks,
    pub(crate) partitions: Partitions,
    pub(crate) peers: Peers,
}

impl Admin {
    /// Waits until all of them are closed, or for a limited time. `over`: the sessions that were just ended.
    pub(super) async fn put_out(&self, user: &UserId, account: &Account, mut over: Vec<Session>) -> Ended {
        self.tell_owner(user);
        let count = over.len() as u32;
        let until = Instant::now() + PATIENCE;
        loop {
            over.retain(|session| !self.topology.borrow().has_ended(LeaseId(session.lease)));
            if over.is_empty() || Instant::now() >= until {
                break;
            }
            for session in &over {
                if let Some(why) = sessions::over(account, session) {
                    self.put_out.links.evict(LeaseId(session.lease), session.connection, why);
                }
            }
            time::sleep(LOOK_AGAIN).await;
            // Unknown: sessions that existed before are taken to exist still.
            let Ok(found) = self.read(user).await else { continue };
            let is_there = |session: &Session| {
                let handle = (session.lease, session.connection);
                found.sessions.iter().any(|there| (there.lease, there.connection) == handle)
            };
            over.retain(is_there);
        }
        let open = over.len() as u32;
        Ended { closed: count.saturating_sub(open), open }
    }

    /// The owner of the user may have old rows in memory, and a link to a gateway to which this router has none.
    fn tell_owner(&self, user: &UserId) {
        let topology = self.topology.borrow().clone();
        match topology.elsewhere(user.as_str()) {
            Some(address) => self.put_out.peers.changed(address, user.clone()),
            None if topology.owns(user.as_str()) => self.put_out.partitions.changed(user.clone()),
            None => {}
        }
    }
}
