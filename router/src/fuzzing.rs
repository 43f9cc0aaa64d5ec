//! Entry points of the fuzz targets: requests of gateways, hints of other routers, and answers of the store.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use carillon_proto::pb::{
    link::{ContactNews, Forget, Hint, Presences, Probe, RouterRequest, ScheduledNews, Signal},
    store::{Node, NodeKind, RegistryView, StoreReply},
};
use carillon_proto::{LeaseId, Level, UserId, now_ms};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    companions::Companions,
    config::UnknownRecipient,
    delivery::Delivery,
    owner::{Effect, Owner, OwnerConfig},
    partition::Input,
    reply::{Failure, InFlight, ReplySlot, Request, deadline, op_name, routed_by},
    said::Said,
    topology::Topology,
};

const LONGEST: Duration = Duration::from_secs(10);
const GATEWAY: LeaseId = LeaseId(10);
/// Messages of one call; it also bounds the answers.
const MESSAGES: usize = 256;

/// One partition of a router. Two bytes before each message give its kind and its length.
pub fn link(mut bytes: &[u8]) {
    let topology = Arc::clone(&TOPOLOGY);
    let config = OwnerConfig {
        accounts: 100,
        cursor_pause: Duration::from_millis(100),
        unknown_recipient: UnknownRecipient::Refuse,
        max_devices_per_user: 256,
        companions: Companions::default(),
        followers: Default::default(),
        nudges: Default::default(),
        head_check: Duration::from_secs(60),
    };
    let now = Instant::now();
    let mut owner = Owner::new(topology, config, now);
    let (replies, mut answers) = mpsc::channel(MESSAGES);
    let (mut asked, mut requests) = (Vec::new(), 0);
    for _ in 0..MESSAGES {
        let Some((head, rest)) = bytes.split_first_chunk::<2>() else { break };
        let (message, rest) = rest.split_at(usize::from(head[1]).min(rest.len()));
        bytes = rest;
        let mut input = |input: Input| input.carry_out(&mut owner, now, now_ms());
        match head[0] {
            0..=149 => {
                let Ok(request) = RouterRequest::decode(message) else { continue };
                let Some(op) = request.op else { continue };
                let Ok(of) = routed_by(&op) else { continue };
                let place = replies.clone().try_reserve_owned().expect("a place for each message");
                let _counted = InFlight::default().enter();
                let slot = ReplySlot { id: request.id, place, op: op_name(&op), since: now, _counted };
                let deadline = deadline(now, request.deadline_ms, LONGEST);
                requests += 1;
                input(Input::Request(Request { of, op, lease: GATEWAY, link: 1, deadline, span: None, slot }));
            }
            150..=219 => {
                let Ok(StoreReply { result: Some(answer), .. }) = StoreReply::decode(message) else { continue };
                if !asked.is_empty() {
                    let token = asked.swap_remove(usize::from(head[0]) % asked.len());
                    owner.answer(token, Ok(answer), now, 1_000);
                }
            }
            220..=231 => {
                let Ok(hint) = Hint::decode(message) else { continue };
                let Some(delivery) = Delivery::of_hint(hint) else { continue };
                input(Input::Deliver(delivery));
            }
            232..=235 => {
                let Ok(signal) = Signal::decode(message) else { continue };
                input(Input::Signal(signal));
            }
            236..=239 => {
                let Ok(Forget { user, connection }) = Forget::decode(message) else { continue };
                let Ok(user) = UserId::new(&user) else { continue };
                input(Input::Forget { user, gateway: GATEWAY, connection, link: 1 });
            }
            240..=242 => {
                let Ok(user) = UserId::new(&String::from_utf8_lossy(message)) else { continue };
                input(Input::Changed(user));
            }
            243 => input(Input::AnnouncedAll { gateway: GATEWAY, link: 1, ring_version: 1 }),
            244 => input(Input::Doubt),
            245 => input(Input::Said(Said::Presences(match Presences::decode(message) {
                Ok(presences) => presences,
                Err(_) => continue,
            }))),
            246 => input(Input::Said(Said::Probe(match Probe::decode(message) {
                Ok(probe) => probe,
                Err(_) => continue,
            }))),
            247 => input(Input::Said(Said::News(match ContactNews::decode(message) {
                Ok(news) => Box::new(news),
                Err(_) => continue,
            }))),
            248 => {
                owner.presence_settles(now);
                owner.look_at_presences(now, 1_000_000);
            }
            249 => input(Input::Said(Said::Scheduled(match ScheduledNews::decode(message) {
                Ok(news) => news,
                Err(_) => continue,
            }))),
            250 => owner.check(now),
            _ => owner.flush_cursors(now),
        }
        for effect in std::mem::take(&mut owner.effects) {
            match effect {
                Effect::Store { token, .. } => asked.push(token),
                Effect::Answer(slot, answer) => slot.answer(answer),
                Effect::Signal(_, signal) => assert!(!signal.connections.is_empty(), "told to nobody"),
                Effect::Tell(telling) => {
                    if let Some(slot) = telling.slot {
                        slot.answer(Failure::Unreached.into());
                    }
                }
                Effect::Direct { slot, .. } => slot.answer(Failure::Unreached.into()),
                Effect::Push(..)
                | Effect::Behind(..)
                | Effect::Evict { .. }
                | Effect::Deliver(_)
                | Effect::Marked(_)
                | Effect::Say(_)
                | Effect::Update(..)
                | Effect::Watched(..) => {}
            }
        }
    }
    drop((owner, replies));
    let mut answered = 0;
    while answers.try_recv().is_ok() {
        answered += 1;
    }
    assert!(answered <= requests, "{answered} answers to {requests} requests");
}

static TOPOLOGY: LazyLock<Arc<Topology>> = LazyLock::new(|| {
    let node = |lease, kind: NodeKind, address: &str| Node {
        lease,
        kind: kind.into(),
        address: address.to_owned(),
        slot: None,
    };
    let gateways = [10, 20].map(|lease| node(lease, NodeKind::Gateway, ""));
    let view = RegistryView {
        version: 1,
        ring_version: 1,
        nodes: [node(1, NodeKind::Router, "here:1")].into_iter().chain(gateways).collect(),
        directory_shards: 4,
        timeline_shards: 4,
        level: Level::OF_PROGRAM.0,
        ..RegistryView::default()
    };
    Arc::new(Topology::new(view, "here:1".into()))
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            link(&bytes);
        }
    }
}
