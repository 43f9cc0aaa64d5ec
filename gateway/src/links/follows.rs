//! The groups that this gateway follows, and the routers that have been told so. A router pushes the envelopes of the groups of which the open
//! link has told it; so all is told anew on each new link, and when the owner changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::{
    GroupId, KeyedMap, KeyedSet, Ring, limits,
    pb::link::{Follow, RouterReply, RouterRequest, TimelineHead, router_reply, router_request::Op},
};

/// Ids of these requests have this bit; those of other requests never reach it.
const IDS: u64 = 1 << 63;
/// Most unanswered requests to one router. Further groups wait, so that a restarted router is not flooded.
const MAX_UNANSWERED: usize = 4;
/// Pause before a group is told again of which the router would not hear.
const AGAIN: Duration = Duration::from_millis(200);
/// For how long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct GroupFollows {
    ring: Arc<Ring>,
    up: KeyedSet<Arc<str>>,
    /// Each group that sessions follow, and the router that has answered that it knows so. Bounded by the feeds.
    groups: KeyedMap<GroupId, Option<Arc<str>>>,
    /// Groups of which their owner has to be told. Others are told when there is a link to their owner.
    unsaid: BTreeSet<GroupId>,
    /// When groups are told again.
    again: BTreeSet<(Instant, GroupId)>,
    /// Groups that are no longer followed, of which routers are to be told.
    unfollow: BTreeMap<Arc<str>, BTreeSet<GroupId>>,
    unanswered: BTreeMap<u64, Unanswered>,
    last_id: u64,
}

struct Unanswered {
    to: Arc<str>,
    groups: Vec<GroupId>,
    until: Instant,
}

/// How far groups reach, by a router's answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) groups: Vec<GroupId>,
    pub(crate) heads: Vec<TimelineHead>,
}

impl GroupFollows {
    pub(crate) fn new() -> Self {
        Self {
            ring: Arc::new(Ring::empty()),
            up: KeyedSet::default(),
            groups: KeyedMap::default(),
            unsaid: BTreeSet::new(),
            again: BTreeSet::new(),
            unfollow: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            last_id: IDS,
        }
    }

    /// True if the answer is to one of these requests.
    pub(crate) fn is_answer(reply: &RouterReply) -> bool {
        reply.id & IDS != 0
    }

    /// Sessions have begun to follow the group, or the last one has gone. If it is new here, its head is asked for in any case.
    pub(crate) fn changed(&mut self, group: GroupId, is_followed: bool) {
        if is_followed {
            // Or it could be taken back behind what is said now.
            for gone in self.unfollow.values_mut() {
                gone.remove(&group);
            }
            self.groups.entry(group.clone()).or_default();
            self.unsaid.insert(group);
            return;
        }
        self.unsaid.remove(&group);
        let Some(at) = self.groups.remove(&group) else { return };
        let asked = self.unanswered.values().filter(|asked| asked.groups.contains(&group));
        let routers: BTreeSet<Arc<str>> = asked.map(|asked| Arc::clone(&asked.to)).chain(at).collect();
        for router in routers.into_iter().filter(|router| self.up.contains(router)) {
            self.unfollow.entry(router).or_default().insert(group.clone());
        }
    }

    pub(crate) fn up(&mut self, address: &Arc<str>) {
        self.forget(address);
        self.up.insert(Arc::clone(address));
        let ring = Arc::clone(&self.ring);
        self.say(|group, _| ring.owner(group.as_str()).is_some_and(|owner| *owner.address == **address));
    }

    pub(crate) fn down(&mut self, address: &Arc<str>) {
        self.forget(address);
        self.up.remove(address);
    }

    pub(crate) fn ring(&mut self, ring: &Arc<Ring>) {
        self.ring = Arc::clone(ring);
        self.say(|group, at| ring.owner(group.as_str()).is_some_and(|owner| Some(&*owner.address) != at));
    }

    /// A router has answered.
    pub(crate) fn answered(&mut self, from: &Arc<str>, reply: RouterReply, now: Instant) -> Option<Told> {
        if self.unanswered.get(&reply.id).is_none_or(|asked| asked.to != *from) {
            return None;
        }
        let Unanswered { to, groups, .. } = self.unanswered.remove(&reply.id)?;
        let Some(router_reply::Result::Heads(heads)) = reply.result else {
            self.again(groups, now);
            return None;
        };
        let mut known = Vec::with_capacity(groups.len());
        for group in groups {
            // The last session may have gone meanwhile.
            let Some(at) = self.groups.get_mut(&group) else { continue };
            if let Some(before) = at.replace(Arc::clone(&to)).filter(|before| *before != to)
                && self.up.contains(&before)
            {
                self.unfollow.entry(before).or_default().insert(group.clone());
            }
            known.push(group);
        }
        Some(Told { groups: known, heads: heads.heads })
    }

