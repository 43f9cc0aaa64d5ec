//! Presences of users, and the presences that their contacts see.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use carillon_proto::pb::client::{Presence, Show};

use super::ring::Ring;

/// A presence: the number of its change, counted from 1, from which all else follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) number: u64,
    /// When it was meant to change, in microseconds after the beginning of the run.
    pub(super) intended_us: u64,
}

/// In turn.
const SHOWS: [Show; 3] = [Show::Online, Show::Away, Show::DoNotDisturb];

impl Said {
    pub(super) fn show(self) -> Show {
        SHOWS[(self.number % 3) as usize]
    }

    pub(super) fn status(self) -> String {
        format!("{} {}", self.number, self.intended_us)
    }

    /// Reads a presence as a contact is told it. `None`: the user is offline.
    pub(super) fn told(presence: &Presence) -> Result<Option<Self>, String> {
        if presence.show() == Show::Unspecified {
            return Ok(None);
        }
        let numbers = presence.status.split_once(' ');
        let numbers = numbers.and_then(|(number, intended)| number.parse().ok().zip(intended.parse().ok()));
        match numbers.map(|(number, intended_us)| Self { number, intended_us }) {
            Some(said) if said.show() == presence.show() => Ok(Some(said)),
            _ => Err(format!("{:?} {:?} is nothing that anybody has shown", presence.show(), presence.status)),
        }
    }
}

/// The true presence of each user.
pub(super) struct Board {
    pub(super) ring: Ring,
    truths: Vec<Truth>,
}

#[derive(Default)]
struct Truth {
    /// The number of what is shown; 0: the user is gone.
    shown: AtomicU64,
    /// The last number that was given away.
    last: AtomicU64,
    /// The service has answered that it has it.
    stored: AtomicBool,
    /// When the user went.
    left_us: AtomicU64,
}

impl Board {
    pub(super) fn new(ring: Ring) -> Self {
        Self { ring, truths: (0..ring.users).map(|_| Truth::default()).collect() }
    }

    /// The user is about to show something else.
    pub(super) fn changes(&self, user: usize, intended_us: u64) -> Said {
        let truth = &self.truths[user];
        let number = truth.last.fetch_add(1, Ordering::SeqCst) + 1;
        truth.stored.store(false, Ordering::SeqCst);
        truth.shown.store(number, Ordering::SeqCst);
        Said { number, intended_us }
    }

    pub(super) fn stored(&self, user: usize) {
        self.truths[user].stored.store(true, Ordering::SeqCst);
    }

    pub(super) fn leaves(&self, user: usize, now_us: u64) {
        let truth = &self.truths[user];
        truth.left_us.store(now_us, Ordering::SeqCst);
        truth.shown.store(0, Ordering::SeqCst);
    }

    /// When the user went, if it is gone.
    pub(super) fn left_us(&self, user: usize) -> Option<u64> {
        let truth = &self.truths[user];
        (truth.shown.load(Ordering::SeqCst) == 0).then(|| truth.left_us.load(Ordering::SeqCst))
    }

    /// True if the service may not have the user's last change.
    pub(super) fn is_unknown(&self, user: usize) -> bool {
        let truth = &self.truths[user];
        truth.shown.load(Ordering::SeqCst) != 0 && !truth.stored.load(Ordering::SeqCst)
    }

    /// The user has shown this at some time, or may have.
    pub(super) fn has_said(&self, user: usize, said: Said) -> bool {
        (1..=self.truths[user].last.load(Ordering::SeqCst)).contains(&said.number)
    }

    /// The contacts of whom this user sees something else than they show. Those of whom nothing is known are left out.
    pub(super) fn wrong<'a>(&'a self, user: usize, picture: &'a Picture) -> impl Iterator<Item = Wrong> + 'a {
        self.ring.contacts_of(user).zip(&picture.seen).filter_map(|(contact, seen)| {
            let shows = self.truths[contact].shown.load(Ordering::SeqCst);
            let sees = seen.load(Ordering::SeqCst);
            (shows != sees && !self.is_unknown(contact)).then_some(Wrong { contact, sees, shows })
        })
    }
}

/// A contact who shows something else than is seen; by the numbers of both, 0 if offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) contact: usize,
    pub(super) sees: u64,
    pub(super) shows: u64,
}

