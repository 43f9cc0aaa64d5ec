//! The groups that a session follows. At its beginning it reads which groups the user is in. From then on an entry of the inbox says
//! that this has changed, and an entry of the group's own log that the user is no longer in it. See docs/adr/0025-groups.md.

use std::time::{Duration, Instant};

use bytes::Bytes;
use carillon_proto::{
    GroupId, KeyedSet, Position, TimelineId,
    pb::{
        client::{
            self, Code, GroupChange, Start, TimelineState, group_change::What, members_change::Kind, recipient::To,
        },
        link::{RawEnvelope, ReadGroup, Refusal, router_reply::Result as Reply, router_request::Op},
        store::{self, Head, MembershipsRead, member::Standing, memberships_read, timeline_key},
    },
};
use prost::Message as _;

use super::{
    Effect, Now, Rules, Tag, Tell,
    delivery::tell,
    following::{CHECK_AGAIN, Loading, State, Timeline, Which},
    live::Live,
    positions::{DeliveryStart, GivenPositions},
};
use crate::feeds::{Beginning, Begun, Entry, FeedAsk, Followed, FoundGroups, Next};

/// Most groups that are read at once.
const PAGE: u32 = 1024;
/// Most states of timelines in one frame.
const STATES: usize = 256;
/// For how long the gateway's feeds may find out how far a group reaches, before its owner is asked.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before it is found out why a group's feed has ended.
const LOST: Duration = Duration::from_millis(500);

/// Tells the client the entries of one timeline, and notes what they mean for groups.
pub(super) struct Telling<'a> {
    user: &'a str,
    now: Now,
    out: &'a mut Vec<Effect>,
    /// Changes before this position are known, or mean nothing.
    after: u64,
    /// The user has left the group: nothing after that is told.
    ended: bool,
    /// Groups in which the user's membership has changed.
    changed: Vec<GroupId>,
}

impl Telling<'_> {
    fn next(&mut self, next: Next) {
        if self.ended {
            return;
        }
        if let Next::Entry(entry) = &next
            && let Some(change) = &entry.change
            && entry.position.seq > self.after
        {
            match &entry.timeline.id {
                TimelineId::Inbox(_) => self.changed.extend(moved(entry, change)),
                TimelineId::Group(_) if ends(change, self.user) => self.ended = true,
                // A member can't come in again: the user's name has another owner now, or a part of the log is no longer kept.
                TimelineId::Group(group) if comes_in(change, self.user) => {
                    self.ended = true;
                    return self.changed.push(group.clone());
                }
                TimelineId::Group(_) => {}
            }
        }
        tell(next, self.now, self.out);
    }
}

/// The group, if the entry of an inbox says that its user is in it now, or no longer is.
fn moved(entry: &Entry, change: &GroupChange) -> Option<GroupId> {
    if let Some(What::Members(members)) = &change.what
        && matches!(members.kind(), Kind::Invited | Kind::Pardoned)
    {
        return None;
    }
    let envelope = RawEnvelope::decode(entry.envelope.clone()).ok()?;
    match envelope.to?.to? {
        To::Group(group) => GroupId::new(&group).ok(),
        To::User(_) => None,
    }
}

/// True if the change in a group's log makes a member of this user.
fn comes_in(change: &GroupChange, user: &str) -> bool {
    matches!(&change.what, Some(What::Members(members))
        if matches!(members.kind(), Kind::Joined | Kind::Added) && members.users.iter().any(|named| named == user))
}

/// True if the change in a group's log ends the membership of this user.
fn ends(change: &GroupChange, user: &str) -> bool {
    match &change.what {
        Some(What::Deleted(_)) => true,
        Some(What::Members(members)) => {
            matches!(members.kind(), Kind::Left | Kind::Removed | Kind::Banned)
                && members.users.iter().any(|named| named == user)
        }
        Some(What::Created(_) | What::Set(_)) | None => false,
    }
}

