//! How far a user's devices are: those that the store knows of, and those that are signed in, whose gateways are asked.

use std::time::Duration;

use carillon_proto::{
    LeaseId, TimelineId,
    pb::{
        admin::DeviceTrace,
        client::Code,
        link::{ConnectionProgress, Directed},
        store::{DevicePosition, Node, NodeKind, Session},
    },
};
use futures_util::future::join_all;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{super::sessions::info, Admin, Owner};
use crate::{
    reply::{Answer, InFlight, ReplySlot},
    topology::Topology,
};

/// Deadline of one gateway.
const TRY: Duration = Duration::from_secs(2);

impl Admin {
    pub(super) async fn devices_of(&self, owner: &Owner, positions: &[DevicePosition]) -> Vec<DeviceTrace> {
        let topology = self.topology.borrow().clone();
        let signed_in = owner.found.sessions.iter().map(|session| self.signed_in(&topology, owner, session));
        let mut devices = join_all(signed_in).await;
        for DevicePosition { device, seq, age_ms } in positions {
            let at = devices.iter().position(|known| known.device == *device).unwrap_or_else(|| {
                devices.push(DeviceTrace { device: device.clone(), ..DeviceTrace::default() });
                devices.len() - 1
            });
            (devices[at].acknowledged, devices[at].age_ms) = (*seq, *age_ms);
        }
        devices.sort_unstable_by(|a, b| a.device.cmp(&b.device));
        devices
    }

    async fn signed_in(&self, topology: &Topology, owner: &Owner, session: &Session) -> DeviceTrace {
        let gateway = topology.view.nodes.iter().find(|node| node.lease == session.lease);
        let mut trace = DeviceTrace {
            device: session.device.clone(),
            session: Some(info(owner.found.account.as_ref(), session)),
            gateway: session.lease,
            gateway_address: gateway.map(|node| node.address.clone()).unwrap_or_default(),
            gateway_ended: topology.has_ended(LeaseId(session.lease)),
            ..DeviceTrace::default()
        };
        if !trace.gateway_ended {
            match self.ask_gateway(session).await {
                Ok(ConnectionProgress { timelines, queued_bytes }) => {
                    let inbox = Some(TimelineId::Inbox(owner.user.clone()).to_client());
                    trace.progress = timelines.into_iter().find(|progress| progress.timeline == inbox);
                    trace.queued_bytes = queued_bytes;
                    if trace.progress.is_none() {
                        trace.not_told = "the connection does not follow the inbox yet".to_owned();
                    }
                }
                Err(why) => trace.not_told = why,
            }
        }
        trace
    }

    async fn ask_gateway(&self, session: &Session) -> Result<ConnectionProgress, String> {
        let (to, mut answers) = mpsc::channel(1);
        let place = to.reserve_owned().await.map_err(|error| error.to_string())?;
        // This request is none of those that a stopping router waits for.
        let _counted = InFlight::default().enter();
        let slot = ReplySlot { id: 0, place, op: "direct", since: Instant::now(), _counted };
        let directed = Directed { connection: session.connection, progress: true, ..Directed::default() };
        let deadline = Instant::now() + TRY;
        self.put_out.links.direct(LeaseId(session.lease), directed, slot, deadline);
        let answer = timeout_at(deadline, answers.recv()).await.ok().flatten().and_then(|reply| reply.result);
        match answer {
            Some(Answer::DirectAnswered(answer)) => {
                ConnectionProgress::decode(answer.body).map_err(|_| "its answer is not understood".to_owned())
            }
            Some(Answer::Refusal(refusal)) if refusal.code() == Code::Unsupported => {
                let kind = NodeKind::Gateway.into();
                Err(self.does_not_know(&Node { kind, lease: session.lease, ..Node::default() }).await)
            }
            Some(Answer::Refusal(refusal)) => Err(refusal.reason),
            Some(_) | None => Err("it does not answer".to_owned()),
        }
    }
}
