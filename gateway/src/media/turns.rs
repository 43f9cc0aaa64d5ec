//! Turns of transfers: so many at once, and a part of them for one user.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use carillon_media::pass::Whose;
use parking_lot::Mutex;

/// A user has at most all turns divided by this number: a client that takes as many turns as it gets, and holds them for as long as it may,
/// leaves the rest to other users.
const SHARE: usize = 4;

#[derive(Clone)]
pub(super) struct Turns(Arc<Inner>);

struct Inner {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    count: usize,
    of_users: HashMap<Whose, usize>,
}

/// The right to one transfer, until this is dropped.
pub(super) struct Turn {
    turns: Turns,
    whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTurn {
    All,
    OfUser,
}

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, taken: Mutex::default() }))
    }

    pub(super) fn take(&self, whose: Whose) -> Result<Turn, NoTurn> {
        let Inner { most, taken } = &*self.0;
        let mut taken = taken.lock();
        if taken.count >= *most {
            return Err(NoTurn::All);
        }
        // Only those who have a turn have an entry.
        match taken.of_users.entry(whose) {
            Entry::Occupied(of_user) if *of_user.get() >= most.div_ceil(SHARE) => return Err(NoTurn::OfUser),
            Entry::Occupied(mut of_user) => *of_user.get_mut() += 1,
            Entry::Vacant(none) => {
                none.insert(1);
            }
        }
        taken.count += 1;
        Ok(Turn { turns: self.clone(), whose })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.0.taken.lock();
        taken.count -= 1;
        if let Entry::Occupied(mut of_user) = taken.of_users.entry(self.whose) {
            *of_user.get_mut() -= 1;
            if *of_user.get() == 0 {
                of_user.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_has_a_quarter_of_all_turns_and_they_come_back() {
        let (alice, bob) = (Whose(1), Whose(2));
        let turns = Turns::new(8);
        let mut held: Vec<_> = (0..2).map(|_| turns.take(alice).expect("a turn")).collect();
        assert_eq!(turns.take(alice).err(), Some(NoTurn::OfUser));
        held.push(turns.take(bob).expect("another user has one"));
        held.extend((3..8).map(|user| turns.take(Whose(user)).expect("a turn")));
        assert_eq!(turns.take(Whose(9)).err(), Some(NoTurn::All));
        held.clear();
        assert!(turns.take(alice).is_ok() && turns.0.taken.lock().of_users.is_empty());
        let one = Turns::new(1);
        let turn = one.take(alice).expect("there is one");
        assert_eq!(one.take(bob).err(), Some(NoTurn::All));
        drop(turn);
        assert!(one.take(bob).is_ok());
    }
}
