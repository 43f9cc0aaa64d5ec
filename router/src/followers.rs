//! Which gateways follow which groups, as their links say. Shared by all partitions.

use std::sync::Arc;

use carillon_proto::{GroupId, KeyedMap, LeaseId};
use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::part::part_of;

/// Number of locks, so that readers seldom meet a writer.
const PARTS: usize = 16;

/// Gateways, each with the number of the link on which it said so last.
type Gateways = SmallVec<[(LeaseId, u64); 4]>;

/// Bounded by the groups that gateways follow, which are bounded by their sessions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Followers(Arc<[RwLock<KeyedMap<GroupId, Gateways>>; PARTS]>);

impl Followers {
    /// From now on the gateway gets what is appended to the group. Then its head is read, so that nothing falls between.
    pub(crate) fn follow(&self, gateway: LeaseId, link: u64, group: &GroupId) {
        let mut part = self.part(group).write();
        let gateways = part.entry(group.clone()).or_default();
        match gateways.iter_mut().find(|(of, _)| *of == gateway) {
            Some((_, known)) => *known = link,
            None => gateways.push((gateway, link)),
        }
    }

    pub(crate) fn unfollow(&self, gateway: LeaseId, group: &GroupId) {
        let mut part = self.part(group).write();
        if let Some(gateways) = part.get_mut(group) {
            gateways.retain(|(of, _)| *of != gateway);
            if gateways.is_empty() {
                part.remove(group);
            }
        }
    }

    /// The link has ended. On the next one the gateway says again what it follows.
    pub(crate) fn left(&self, link: u64) {
        for part in self.0.iter() {
            part.write().retain(|_, gateways| {
                gateways.retain(|(_, of)| *of != link);
                !gateways.is_empty()
            });
        }
    }

    pub(crate) fn of(&self, group: &GroupId) -> SmallVec<[LeaseId; 4]> {
        let part = self.part(group).read();
        part.get(group).into_iter().flatten().map(|(gateway, _)| *gateway).collect()
    }

    fn part(&self, group: &GroupId) -> &RwLock<KeyedMap<GroupId, Gateways>> {
        &self.0[part_of(group.as_str(), PARTS)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_is_told_and_who_has_left_is_forgotten() {
        let followers = Followers::default();
        let [one, other] = ["one", "other"].map(|group| GroupId::new(group).expect("valid"));
        for (gateway, link, group) in [(1, 10, &one), (2, 20, &one), (1, 10, &other), (1, 11, &one)] {
            followers.follow(LeaseId(gateway), link, group);
        }
        let of = |group| followers.of(group).into_iter().map(|lease| lease.0).collect::<Vec<_>>();
        assert_eq!((of(&one), of(&other)), (vec![1, 2], vec![1]));
        followers.unfollow(LeaseId(2), &one);
        followers.unfollow(LeaseId(2), &other);
        assert_eq!((of(&one), of(&other)), (vec![1], vec![1]));
        followers.left(10);
        assert_eq!((of(&one), of(&other)), (vec![1], vec![]), "one was said again on a later link");
        followers.left(11);
        assert!(followers.0.iter().all(|part| part.read().is_empty()));
    }
}
