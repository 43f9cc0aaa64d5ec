//! Messages to groups, and changes of groups: one append in the group's timeline, then what becomes of each user in the inbox.
//! See docs/adr/0025-groups.md.

use std::collections::BTreeMap;

use carillon_proto::{
    GroupId, Level, ShardId, TimelineId, UserId,
    pb::{
        client::Position,
        link::{self, Heads, TimelineHead, router_request::Op},
        store::{
            self, BlockedUser, HeadRead, Person, ReadHead, ReadHeads, ReadUser, TimelineCommand, header::Kind,
            store_request, timeline_command,
        },
    },
};
use prost::Message as _;
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Following, Owner, appended, unexpected};
use crate::{
    delivery::Delivery,
    group_changes::{GroupChanging, asked, leaves, told},
    group_messages::{GroupContext, GroupMessage, Said},
    metrics,
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{Place, StoreAnswer, StoreFailure},
};

impl Owner {
    pub(super) fn group_request(&mut self, op: Op, parts: GroupContext, now: Instant, time_ms: u64) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Groups);
        }
        let reader = match &op {
            Op::ReadGroup(link::ReadGroup { reader: Some(reader), .. })
            | Op::ReadMembers(link::ReadMembers { reader: Some(reader), .. }) => Some(&reader.user),
            // Without a user the gateway reads for all its sessions that follow the group.
            Op::Read(read) => Some(&read.user).filter(|user| !user.is_empty()),
            _ => None,
        };
        if reader.is_some_and(|reader| !self.topology.domains.allow_ids(reader, parts.group.as_str())) {
            return self.refuse(parts.slot, &Failure::OtherDomain(parts.group.to_string()));
        }
        match op {
            Op::Send(send) => self.send_to_group(&send, parts, now, time_ms),
            Op::ChangeGroup(change) => self.change_group(*change, parts, now, time_ms),
            Op::Follow(follow) => self.follow_groups(&follow, parts),
            Op::TellChatState(tell) => self.tell_group_chat_state(tell, parts, time_ms),
            Op::Read(read) => {
                let reader = Person { user: read.user.clone(), incarnation: read.incarnation };
                let reader = Some(reader).filter(|reader| !reader.user.is_empty());
                let GroupContext { group, slot, deadline, .. } = parts;
                self.read_page(&TimelineId::Group(group), &read, reader, slot, deadline);
            }
            Op::ReadGroup(link::ReadGroup { reader, .. }) => {
                let timeline = TimelineId::Group(parts.group.clone());
                let (key, reader) = (Some(timeline.to_key()), Some(reader.unwrap_or_default()));
                let op = store::ReadGroup { timeline: key, reader, writes_at_ms: 0 };
                self.read_of(&timeline, store_request::Op::ReadGroup(op), parts.slot, parts.deadline);
            }
            Op::ReadMembers(link::ReadMembers { reader, others, after_user, limit, only, .. }) => {
                let timeline = TimelineId::Group(parts.group.clone());
                let (key, reader) = (Some(timeline.to_key()), Some(reader.unwrap_or_default()));
                let op = store::ReadMembers { timeline: key, reader, others, after_user, limit, only, deleted: None };
                self.read_of(&timeline, store_request::Op::ReadMembers(op), parts.slot, parts.deadline);
            }
            _ => self.refuse(parts.slot, &Failure::Invalid("a group is no user")),
        }
    }

    pub(super) fn read_memberships(&mut self, read: &link::ReadMemberships, parts: RequestContext) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Groups);
        }
        let after = match read.after_group.as_str() {
            "" => None,
            after => match GroupId::new(after) {
                Ok(after) => Some(TimelineId::Group(after).to_key()),
                Err(invalid) => return self.refuse(parts.slot, &invalid.into()),
            },
        };
        let timeline = TimelineId::Inbox(parts.user);
        let op = store::ReadMemberships {
            timeline: Some(timeline.to_key()),
            incarnation: read.incarnation,
            device: read.device.clone(),
            after,
            limit: read.limit,
        };
        self.read_of(&timeline, store_request::Op::ReadMemberships(op), parts.slot, parts.deadline);
    }

    fn read_of(&mut self, timeline: &TimelineId, op: store_request::Op, slot: ReplySlot, deadline: Instant) {
        let shard = self.topology.shards.timeline_of(timeline);
        self.ask(shard, op, String::new(), deadline, Continuation::Read(slot));
    }

    fn send_to_group(&mut self, send: &link::Send, parts: GroupContext, now: Instant, time_ms: u64) {
        let said = Said {
            sender: &send.sender,
            sender_device: &send.sender_device,
            client_id: &send.client_id,
            after: &send.after,
            connection: send.connection,
            incarnation: send.incarnation,
            generation: send.generation,
            time_ms: send.time_ms,
            content: &send.content,
            change: &[],
            header: send.header.as_deref(),
            expires_after_ms: send.expires_after_ms,
            to_incarnation: send.to_incarnation,
        };
        let takes_back = send.header.as_ref().is_some_and(|header| header.kind() == Kind::Recall);
        match self.message(&said, takes_back, parts, now, time_ms) {
            Ok(message) => {
                let op = timeline_command::Op::Append(message.append());
                let (timeline, deadline) = (message.timeline(), message.deadline);
                let traceparent = message.traceparent.clone();
                let asked = Continuation::GroupAppend(Box::new(message));
                self.timeline_write(&timeline, op, traceparent, deadline, Place::Own, asked);
            }
            Err((slot, failure)) => self.refuse(slot, &failure),
        }
    }

    pub(super) fn group_appended(
        &mut self,
        mut message: Box<GroupMessage>,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        let placed = appended(answer).and_then(|appended| message.adopt(&appended).map(|again| (appended, again)));
        match placed {
            Ok((appended, again)) => {
                metrics::append(now - message.since);
                if again {
                    metrics::repeat();
                }
                let position = Position { epoch: appended.epoch, seq: appended.seq };
                self.tell_group(&message, position);
                let accepted = message.accepted(position);
                self.end(message.slot, Ok(Answer::Accepted(accepted)));
            }
            Err(failure) => {
                self.group_may_have_missed_by(&message.group, &failure);
                let failure = match failure {
                    // The answer does not fit an append, which may have been carried out.
                    Failure::Store(StoreFailure::Unexpected) => failure.halfway(),
                    failure => failure,
                };
                self.refuse(message.slot, &failure);
            }
        }
    }

    /// A message of somebody whose domain talks to the group's. `ends`: the message takes back another one of its sender, or lets the sender out
    /// of the group, which crosses a closed border, too.
    fn message(
        &self,
        said: &Said<'_>,
        ends: bool,
        parts: GroupContext,
        now: Instant,
        time_ms: u64,
    ) -> Result<GroupMessage, (ReplySlot, Failure)> {
        let mut message = GroupMessage::new(said, parts, now, time_ms)?;
        message.is_beyond = !self.topology.domains.allow(message.sender.domain(), message.group.domain());
        if ends || !message.is_beyond {
            return Ok(message);
        }
        let failure = Failure::OtherDomain(message.group.to_string());
        Err((message.slot, failure))
    }

    fn change_group(&mut self, change: link::ChangeGroup, parts: GroupContext, now: Instant, time_ms: u64) {
        let wanted = match asked(change.change) {
            Ok(wanted) => wanted,
            Err(failure) => return self.refuse(parts.slot, &failure),
        };
        let encoded = told(&wanted).encode_to_vec();
        let said = Said {
            sender: &change.sender,
            sender_device: &change.sender_device,
            client_id: &change.client_id,
            after: &[],
            connection: change.connection,
            incarnation: change.incarnation,
            generation: change.generation,
            time_ms: change.time_ms,
            content: &[],
            change: &encoded,
            header: None,
            expires_after_ms: 0,
            to_incarnation: None,
        };
        let message = match self.message(&said, leaves(&wanted), parts, now, time_ms) {
            Ok(message) => message,
            Err((slot, failure)) => return self.refuse(slot, &failure),
        };
        let number = self.next_token;
        let mut changing = GroupChanging::new(message, wanted);
        let (takes_away, gives_role) = (changing.takes_away(), changing.role().is_some());
        self.follow_domain(&mut changing);
        let (sender, incarnation, deadline) =
            (changing.message.sender.clone(), changing.message.incarnation, changing.deadline());
        let domain = changing.message.group.domain().map(str::to_owned);
        let (mut reads, mut beyond) = (Vec::new(), Vec::new());
        for (at, person) in changing.people_mut().iter_mut().enumerate() {
            match UserId::new(&person.user) {
                Ok(user) if user == sender => person.incarnation = incarnation,
                Ok(user) if self.topology.domains.allow(user.domain(), domain.as_deref()) => reads.push((at, user)),
                Ok(user) if takes_away => {
                    beyond.push(user.as_str().to_owned());
                    reads.push((at, user));
                }
                Ok(user) => {
                    let failure = Failure::OtherDomain(user.to_string());
                    return self.refuse(changing.message.slot, &failure);
                }
                Err(invalid) => return self.refuse(changing.message.slot, &invalid.into()),
            }
        }
        changing.waits = reads.len();
        self.changing.insert(number, changing);
        if reads.is_empty() {
            return self.append_change(number);
        }
        for (at, user) in reads {
            let by = Some(BlockedUser { user: sender.as_str().to_owned(), incarnation });
            let op = store_request::Op::ReadUser(ReadUser { user: user.as_str().to_owned(), by });
            let shard = self.topology.shards.directory_of(&user);
            self.ask(shard, op, String::new(), deadline, Continuation::Person(number, at));
        }
        if gives_role && !beyond.is_empty() {
            self.read_roles(number, beyond);
        }
    }

    /// Everybody whom the change names is known.
    pub(super) fn append_change(&mut self, number: u64) {
        let Some(changing) = self.changing.get(&number) else { return };
        if changing.most_groups.is_some() {
            return self.count_own_groups(number, None);
        }
        let op = timeline_command::Op::ChangeGroup(changing.command());
        let (timeline, deadline) = (changing.message.timeline(), changing.deadline());
        let traceparent = changing.message.traceparent.clone();
        self.timeline_write(&timeline, op, traceparent, deadline, Place::Own, Continuation::GroupChanged(number));
    }

    pub(super) fn group_changed(&mut self, number: u64, answer: Result<StoreAnswer, StoreFailure>, now: Instant) {
        let Some(changing) = self.changing.get_mut(&number) else { return };
        let placed =
            appended(answer).and_then(|appended| changing.message.adopt(&appended).map(|again| (appended, again)));
        let (appended, again) = match placed {
            Ok(placed) => placed,
            Err(failure) => {
                let failure = match (failure, changing.not_allowed.take()) {
                    // The request is no repeat.
                    (Failure::Store(StoreFailure::NotFound { .. }), Some(why)) => Failure::OfDomain(why),
                    (Failure::Store(StoreFailure::Unexpected), _) => Failure::Store(StoreFailure::Unexpected).halfway(),
                    (failure, _) => failure,
                };
                if let Some(changing) = self.changing.remove(&number) {
                    self.group_may_have_missed_by(&changing.message.group, &failure);
                    self.refuse(changing.message.slot, &failure);
                }
                return;
            }
        };
        metrics::append(now - changing.message.since);
        if again {
            metrics::repeat();
        }
        changing.position = Position { epoch: appended.epoch, seq: appended.seq };
        let mut memberships = changing.memberships(appended.incarnation);
        if again {
            // The names of others may have other owners than at the first attempt. The worker makes good what it left undone.
            memberships.retain(|(user, _)| *user == changing.message.sender);
        }
        changing.waits = memberships.len();
        let (deadline, position) = (changing.deadline(), changing.position);
        let telling = Delivery {
            timeline: changing.message.timeline(),
            incarnation: 0,
            position,
            envelope: changing.message.envelope.clone(),
            traceparent: changing.message.traceparent.clone(),
            except: Some((changing.message.lease, changing.message.connection)),
            passed_on: false,
        };
        // The name of a user whom the change names was the last owner's, whose account has ended.
        let heir = Some(appended.heir_envelope).filter(|envelope| !envelope.is_empty()).map(|envelope| Delivery {
            position: Position { seq: position.seq + 1, ..position },
            envelope,
            except: None,
            ..telling.clone()
        });
        self.tell_followers(telling);
        heir.into_iter().for_each(|heir| self.tell_followers(heir));
        for (user, set) in memberships {
            let incarnation = set.append.as_ref().map_or(0, |append| append.incarnation);
            let timeline = TimelineId::Inbox(user.clone());
            let op = timeline_command::Op::SetMembership(set);
            let asked = Continuation::MembershipSet(number, user, incarnation);
            self.timeline_write(&timeline, op, String::new(), deadline, Place::Follows, asked);
        }
        self.end_change(number);
    }

    pub(super) fn membership_set(
        &mut self,
        number: u64,
        user: UserId,
        incarnation: u64,
        answer: Result<StoreAnswer, StoreFailure>,
    ) {
        let Some(changing) = self.changing.get_mut(&number) else { return };
        changing.waits -= 1;
        match answer {
            Ok(StoreAnswer::Appended(appended)) => self.effects.push(Effect::Deliver(Delivery {
                timeline: TimelineId::Inbox(user),
                incarnation,
                position: Position { epoch: appended.epoch, seq: appended.seq },
                envelope: changing.message.envelope.clone(),
                traceparent: changing.message.traceparent.clone(),
                except: None,
                passed_on: false,
            })),
            // A later change is there already, or the account has ended.
            Ok(StoreAnswer::Done(_)) | Err(StoreFailure::Gone { .. }) => {}
            // The client repeats the change, and then what is missing is made good.
            other => changing.failed = changing.failed.take().or(Some(unexpected(other).halfway())),
        }
        self.end_change(number);
    }

    fn end_change(&mut self, number: u64) {
        if self.changing.get(&number).is_none_or(|changing| changing.waits > 0) {
            return;
        }
        let Some(GroupChanging { mut message, failed, position, .. }) = self.changing.remove(&number) else { return };
        self.nudges.nudge(self.topology.shards.timeline_of(&message.timeline()));
        match failed {
            Some(failure) => self.refuse(message.slot, &failure),
            None => {
                let accepted = message.accepted(position);
                self.end(message.slot, Ok(Answer::Accepted(accepted)));
            }
        }
    }

    /// The link has registered the gateway already: what is appended from here on is pushed to it.
    fn follow_groups(&mut self, follow: &link::Follow, parts: GroupContext) {
        let mut by_shard: BTreeMap<ShardId, Vec<GroupId>> = BTreeMap::new();
        for group in &follow.groups {
            match GroupId::new(group) {
                Ok(group) => {
                    let shard = self.topology.shards.timeline_of(&TimelineId::Group(group.clone()));
                    by_shard.entry(shard).or_default().push(group);
                }
                Err(invalid) => return self.refuse(parts.slot, &invalid.into()),
            }
        }
        if by_shard.is_empty() {
            return self.end(parts.slot, Ok(Answer::Heads(Heads::default())));
        }
        let number = self.next_token;
        let following = Following { slot: parts.slot, heads: Vec::new(), waits: by_shard.len(), failed: None };
        self.following.insert(number, following);
        for (shard, groups) in by_shard {
            for group in &groups {
                self.checks.add(&TimelineId::Group(group.clone()), shard);
            }
            let read = |group: &GroupId| ReadHead {
                timeline: Some(TimelineId::Group(group.clone()).to_key()),
                ..ReadHead::default()
            };
            let op = store_request::Op::ReadHeads(ReadHeads { reads: groups.iter().map(read).collect() });
            self.ask(shard, op, String::new(), parts.deadline, Continuation::Followed(number, groups));
        }
    }

    pub(super) fn followed(&mut self, number: u64, groups: &[GroupId], answer: Result<StoreAnswer, StoreFailure>) {
        let Some(following) = self.following.get_mut(&number) else { return };
        following.waits -= 1;
        match answer {
            Ok(StoreAnswer::HeadsRead(read)) => {
                let head = |(group, read): (&GroupId, HeadRead)| {
                    // Epoch 0: it does not exist any more.
                    let head = read.head.filter(|head| head.epoch != 0)?;
                    self.followers.begins_at(group, Position { epoch: head.epoch, seq: head.last });
                    Some(TimelineHead {
                        timeline: Some(TimelineId::Group(group.clone()).to_client()),
                        head: Some(head),
                    })
                };
                following.heads.extend(groups.iter().zip(read.heads).filter_map(head));
            }
            other => following.failed = following.failed.take().or(Some(unexpected(other))),
        }
        if following.waits == 0
            && let Some(Following { slot, heads, failed, .. }) = self.following.remove(&number)
        {
            self.end(slot, failed.map_or(Ok(Answer::Heads(Heads { heads })), Err));
        }
    }

    /// An append to this group has failed. If it may have been carried out nevertheless, the group is checked soon.
    fn group_may_have_missed_by(&mut self, group: &GroupId, failure: &Failure) {
        if matches!(
            failure,
            Failure::Store(StoreFailure::Expired { .. } | StoreFailure::Unexpected) | Failure::Halfway { .. }
        ) {
            self.group_may_have_missed(group);
        }
    }

    fn tell_group(&mut self, message: &GroupMessage, position: Position) {
        self.tell_followers(Delivery {
            timeline: message.timeline(),
            incarnation: 0,
            position,
            envelope: message.envelope.clone(),
            traceparent: message.traceparent.clone(),
            except: Some((message.lease, message.connection)),
            passed_on: false,
        });
    }

    /// Tells those who follow the group here, and the new owner, if there is one.
    fn tell_followers(&mut self, delivery: Delivery) {
        if !self.topology.owns(delivery.timeline.owner()) {
            self.effects.push(Effect::Deliver(delivery.clone()));
        }
        self.deliver(delivery);
    }

    fn timeline_write(
        &mut self,
        timeline: &TimelineId,
        op: timeline_command::Op,
        traceparent: String,
        deadline: Instant,
        place: Place,
        asked: Continuation,
    ) {
        let op = store_request::Op::Timeline(TimelineCommand { op: Some(op) });
        let shard = self.topology.shards.timeline_of(timeline);
        let token = self.token(asked);
        self.effects.push(Effect::Store { token, shard, op, traceparent, deadline, place });
    }
}