impl Live {
    /// Lets `work` use the timeline, if the session follows it. Does then what follows from the entries that were told.
    pub(super) fn with<T>(
        &mut self,
        which: Which<'_>,
        now: Now,
        out: &mut Vec<Effect>,
        work: impl FnOnce(&mut Timeline, &mut dyn FnMut(Next)) -> T,
    ) -> Option<T> {
        let after = match which {
            Which::Inbox => self.inbox_known,
            Which::Group(group) => self.timelines.since(group),
        };
        let timeline = self.timelines.get_mut(which)?;
        let user = self.who.user.as_str();
        // The operator may have decided that the domains no longer talk to each other.
        let ended = matches!(which, Which::Group(group) if !self.domains.allow(user, group));
        let mut telling = Telling { user, now, out: &mut *out, after, ended, changed: Vec::new() };
        let result = work(timeline, &mut |next| telling.next(next));
        let Telling { ended, changed, .. } = telling;
        match which {
            Which::Group(group) if ended => self.end_group(group, out),
            which => self.timelines.settle(which),
        }
        for group in changed {
            self.check_group(group, out);
        }
        Some(result)
    }

    /// Reads which groups the user is in. `positions`: how far the device has each, as it says.
    pub(super) fn load_groups(
        &mut self,
        rules: &Rules,
        positions: GivenPositions,
        start: Start,
        out: &mut Vec<Effect>,
    ) {
        let loading = Box::new(Loading {
            start,
            positions,
            checked: KeyedSet::default(),
            after: String::new(),
            waits_for_level: !rules.has_groups(),
            again_at: None,
        });
        let begins = !loading.waits_for_level;
        self.timelines.groups_or_new().loading = Some(loading);
        if begins {
            self.read_groups_page(out);
        }
    }

    fn read_groups_page(&mut self, out: &mut Vec<Effect>) {
        let Some(loading) = self.timelines.groups_mut().and_then(|groups| groups.loading.as_mut()) else { return };
        loading.again_at = None;
        let after = loading.after.clone();
        let op = self.read_memberships(after, PAGE, self.who.device.as_str().to_owned());
        out.push(Effect::Request { tag: Tag::Memberships, op, traceparent: String::new() });
    }

    pub(super) fn memberships_read(&mut self, now: Now, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        let Some(groups) = self.timelines.groups_mut() else { return };
        let Some(mut loading) = groups.loading.take() else { return };
        let MembershipsRead { memberships, complete } = match result {
            Ok(Reply::MembershipsRead(read)) => read,
            Ok(_) | Err(_) => {
                loading.again_at = Some(now.instant + CHECK_AGAIN);
                groups.loading = Some(loading);
                return;
            }
        };
        let last = memberships.last().and_then(|row| Some(row.group.as_ref()?.owner_str().ok()?.to_owned()));
        let mut begin = Vec::with_capacity(memberships.len());
        for row in memberships {
            let Some((group, beginning)) = loading.beginning(row) else { continue };
            // Groups that are followed already, or were checked meanwhile, are known by more recent answers.
            let is_known = |name: &str| loading.checked.contains(name) || groups.contains(name);
            let is_within = |name: &str| self.domains.allow(self.who.user.as_str(), name);
            if std::str::from_utf8(&group).is_ok_and(|name| is_within(name) && !is_known(name)) {
                begin.push((group, beginning));
            }
        }
        let has_any = !begin.is_empty();
        if has_any {
            out.push(Effect::Feed(FeedAsk::Begin(begin)));
        }
        if let Some(last) = last.filter(|_| !complete) {
            loading.after = last;
            groups.loading = Some(loading);
            self.read_groups_page(out);
        } else if !has_any {
            self.timelines.forget_no_groups();
        }
    }

