//! Decides which requests of a link this router takes. Does not wait and has no clock.

use std::time::Duration;

use carillon_proto::pb::link::{NotOwner, router_request::Op};
use tokio::time::Instant;

use crate::topology::Topology;

/// How long a request waits for the ring by which it was routed.
const RING_TIMEOUT: Duration = Duration::from_secs(1);

/// The gate of one link. Requests come in the order of the link; each is repeated until its verdict is not `Wait`.
pub(crate) struct Gate {
    /// The ring waited for last, and the deadline.
    awaited: (u64, Instant),
    /// Sends of lower eras are refused, because a send before them was. Only gateways of the build before rely on it: see
    /// `RouterRequest.era`.
    closed_below: u64,
}

/// The fields of a request that the gate looks at.
pub(crate) struct GateRequest<'a> {
    keeps_order: bool,
    /// True for requests that change the register or report its gaps: they need this router's own lease. All others do
    /// no harm at a router that wrongly believes to be the owner: the store assigns positions, and pushes are hints. So
    /// sends, which would otherwise stop with the registry, pass as long as the last known ring names this router.
    needs_lease: bool,
    /// Of the user or group.
    name: &'a str,
    /// Version of the ring by which it was routed.
    pub(crate) routed_by: u64,
    era: u64,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Pass,
    NotOwner(NotOwner),
    /// Wait until the ring by which it was routed is known here, at most until this time.
    Wait(Instant),
}

impl<'a> GateRequest<'a> {
    pub(crate) fn new(op: &Op, name: &'a str, routed_by: u64, era: u64) -> Self {
        let needs_lease = matches!(op, Op::OpenSession(_) | Op::Announce(_) | Op::CloseSession(_) | Op::Direct(_));
        Self { keeps_order: matches!(op, Op::Send(_) | Op::ChangeGroup(_)), needs_lease, name, routed_by, era }
    }
}

impl Gate {
    pub(crate) fn new(now: Instant) -> Self {
        Self { awaited: (0, now), closed_below: 0 }
    }

    /// `held`: this router's lease runs.
    pub(crate) fn pass(&mut self, asked: &GateRequest<'_>, topology: &Topology, held: bool, now: Instant) -> Verdict {
        let version = topology.ring.version();
        let closed = asked.keeps_order && asked.era < self.closed_below;
        if !closed && version < asked.routed_by {
            if self.awaited.0 != asked.routed_by {
                self.awaited = (asked.routed_by, now + RING_TIMEOUT);
            }
            if now < self.awaited.1 {
                return Verdict::Wait(self.awaited.1);
            }
        }
        if !closed && (held || !asked.needs_lease) && version >= asked.routed_by && topology.owns(asked.name) {
            return Verdict::Pass;
        }
        if asked.keeps_order {
            self.closed_below = self.closed_below.max(asked.era + 1);
        }
        Verdict::NotOwner(NotOwner { ring_version: version })
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::link::{self, Acknowledge, Announce, CloseSession, OpenSession, ReadTimeline};

    use super::*;
    use crate::topology::tests::topology;

    #[test]
    fn only_sessions_and_words_about_them_need_this_routers_lease() {
        let (topology, now) = (topology(5, "a:1", &["a:1"], &[]), Instant::now());
        let user = carillon_proto::UserId::new("bob").expect("valid");
        let verdict =
            |op: Op, held| Gate::new(now).pass(&GateRequest::new(&op, user.as_str(), 5, 0), &topology, held, now);
        let not = || Verdict::NotOwner(NotOwner { ring_version: 5 });
        let session = None;
        for op in [
            Op::OpenSession(OpenSession { session: session.clone() }),
            Op::Announce(Announce { session: session.clone(), presence: None }),
            Op::CloseSession(CloseSession { session }),
            Op::Direct(link::Direct::default()),
        ] {
            assert_eq!((verdict(op.clone(), false), verdict(op, true)), (not(), Verdict::Pass));
        }
        for op in [
            Op::Send(link::Send::default()),
            Op::Read(ReadTimeline::default()),
            Op::Acknowledge(Acknowledge::default()),
        ] {
            assert_eq!((verdict(op.clone(), false), verdict(op, true)), (Verdict::Pass, Verdict::Pass));
        }
    }
}
