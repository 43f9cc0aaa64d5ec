//! The contacts of each user.

/// Users in a ring, each of whom has its neighbours on both sides as contacts: so contacts are mutual.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring {
    /// More than there are contacts of each.
    pub(crate) users: usize,
    /// Of each user; an even number.
    pub(crate) contacts: usize,
}

impl Ring {
    /// The contacts of this user, in the order of their slots.
    pub(crate) fn contacts_of(self, user: usize) -> impl Iterator<Item = usize> {
        let half = self.contacts / 2;
        let ahead = (1..=half).map(move |distance| (user + distance) % self.users);
        ahead.chain((1..=half).map(move |distance| (user + self.users - distance) % self.users))
    }

    /// The place of a contact among those of this user; `None`: it is no contact.
    pub(crate) fn slot(self, user: usize, contact: usize) -> Option<usize> {
        let half = self.contacts / 2;
        let ahead = (contact + self.users - user) % self.users;
        let behind = self.users - ahead;
        if (1..=half).contains(&ahead) {
            Some(ahead - 1)
        } else {
            (1..=half).contains(&behind).then(|| half + behind - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn contacts_are_mutual_and_each_has_a_slot_of_its_own() {
        for (users, contacts) in [(3, 2), (10, 4), (201, 200), (202, 200)] {
            let ring = Ring { users, contacts };
            for user in 0..users {
                let of: Vec<_> = ring.contacts_of(user).collect();
                assert_eq!(of.iter().collect::<BTreeSet<_>>().len(), contacts);
                for (slot, contact) in of.iter().enumerate() {
                    assert_eq!(ring.slot(user, *contact), Some(slot));
                    assert!(ring.slot(*contact, user).is_some());
                }
                let others = (0..users).filter(|other| !of.contains(other));
                assert!(
                    others.into_iter().all(|other| ring.slot(user, other).is_none()),
                    "{user} is no contact of its own"
                );
            }
        }
    }
}