    /// Feeds' answer about the groups that were read.
    pub(super) fn found(&mut self, now: Now, FoundGroups { live, others }: FoundGroups, out: &mut Vec<Effect>) {
        let groups = self.timelines.groups_or_new();
        groups.are_live(live);
        let mut begun = Vec::new();
        for (group, beginning, head) in others {
            groups.set(group.clone(), State::Beginning(Box::new(beginning)));
            match head {
                Some(head) => begun.push((group, Some(head))),
                None => groups.begin_by = Some(now.instant + BEGIN_PATIENCE),
            }
        }
        self.begun(now, begun, out);
    }

    /// Follows these groups, whose heads are known now.
    pub(super) fn begun(&mut self, now: Now, begun: Vec<Begun>, out: &mut Vec<Effect>) {
        let (mut states, mut follows) = (Vec::new(), Vec::new());
        for (group, head) in begun {
            let beginning = self.timelines.groups().and_then(|groups| groups.beginning(group.as_str()));
            let Some(beginning) = beginning else { continue };
            match head.filter(|head| head.epoch != 0) {
                Some(head) => {
                    follows.push(group.clone());
                    states.extend(self.follow_group(now.instant, group, beginning, head));
                }
                None => self.check_group(group, out),
            }
        }
        while !states.is_empty() {
            let rest = states.split_off(states.len().min(STATES));
            out.push(Effect::Tell(Tell::Timelines(states)));
            states = rest;
        }
        for group in follows {
            if self.timelines.groups_mut().is_some_and(|groups| groups.begins_now(group.as_str())) {
                self.step(Which::Group(group.as_str()), now, out);
            }
        }
    }

    /// Delivery of the group begins. What the client is told of that, unless it has said itself that it has everything.
    fn follow_group(
        &mut self,
        now: Instant,
        group: GroupId,
        beginning: Beginning,
        head: Head,
    ) -> Option<TimelineState> {
        let Beginning { since, given, cursor, start } = beginning;
        let cursor = cursor.filter(|cursor| cursor.epoch == head.epoch);
        let head = Head { cursor: cursor.map_or(0, |cursor| cursor.seq), has_cursor: cursor.is_some(), ..head };
        let mut begin = DeliveryStart::new(head, given, start);
        // Messages of the time before the membership are fetched, if the group lets its members read them.
        begin.from = begin.from.max(since.saturating_sub(1)).min(begin.last.max(since.saturating_sub(1)));
        begin.last = begin.last.max(begin.from);
        let timeline = TimelineId::Group(group.clone());
        let news = begin.is_news(given).then(|| begin.state(timeline.to_client()));
        let followed = Followed::new(timeline, carillon_proto::Epoch(begin.epoch), begin.from, begin.last, now);
        self.timelines.groups_or_new().follow(group, since, followed);
        news
    }

    /// Asks the group's owner whether the user is in it.
    pub(super) fn check_group(&mut self, group: GroupId, out: &mut Vec<Effect>) {
        let reader = Some(self.person());
        let groups = self.timelines.groups_or_new();
        if let Some(loading) = &mut groups.loading {
            loading.checked.insert(group.clone());
        }
        if let Some(again) = groups.checks.get_mut(group.as_str()) {
            *again = true;
            return;
        }
        groups.checks.insert(group.clone(), false);
        let op = Op::ReadGroup(ReadGroup { group: group.as_str().to_owned(), reader });
        out.push(Effect::Request { tag: Tag::Membership(group), op, traceparent: String::new() });
    }

    pub(super) fn checked(&mut self, now: Now, group: GroupId, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        let again = self.timelines.groups_mut().and_then(|groups| groups.checks.remove(group.as_str()));
        match result {
            Ok(Reply::GroupRead(read)) => {
                let member = read.reader.filter(|row| row.standing() == Standing::Member);
                match member.zip(read.head.filter(|head| head.epoch != 0)) {
                    Some((member, head)) => self.is_in(now, &group, &member, head, out),
                    None => self.end_group(group.as_str(), out),
                }
            }
            Err(why) if matches!(why.code(), Code::NotFound | Code::Forbidden | Code::Unsupported | Code::Invalid) => {
                self.end_group(group.as_str(), out);
            }
            Ok(_) | Err(_) => {
                let at = (now.instant + CHECK_AGAIN, group.clone());
                self.timelines.groups_or_new().check_again.insert(at);
            }
        }
        if again == Some(true) {
            self.check_group(group, out);
        }
    }