impl Wrong {
    /// For people. `contact` is its name.
    pub(super) fn told(self, contact: &str) -> String {
        let what = |number| match number {
            0 => "offline".to_owned(),
            number => format!("{} by its change {number}", Said { number, intended_us: 0 }.show().as_str_name()),
        };
        format!("{contact} is {}, and is seen as {}", what(self.shows), what(self.sees))
    }
}

/// The presences that a device sees, by slots of its user's contacts.
pub(super) struct Picture {
    /// The number of what the contact shows; 0: it is offline.
    seen: Vec<AtomicU64>,
    /// The highest number that the contact was ever seen with.
    newest: Vec<AtomicU64>,
}

impl Picture {
    pub(super) fn new(contacts: usize) -> Self {
        let none = || (0..contacts).map(|_| AtomicU64::new(0)).collect();
        Self { seen: none(), newest: none() }
    }

    /// On a new connection everybody is offline who is not named.
    pub(super) fn begins_anew(&self) {
        self.seen.iter().for_each(|seen| seen.store(0, Ordering::SeqCst));
    }

    /// The device is told what the contact shows. True if it sees that for the first time.
    pub(super) fn told(&self, slot: usize, said: Option<Said>) -> bool {
        let number = said.map_or(0, |said| said.number);
        let before = self.seen[slot].swap(number, Ordering::SeqCst);
        if number == 0 { before != 0 } else { self.newest[slot].fetch_max(number, Ordering::SeqCst) < number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        let board = Board::new(Ring { users: 5, contacts: 2 });
        for user in 0..5 {
            board.changes(user, 10);
            board.stored(user);
        }
        board
    }

    /// User 0, whose contacts are 1 and 4, sees these numbers of them.
    fn sees(of_1: u64, of_4: u64) -> Picture {
        let picture = Picture::new(2);
        for (slot, number) in [(0, of_1), (1, of_4)] {
            picture.told(slot, (number > 0).then_some(Said { number, intended_us: 10 }));
        }
        picture
    }

    #[test]
    fn a_picture_that_is_not_so_is_found_whatever_is_wrong_with_it() {
        let board = board();
        let wrong = |picture: &Picture| board.wrong(0, picture).collect::<Vec<_>>();
        assert_eq!(wrong(&sees(1, 1)), []);
        assert_eq!(wrong(&sees(0, 1)), [Wrong { contact: 1, sees: 0, shows: 1 }], "it was never told");
        board.changes(1, 20);
        assert_eq!(wrong(&sees(1, 1)), [], "nobody knows yet whether the service has it");
        board.stored(1);
        assert_eq!(wrong(&sees(1, 1)), [Wrong { contact: 1, sees: 1, shows: 2 }], "an old state");
        board.leaves(4, 30);
        let stays = Wrong { contact: 4, sees: 1, shows: 0 };
        assert_eq!(wrong(&sees(2, 1)), [stays], "it stays online, and is not");
        assert_eq!(stays.told("dora"), "dora is offline, and is seen as SHOW_AWAY by its change 1");
        assert_eq!(wrong(&sees(2, 0)), []);
        board.changes(4, 40);
        board.stored(4);
        assert_eq!(wrong(&sees(2, 0)), [Wrong { contact: 4, sees: 0, shows: 2 }], "it is back");
        let picture = sees(2, 2);
        picture.begins_anew();
        assert_eq!(wrong(&picture).len(), 2);
    }

    #[test]
    fn each_state_is_new_once() {
        let picture = Picture::new(1);
        let said = |number| Some(Said { number, intended_us: 0 });
        let told: Vec<_> =
            [said(2), said(2), said(1), None, None, said(2), said(3)].map(|said| picture.told(0, said)).into();
        assert_eq!(told, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn what_is_told_is_what_was_said_or_nobody_has_said_it() {
        for number in 1..7 {
            let said = Said { number, intended_us: 77 };
            let presence = |show: Show, status: &str| Presence {
                show: show.into(),
                status: status.to_owned(),
                ..Presence::default()
            };
            assert_eq!(Said::told(&presence(said.show(), &said.status())), Ok(Some(said)));
            let other = Said { number: number + 1, ..said };
            for (show, status) in
                [(other.show(), said.status()), (said.show(), String::new()), (said.show(), "1 x".into())]
            {
                assert!(Said::told(&presence(show, &status)).is_err(), "{show:?} {status}");
            }
            assert_eq!(Said::told(&presence(Show::Unspecified, "")), Ok(None));
        }
        let board = board();
        let has_said = |number| board.has_said(2, Said { number, intended_us: 0 });
        assert!(!has_said(0) && has_said(1) && !has_said(2));
    }
}