    /// Tries this request again later: the link had no room for it.
    pub(crate) fn unsent(&mut self, id: u64, now: Instant) {
        if let Some(Unanswered { groups, .. }) = self.unanswered.remove(&id) {
            self.again(groups, now);
        }
    }

    /// Requests that are due, with their routers, in this order.
    pub(crate) fn requests(&mut self, now: Instant) -> Vec<(Arc<str>, RouterRequest)> {
        self.wait_no_longer(now);
        let mut to_say: BTreeMap<Arc<str>, Vec<GroupId>> = BTreeMap::new();
        for group in std::mem::take(&mut self.unsaid) {
            let owner = self.ring.owner(group.as_str()).and_then(|owner| self.up.get(owner.address.as_str()));
            if let Some(owner) = owner {
                to_say.entry(Arc::clone(owner)).or_default().push(group);
            }
        }
        let routers: BTreeSet<Arc<str>> = to_say.keys().chain(self.unfollow.keys()).cloned().collect();
        let mut requests = Vec::new();
        for router in routers {
            let mut groups = to_say.remove(&router).unwrap_or_default();
            let mut unfollow: Vec<GroupId> = self.unfollow.remove(&router).into_iter().flatten().collect();
            let mut room = MAX_UNANSWERED.saturating_sub(self.unanswered_of(&router));
            while room > 0 && !(groups.is_empty() && unfollow.is_empty()) {
                room -= 1;
                let part: Vec<GroupId> = groups.drain(..groups.len().min(limits::HEADS)).collect();
                let gone: Vec<GroupId> = unfollow.drain(..unfollow.len().min(limits::HEADS)).collect();
                requests.push((Arc::clone(&router), self.request(&router, part, &gone, now)));
            }
            self.unsaid.extend(groups);
            if !unfollow.is_empty() {
                self.unfollow.insert(router, unfollow.into_iter().collect());
            }
        }
        requests
    }

