//! The members of each group.

/// Users and groups, by number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) users: usize,
    pub(crate) groups: usize,
    /// Of each group; at most as many as there are users.
    pub(crate) members: usize,
}

/// Groups of users of other scenarios.
#[derive(Debug, Clone, Copy)]
pub struct InGroups {
    /// In which each user is.
    pub each: usize,
    /// Of each group, without its founder.
    pub members: usize,
}

impl InGroups {
    pub(crate) fn plan(self, users: usize) -> Plan {
        let members = self.members.clamp(1, users.max(1));
        Plan { users, groups: (users * self.each).div_ceil(members), members }
    }
}

impl Plan {
    /// The first one is the owner.
    pub(crate) fn members_of(self, group: usize) -> impl DoubleEndedIterator<Item = usize> + Clone {
        let before = group * self.members;
        // With each round over all users, others are together.
        let first = before + before / self.users;
        (0..self.members).map(move |at| (first + at) % self.users)
    }

    /// The groups of each user.
    pub(crate) fn groups_of_all(self) -> Vec<Vec<usize>> {
        let mut groups = vec![Vec::new(); self.users];
        for group in 0..self.groups {
            self.members_of(group).for_each(|user| groups[user].push(group));
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_user_is_in_as_many_groups_as_others_and_once_in_each() {
        for (users, groups, members) in [(10, 10, 10), (100, 100, 10), (6, 7, 3), (5, 1, 5), (12, 12, 4)] {
            let plan = Plan { users, groups, members };
            for group in 0..groups {
                assert_eq!(plan.members_of(group).collect::<BTreeSet<_>>().len(), members);
            }
            let counts: BTreeSet<_> = plan.groups_of_all().iter().map(Vec::len).collect();
            let (least, most) = (counts.first().expect("some"), counts.last().expect("some"));
            assert!(most - least <= 1 + groups * members / users / users, "{plan:?}: {counts:?}");
        }
    }

    #[test]
    fn users_of_as_many_groups_as_are_wanted() {
        for (users, groups, members) in [(100, 50, 10), (20, 2000, 20), (7, 3, 100), (9, 2, 4)] {
            let plan = InGroups { each: groups, members }.plan(users);
            assert!(plan.groups_of_all().iter().all(|of| of.len() + 1 >= groups), "{plan:?}");
            assert!(plan.groups * plan.members < users * groups + plan.members, "{plan:?}");
        }
    }
}
