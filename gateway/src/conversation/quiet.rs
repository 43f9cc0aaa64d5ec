//! The groups of a session in which nothing happens: nearly all, most of the time. A session may have thousands of them, so each takes
//! little memory, and they begin many at once.

use std::{hash::BuildHasher as _, sync::Arc};

use carillon_proto::Keyed;

use crate::feeds::{LiveGroup, TimelineName};

/// A group whose feed delivers to this session, of which the client has everything, and whose acknowledgements are all done.
pub(super) struct Quiet {
    pub(super) timeline: Arc<TimelineName>,
    /// The last position that the client was given.
    pub(super) given: u64,
    /// The last position that the device has acknowledged; 0: none.
    pub(super) acknowledged: u64,
}

/// Ordered by hashes of the names.
#[derive(Default)]
pub(super) struct QuietGroups(Vec<Place>);

/// A quiet group, or the place to which one returns.
struct Place {
    timeline: Arc<TimelineName>,
    /// `AWAKE`: the group is not quiet now.
    given: u64,
    hash: u32,
    /// The distance of the acknowledgement behind `given`. If that is more, what lies further back counts as acknowledged.
    lag: u32,
}

const AWAKE: u64 = u64::MAX;

impl QuietGroups {
    /// True if there is no place, also of a group that is not quiet.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, group: &str) -> bool {
        self.find(group).is_ok_and(|place| self.0[place].given != AWAKE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Quiet> {
        self.0.iter().filter_map(Place::quiet)
    }

    /// Groups that the session begins to follow, which have no places here yet.
    pub(super) fn extend(&mut self, groups: Vec<LiveGroup>) {
        self.0.reserve_exact(groups.len());
        // Nothing was acknowledged by this session.
        let quiet = |LiveGroup { timeline, given }| Quiet { timeline, given, acknowledged: 0 };
        self.0.extend(groups.into_iter().map(quiet).map(Place::of));
        self.0.sort_unstable_by_key(|place| place.hash);
    }

    /// Takes the group, if it is quiet. Its place is kept.
    pub(super) fn wake(&mut self, group: &str) -> Option<Quiet> {
        let place = self.find(group).ok()?;
        let place = &mut self.0[place];
        let quiet = place.quiet()?;
        place.given = AWAKE;
        Some(quiet)
    }

    /// The group is quiet from now on.
    pub(super) fn put(&mut self, quiet: Quiet) {
        match self.find(quiet.timeline.id.owner()) {
            Ok(place) => self.0[place] = Place::of(quiet),
            Err(place) => {
                // A session has about as many groups for long: room for some more, not twice as many.
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(2 + self.0.len() / 8);
                }
                self.0.insert(place, Place::of(quiet));
            }
        }
    }

    /// The group does not come back.
    pub(super) fn forget(&mut self, group: &str) {
        if let Ok(place) = self.find(group) {
            self.0.remove(place);
        }
    }

    /// The group's place, or the one that it would have.
    fn find(&self, group: &str) -> Result<usize, usize> {
        if self.0.is_empty() {
            return Err(0);
        }
        let hash = hash_of(group);
        let first = self.0.partition_point(|place| place.hash < hash);
        let same = self.0[first..].iter().take_while(|place| place.hash == hash);
        match same.map(|place| place.timeline.id.owner()).position(|name| name == group) {
            Some(further) => Ok(first + further),
            None => Err(first),
        }
    }
}

impl Place {
    fn of(Quiet { timeline, given, acknowledged }: Quiet) -> Self {
        let hash = hash_of(timeline.id.owner());
        let lag = u32::try_from(given.saturating_sub(acknowledged)).unwrap_or(u32::MAX);
        Self { timeline, given, hash, lag }
    }

    fn quiet(&self) -> Option<Quiet> {
        let &Self { given, lag, .. } = self;
        let quiet = || Quiet { timeline: Arc::clone(&self.timeline), given, acknowledged: given - u64::from(lag) };
        (given != AWAKE).then(quiet)
    }
}

/// With the secret of the process, so that nobody chooses names with equal hashes.
fn hash_of(group: &str) -> u32 {
    // The lower half.
    Keyed::default().hash_one(group) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use carillon_proto::{GroupId, TimelineId};
    use proptest::prelude::*;

    use super::*;

    fn name(number: u8) -> Arc<TimelineName> {
        Arc::new(TimelineName::new(TimelineId::Group(GroupId::new(&format!("g{number}")).expect("valid"))))
    }

    /// The memory of a connection for each of its groups, beside 16 bytes in feeds. docs/speed.md has the memory of a whole connection.
    #[test]
    fn a_quiet_group_is_small() {
        assert_eq!(size_of::<Place>(), 24);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Begin(Vec<u8>),
        Wake(u8),
        Put(u8, u64, u64),
        Forget(u8),
    }

    fn act() -> impl Strategy<Value = Act> {
        let group = 0..40u8;
        prop_oneof![
            prop::collection::vec(group.clone(), 0..20).prop_map(Act::Begin),
            group.clone().prop_map(Act::Wake),
            (group.clone(), 0..9u64, 0..9u64).prop_map(|(group, given, lag)| Act::Put(group, given, lag)),
            group.prop_map(Act::Forget),
        ]
    }

    proptest! {
        #[test]
        fn quiet_groups_are_those_of_a_map(acts in prop::collection::vec(act(), 0..60)) {
            // `None`: not quiet now, but it has a place.
            let (mut groups, mut model) = (QuietGroups::default(), BTreeMap::<u8, Option<(u64, u64)>>::new());
            for act in acts {
                match act {
                    Act::Begin(numbers) => {
                        let mut new = numbers;
                        new.sort_unstable();
                        new.dedup();
                        new.retain(|number| !model.contains_key(number));
                        model.extend(new.iter().map(|number| (*number, Some((7, 0)))));
                        groups.extend(new.into_iter().map(|number| LiveGroup { timeline: name(number), given: 7 }).collect());
                    }
                    Act::Wake(number) => {
                        let woken = groups.wake(name(number).id.owner()).map(|quiet| (quiet.given, quiet.acknowledged));
                        prop_assert_eq!(woken, model.get_mut(&number).and_then(Option::take));
                    }
                    Act::Put(number, given, lag) => {
                        let acknowledged = given.saturating_sub(lag);
                        groups.put(Quiet { timeline: name(number), given, acknowledged });
                        model.insert(number, Some((given, acknowledged)));
                    }
                    Act::Forget(number) => {
                        groups.forget(name(number).id.owner());
                        model.remove(&number);
                    }
                }
                for number in 0..40 {
                    let is_quiet = model.get(&number).is_some_and(Option::is_some);
                    prop_assert_eq!(groups.contains(name(number).id.owner()), is_quiet);
                }
            }
            let all: BTreeMap<String, (u64, u64)> =
                groups.iter().map(|quiet| (quiet.timeline.id.owner().to_owned(), (quiet.given, quiet.acknowledged))).collect();
            let wanted = model.into_iter().filter_map(|(number, state)| Some((format!("g{number}"), state?))).collect();
            prop_assert_eq!(all, wanted);
        }
    }
}
