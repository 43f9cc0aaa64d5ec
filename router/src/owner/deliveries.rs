//! Tells sessions about new envelopes, and about envelopes that they may have missed.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_proto::{
    GroupId, LeaseId, ShardId, TimelineId, UserId, limits,
    pb::{
        client::Position,
        link::{Behind, Push},
        store::{Head, ReadHead, ReadHeads, store_request},
    },
};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Continuation, Effect, Owner, READ_USER};
use crate::{
    delivery::Delivery,
    metrics,
    store::{StoreAnswer, StoreFailure},
};

impl Owner {
    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        match &delivery.timeline {
            TimelineId::Inbox(user) => {
                let user = user.clone();
                self.deliver_to_user(user, delivery);
            }
            TimelineId::Group(group) => {
                // From here on it is told, or its gateways hear of what they have missed.
                self.followers.reaches(group, delivery.position);
                let gateways = self.followers.of(group);
                self.deliver_to_gateways(&gateways, &delivery);
            }
        }
    }

    /// Pushes once to each gateway that follows the group, whatever the number of its members there.
    fn deliver_to_gateways(&mut self, gateways: &[LeaseId], delivery: &Delivery) {
        let Delivery { timeline, position, envelope, traceparent, except, .. } = delivery;
        for gateway in gateways {
            let (timeline, position) = (Some(timeline.to_client()), Some(*position));
            if envelope.is_empty() {
                self.effects.push(Effect::Behind(*gateway, Behind { timeline, position, incarnation: 0 }));
                continue;
            }
            let sender = except.filter(|(lease, _)| lease == gateway);
            let push = Push {
                connections: Vec::new(),
                timeline,
                position,
                envelope: envelope.clone(),
                traceparent: traceparent.clone(),
                incarnation: 0,
                sender_connection: sender.map_or(0, |(_, connection)| connection),
            };
            self.effects.push(Effect::Push(*gateway, push));
        }
    }

    /// Pushes to the user's sessions, except the one that sent the message. Without an envelope they are told how far
    /// the inbox reaches.
    fn deliver_to_user(&mut self, user: UserId, delivery: Delivery) {
        let Delivery { timeline, incarnation, position, envelope, traceparent, except, passed_on: _ } = delivery;
        self.register.heard(&user, incarnation, position);
        if except.is_some() {
            self.register.left_out(&user);
        }
        if envelope.is_empty() {
            return self.tell_head_to_others(&user, incarnation, position, except);
        }
        for (gateway, connections) in self.connections_of(&user, incarnation, except) {
            let sender = except.filter(|(lease, _)| *lease == gateway);
            let push = Push {
                connections,
                timeline: Some(timeline.to_client()),
                position: Some(position),
                envelope: envelope.clone(),
                traceparent: traceparent.clone(),
                incarnation,
                sender_connection: sender.map_or(0, |(_, connection)| connection),
            };
            self.effects.push(Effect::Push(gateway, push));
        }
    }

    /// The connections to push to, by gateway. A user has few devices.
    pub(super) fn connections_of(
        &self,
        user: &UserId,
        incarnation: u64,
        except: Option<(LeaseId, u64)>,
    ) -> SmallVec<[(LeaseId, Vec<u64>); 2]> {
        let mut gateways: SmallVec<[(LeaseId, Vec<u64>); 2]> = SmallVec::new();
        // Some of these sessions may belong to another owner of the name, whom the message does not concern:
        // generations start with the incarnation.
        let sessions = self.register.sessions(user, incarnation).iter();
        for session in sessions.filter(|session| session.generation >= incarnation) {
            if except.is_some_and(|(lease, connection)| session.has_handle(lease, connection)) {
                continue;
            }
            match gateways.iter_mut().find(|(lease, _)| *lease == session.lease) {
                Some((_, connections)) => connections.push(session.connection),
                None => gateways.push((session.lease, vec![session.connection])),
            }
        }
        gateways
    }

    /// An append to this inbox may have been carried out without a push: check the user soon.
    pub(super) fn may_have_missed(&mut self, user: &UserId) {
        if self.register.incarnation(user).is_some() {
            self.checks.soon(&TimelineId::Inbox(user.clone()));
        }
    }

    /// The same for the group, if anybody follows it.
    pub(super) fn group_may_have_missed(&mut self, group: &GroupId) {
        if self.followers.is_followed(group) {
            self.checks.soon(&TimelineId::Group(group.clone()));
        }
    }

    /// Deliveries of any timeline may have been lost.
    pub(crate) fn doubt(&mut self) {
        self.checks.all_soon();
    }

    /// When `check` is due.
    pub(crate) fn check_due(&self) -> Option<Instant> {
        self.checks.due()
    }

    /// Asks for the heads of the timelines whose turn it is.
    pub(crate) fn check(&mut self, now: Instant) {
        let mut by_shard: BTreeMap<ShardId, Vec<(TimelineId, u64)>> = BTreeMap::new();
        for timeline in self.checks.take(now) {
            let shard = self.topology.shards.timeline_of(&timeline);
            let incarnation = match &timeline {
                TimelineId::Inbox(user) => self.register.incarnation(user),
                TimelineId::Group(group) => self.followers.is_followed(group).then_some(0),
            };
            match incarnation {
                Some(incarnation) => by_shard.entry(shard).or_default().push((timeline, incarnation)),
                None => self.checks.remove(timeline, shard),
            }
        }
        for (shard, timelines) in by_shard {
            for timelines in timelines.chunks(limits::HEADS) {
                let read = |(timeline, incarnation): &(TimelineId, u64)| ReadHead {
                    timeline: Some(timeline.to_key()),
                    device: String::new(),
                    incarnation: *incarnation,
                    unread_of: None,
                };
                let op = store_request::Op::ReadHeads(ReadHeads { reads: timelines.iter().map(read).collect() });
                self.checks.asked();
                self.ask(shard, op, String::new(), now + READ_USER, Continuation::Checked(timelines.to_vec()));
            }
        }
    }

    /// The shard of the user's inbox.
    pub(super) fn inbox_shard(&self, user: &UserId) -> ShardId {
        self.topology.shards.timeline_of(&TimelineId::Inbox(user.clone()))
    }

    pub(super) fn checked(
        &mut self,
        timelines: Vec<(TimelineId, u64)>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        self.checks.answered();
        // Timelines that were not read have another turn.
        let Ok(StoreAnswer::HeadsRead(read)) = answer else { return };
        metrics::heads_checked(timelines.len());
        for ((timeline, incarnation), read) in timelines.into_iter().zip(read.heads) {
            let user = match timeline {
                TimelineId::Inbox(user) => user,
                TimelineId::Group(group) => {
                    self.group_checked(group, read.head);
                    continue;
                }
            };
            // The account has ended: its sessions are closed.
            let Some(head) = read.head else {
                self.changed(&user, now);
                continue;
            };
            let position = Position { epoch: head.epoch, seq: head.last };
            self.register.catch_up(&user);
            let is_news = self.register.heard(&user, incarnation, position);
            if is_news {
                metrics::head_was_news();
            }
            // The head that this router knows may be newer than the one that was read.
            if (self.register.take_untold(&user) || is_news)
                && let Some((incarnation, head)) = self.register.head(&user)
            {
                self.tell_head(&user, incarnation, head);
            }
        }
    }

    fn group_checked(&mut self, group: GroupId, head: Option<Head>) {
        // Epoch 0: there is no such group any more. Its members are told in their inboxes.
        let Some(head) = head.filter(|head| head.epoch != 0) else { return };
        let position = Position { epoch: head.epoch, seq: head.last };
        if self.followers.reaches(&group, position) {
            metrics::head_was_news();
            let gateways = self.followers.of(&group);
            let news = Delivery {
                timeline: TimelineId::Group(group),
                incarnation: 0,
                position,
                envelope: Bytes::new(),
                traceparent: String::new(),
                except: None,
                passed_on: false,
            };
            self.deliver_to_gateways(&gateways, &news);
        }
    }

    /// Tells all sessions how far the inbox reaches. Sessions that have got that far ignore it.
    pub(super) fn tell_head(&mut self, user: &UserId, incarnation: u64, position: Position) {
        self.tell_head_to_others(user, incarnation, position, None);
    }

    fn tell_head_to_others(
        &mut self,
        user: &UserId,
        incarnation: u64,
        position: Position,
        except: Option<(LeaseId, u64)>,
    ) {
        for (gateway, _) in self.connections_of(user, incarnation, except) {
            let timeline = Some(TimelineId::Inbox(user.clone()).to_client());
            let behind = Behind { timeline, position: Some(position), incarnation };
            self.watch_head(user, gateway, position.seq);
            self.effects.push(Effect::Behind(gateway, behind));
        }
    }
}