    fn request(&mut self, to: &Arc<str>, groups: Vec<GroupId>, gone: &[GroupId], now: Instant) -> RouterRequest {
        self.last_id += 1;
        let names = |groups: &[GroupId]| groups.iter().map(|group| group.as_str().to_owned()).collect();
        let follow = Follow { groups: names(&groups), unfollow: names(gone) };
        let asked = Unanswered { to: Arc::clone(to), groups, until: now + PATIENCE };
        self.unanswered.insert(self.last_id, asked);
        RouterRequest {
            id: self.last_id,
            ring_version: self.ring.version(),
            traceparent: String::new(),
            deadline_ms: u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX),
            era: 0,
            op: Some(Op::Follow(follow)),
        }
    }

    /// Lets groups be told again of which no answer came in time, or whose time to be told again has come.
    fn wait_no_longer(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.unanswered.iter().filter(|(_, asked)| asked.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.unsent(id, now);
        }
        while self.again.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, group)) = self.again.pop_first()
                && self.groups.contains_key(&group)
            {
                self.unsaid.insert(group);
            }
        }
    }

    fn again(&mut self, groups: Vec<GroupId>, now: Instant) {
        self.again.extend(groups.into_iter().map(|group| (now + AGAIN, group)));
    }

    /// The link to this router is over, and what was told on it.
    fn forget(&mut self, address: &Arc<str>) {
        self.unanswered.retain(|_, asked| asked.to != *address);
        self.unfollow.remove(address);
        self.groups.values_mut().filter(|at| at.as_ref() == Some(address)).for_each(|at| *at = None);
    }

    fn unanswered_of(&self, router: &Arc<str>) -> usize {
        self.unanswered.values().filter(|asked| asked.to == *router).count()
    }

    /// `which` gets the group and the router that knows that it is followed.
    fn say(&mut self, which: impl Fn(&GroupId, Option<&str>) -> bool) {
        let groups = self.groups.iter().filter(|(group, at)| which(group, at.as_deref()));
        self.unsaid.extend(groups.map(|(group, _)| group.clone()));
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        TimelineId,
        pb::{
            link::{Heads, NotOwner},
            store::{Head, Node, NodeKind, RegistryView},
        },
    };

    use super::*;

    fn ring(version: u64, routers: &[&str]) -> Arc<Ring> {
        let node = |(index, address): (usize, &&str)| Node {
            lease: 1 + index as u64,
            kind: NodeKind::Router.into(),
            address: (*address).to_owned(),
            slot: None,
        };
        let nodes = routers.iter().enumerate().map(node).collect();
        Arc::new(Ring::from_view(&RegistryView { version, ring_version: version, nodes, ..Default::default() }))
    }

    fn group(number: usize) -> GroupId {
        GroupId::new(&format!("group-{number}")).expect("valid")
    }

    fn follow(request: &RouterRequest) -> &Follow {
        match &request.op {
            Some(Op::Follow(follow)) => follow,
            other => panic!("{other:?}"),
        }
    }

    fn heads(follow: &Follow) -> router_reply::Result {
        let head = |group: &String| {
            let timeline = TimelineId::Group(GroupId::new(group).expect("valid")).to_client();
            TimelineHead {
                timeline: Some(timeline),
                head: Some(Head { epoch: 7, first: 1, last: 3, ..Head::default() }),
            }
        };
        router_reply::Result::Heads(Heads { heads: follow.groups.iter().map(head).collect() })
    }

    fn reply(request: &RouterRequest, result: router_reply::Result) -> RouterReply {
        RouterReply { id: request.id, result: Some(result) }
    }

    fn following(count: usize) -> (GroupFollows, Arc<str>) {
        let (mut follows, a): (_, Arc<str>) = (GroupFollows::new(), Arc::from("a"));
        follows.ring(&ring(1, &["a"]));
        follows.up(&a);
        (0..count).for_each(|number| follows.changed(group(number), true));
        (follows, a)
    }

    #[test]
    fn groups_are_told_in_batches_and_few_at_once() {
        let (mut follows, a) = following(1_500);
        let now = Instant::now();
        let first = follows.requests(now);
        let sizes = |requests: &[(Arc<str>, RouterRequest)]| {
            requests.iter().map(|(_, request)| follow(request).groups.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&first), [256; 4]);
        assert!(follows.requests(now).is_empty(), "the others wait");
        let told = follows.answered(&a, reply(&first[0].1, heads(follow(&first[0].1))), now).expect("told");
        assert_eq!((told.groups.len(), told.heads.len()), (256, 256));
        assert_eq!(sizes(&follows.requests(now)), [256]);
    }

    #[test]
    fn what_nobody_follows_any_more_is_told_once_also_while_it_is_being_followed() {
        let (mut follows, a) = following(2);
        let now = Instant::now();
        let asked = follows.requests(now);
        follows.changed(group(0), false);
        let gone = follows.requests(now);
        assert_eq!((&*gone[0].0, &follow(&gone[0].1).unfollow[..]), ("a", &["group-0".to_owned()][..]));
        let told = follows.answered(&a, reply(&asked[0].1, heads(follow(&asked[0].1))), now).expect("told");
        assert_eq!(told.groups, [group(1)]);
        assert!(follows.requests(now).is_empty());
        follows.changed(group(2), false);
        assert!(follows.requests(now).is_empty(), "never told");
    }

    #[test]
    fn a_new_link_and_a_new_owner_are_told_and_the_old_owner_forgets() {
        let (mut follows, a) = following(8);
        let now = Instant::now();
        let answer_all = |follows: &mut GroupFollows| {
            let requests = follows.requests(now);
            for (to, request) in &requests {
                follows.answered(to, reply(request, heads(follow(request))), now);
            }
            requests
        };
        assert_eq!(answer_all(&mut follows).len(), 1);
        follows.up(&a);
        assert_eq!(follow(&answer_all(&mut follows)[0].1).groups.len(), 8, "the link is new");
        let two = ring(2, &["a", "b"]);
        follows.ring(&two);
        assert!(answer_all(&mut follows).is_empty(), "there is no link to the new owner yet");
        follows.up(&Arc::from("b"));
        let moved: Vec<String> = follow(&answer_all(&mut follows)[0].1).groups.clone();
        assert!(!moved.is_empty() && moved.iter().all(|group| two.owner(group).expect("owned").address == "b"));
        let (to, request) = &answer_all(&mut follows)[0];
        assert_eq!((&**to, &follow(request).unfollow), ("a", &moved));
        follows.down(&Arc::from("b"));
        assert!(answer_all(&mut follows).is_empty());
    }

    #[test]
    fn who_is_not_the_owner_is_told_again_and_so_is_who_does_not_answer() {
        let (mut follows, a) = following(1);
        let now = Instant::now();
        let asked = follows.requests(now);
        let other = router_reply::Result::NotOwner(NotOwner { ring_version: 2 });
        assert_eq!(follows.answered(&a, reply(&asked[0].1, other), now), None);
        assert!(follows.requests(now).is_empty(), "not at once");
        let asked = follows.requests(now + AGAIN);
        assert_eq!(asked.len(), 1);
        let late = now + AGAIN + PATIENCE;
        assert!(follows.requests(late).is_empty());
        assert_eq!(follows.requests(late + AGAIN).len(), 1);
        assert_eq!(follows.answered(&a, reply(&asked[0].1, heads(follow(&asked[0].1))), late), None, "too late");
    }
}