    fn is_in(&mut self, now: Now, group: &GroupId, member: &store::Member, head: Head, out: &mut Vec<Effect>) {
        let groups = self.timelines.groups_or_new();
        let known = groups.get_mut(group.as_str());
        let new = Beginning { since: member.since_seq, given: None, cursor: None, start: Start::Cursor };
        let beginning = match known {
            Some(State::Following(followed)) if [0, head.epoch].contains(&followed.timeline.followed.epoch().0) => {
                followed.since = member.since_seq;
                return groups.settle(group.as_str());
            }
            // Of another epoch: a later group of the same name, or it was restored.
            Some(State::Following(_)) => {
                self.end_group(group.as_str(), out);
                new
            }
            Some(State::Lost(told)) => Beginning { given: Some((*told).into()), ..new },
            Some(State::Beginning(beginning)) => Beginning { since: member.since_seq, ..**beginning },
            None => new,
        };
        out.push(Effect::Feed(FeedAsk::Expect(TimelineId::Group(group.clone()))));
        let state = self.follow_group(now.instant, group.clone(), beginning, head);
        out.extend(state.map(|state| Effect::Tell(Tell::Timelines(vec![state]))));
        self.timelines.settle(Which::Group(group.as_str()));
    }

    /// The user is not in the group.
    pub(super) fn end_group(&mut self, group: &str, out: &mut Vec<Effect>) {
        let Some(groups) = self.timelines.groups_mut() else { return };
        let Some((group, _)) = groups.remove(group) else { return };
        out.push(Effect::Feed(FeedAsk::Leave(TimelineId::Group(group))));
    }

    /// The group's feed has ended, or the group can't be read. It is soon found out why.
    pub(super) fn lost(&mut self, now: Now, group: &str, out: &mut Vec<Effect>) {
        let Some(groups) = self.timelines.groups_mut() else { return };
        let Some((group, State::Following(followed))) = groups.remove(group) else { return };
        let followed = followed.timeline.followed;
        let told = Position { epoch: followed.epoch(), seq: followed.given() };
        groups.set(group.clone(), State::Lost(told));
        groups.check_again.insert((now.instant + LOST, group.clone()));
        out.push(Effect::Feed(FeedAsk::Leave(TimelineId::Group(group))));
    }

    /// Does what is due for groups.
    pub(super) fn flow_groups(&mut self, rules: &Rules, now: Now, out: &mut Vec<Effect>) {
        let Some(groups) = self.timelines.groups_mut() else { return };
        if let Some(loading) = &mut groups.loading
            && (loading.waits_for_level && rules.has_groups() || loading.again_at.is_some_and(|at| at <= now.instant))
        {
            loading.waits_for_level = false;
            self.read_groups_page(out);
        }
        let checks = self.timelines.groups_mut().map(|groups| groups.take_checks(now.instant)).unwrap_or_default();
        for group in checks {
            self.check_group(group, out);
        }
        while let Some(group) = self.timelines.groups_mut().and_then(|groups| groups.take_due(now.instant)) {
            self.step(Which::Group(group.as_str()), now, out);
        }
    }
}

impl Loading {
    /// The beginning of delivery in a group that the user is in. The group's name is not checked.
    fn beginning(&self, row: memberships_read::Row) -> Option<(Bytes, Beginning)> {
        let membership = row.membership.filter(|membership| membership.standing() == Standing::Member)?;
        let group = row.group.filter(|group| group.kind() == timeline_key::Kind::Group)?.owner;
        let cursor = row.epoch.map(|epoch| client::Position { epoch, seq: row.seq });
        let given = self.positions.of(&group);
        Some((group, Beginning { since: membership.seq, given, cursor, start: self.start }))
    }
}
