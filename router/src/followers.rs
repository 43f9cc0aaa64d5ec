//! Which gateways follow which groups, as their links say. Shared by all partitions.

use std::sync::Arc;

use carillon_proto::{GroupId, KeyedMap, LeaseId, pb::client::Position};
use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::part::part_of;

/// Number of locks, so that readers seldom meet a writer.
const PARTS: usize = 16;

/// Gateways, each with the number of the link on which it said so last.
type Gateways = SmallVec<[(LeaseId, u64); 4]>;

/// Bounded by the groups that gateways follow, which are bounded by their sessions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Followers(Arc<[RwLock<KeyedMap<GroupId, Followed>>; PARTS]>);

/// A group that is followed.
#[derive(Default)]
struct Followed {
    gateways: Gateways,
    /// How far the gateways were told that the group's timeline reaches. Epoch 0: not known yet.
    told: Position,
}

impl Followers {
    /// From now on the gateway gets what is appended to the group. Then its head is read, so that nothing falls between.
    pub(crate) fn follow(&self, gateway: LeaseId, link: u64, group: &GroupId) {
        let mut part = self.part(group).write();
        let gateways = &mut part.entry(group.clone()).or_default().gateways;
        match gateways.iter_mut().find(|(of, _)| *of == gateway) {
            Some((_, known)) => *known = link,
            None => gateways.push((gateway, link)),
        }
    }

    pub(crate) fn unfollow(&self, gateway: LeaseId, group: &GroupId) {
        let mut part = self.part(group).write();
        if let Some(followed) = part.get_mut(group) {
            followed.gateways.retain(|(of, _)| *of != gateway);
            if followed.gateways.is_empty() {
                part.remove(group);
            }
        }
    }

    /// The link has ended. On the next one the gateway says again what it follows.
    pub(crate) fn left(&self, link: u64) {
        for part in self.0.iter() {
            part.write().retain(|_, followed| {
                followed.gateways.retain(|(_, of)| *of != link);
                !followed.gateways.is_empty()
            });
        }
    }

    pub(crate) fn of(&self, group: &GroupId) -> SmallVec<[LeaseId; 4]> {
        let part = self.part(group).read();
        part.get(group).into_iter().flat_map(|followed| &followed.gateways).map(|(gateway, _)| *gateway).collect()
    }

    pub(crate) fn is_followed(&self, group: &GroupId) -> bool {
        self.part(group).read().contains_key(group)
    }

    /// The first gateway that follows the group has read that it reaches as far as this.
    pub(crate) fn begins_at(&self, group: &GroupId, position: Position) {
        if let Some(followed) = self.part(group).write().get_mut(group).filter(|followed| followed.told.epoch == 0) {
            followed.told = position;
        }
    }

    /// The group reaches as far as this. True if that is news to those who follow it, who are told now.
    pub(crate) fn reaches(&self, group: &GroupId, position: Position) -> bool {
        // Most groups that are written to are followed here.
        let mut part = self.part(group).write();
        let Some(Followed { told, .. }) = part.get_mut(group) else { return false };
        if told.epoch == position.epoch && told.seq >= position.seq {
            return false;
        }
        *told = position;
        true
    }

    fn part(&self, group: &GroupId) -> &RwLock<KeyedMap<GroupId, Followed>> {
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
        let at = |epoch, seq| Position { epoch, seq };
        assert!(!followers.reaches(&other, at(1, 5)), "nobody is there to be told");
        followers.begins_at(&one, at(1, 5));
        followers.begins_at(&one, at(1, 9));
        let told = [(1, 5), (1, 8), (1, 7), (2, 1)].map(|(epoch, seq)| followers.reaches(&one, at(epoch, seq)));
        assert_eq!(told, [false, true, false, true]);
        followers.left(11);
        assert!(followers.0.iter().all(|part| part.read().is_empty()));
    }
}
