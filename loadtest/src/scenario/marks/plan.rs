//! Pairs and groups of users who write to each other.

/// Each user is in one conversation: the first ones in pairs, the others in groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) pairs: usize,
    pub(crate) groups: usize,
    /// Of each group.
    pub(crate) members: usize,
    /// Users who read nothing.
    pub(crate) not_reading: usize,
}

/// A conversation and its place among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Talk {
    Pair(usize),
    Group(usize),
}

impl Plan {
    pub(crate) fn users(self) -> usize {
        2 * self.pairs + self.groups * self.members
    }

    pub(super) fn talk_of(self, user: usize) -> Talk {
        match user.checked_sub(2 * self.pairs) {
            None => Talk::Pair(user / 2),
            Some(behind) => Talk::Group(behind / self.members),
        }
    }

    /// The first one of a group is its owner.
    pub(super) fn members_of(self, talk: Talk) -> std::ops::Range<usize> {
        match talk {
            Talk::Pair(pair) => 2 * pair..2 * pair + 2,
            Talk::Group(group) => {
                let first = 2 * self.pairs + group * self.members;
                first..first + self.members
            }
        }
    }

    /// True if the user reads what comes. Users who read nothing are spread evenly.
    pub(super) fn reads(self, user: usize) -> bool {
        let before = |user: usize| user * self.not_reading / self.users();
        before(user) == before(user + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_in_one_conversation_and_so_many_read_nothing() {
        for (pairs, groups, members, not_reading) in [(3, 0, 5, 0), (0, 2, 4, 3), (5, 3, 3, 19), (1, 1, 2, 1)] {
            let plan = Plan { pairs, groups, members, not_reading };
            let all = (0..pairs).map(Talk::Pair).chain((0..groups).map(Talk::Group));
            let users: Vec<_> = all.flat_map(|talk| plan.members_of(talk).map(move |user| (user, talk))).collect();
            assert_eq!(users.iter().map(|(user, _)| *user).collect::<Vec<_>>(), (0..plan.users()).collect::<Vec<_>>());
            assert!(users.iter().all(|(user, talk)| plan.talk_of(*user) == *talk));
            assert_eq!((0..plan.users()).filter(|user| !plan.reads(*user)).count(), not_reading);
        }
    }
}
