use carillon_proto::pb::client::{
    Envelope, GroupChange, GroupCreated, MembersChange, group_change::What, members_change::Kind,
};

use super::*;

struct Setup {
    checker: Checker,
    group: Arc<GroupCheck>,
    bob: Arc<GroupWatcher>,
    log: Vec<Envelope>,
}

impl Setup {
    /// A group of Alice and Bob, whose device watches.
    fn new() -> Self {
        let checker = Checker::default();
        let group = checker.group("club");
        let bob = group.watch("bob", "phone");
        let mut setup = Self { checker, group, bob, log: Vec::new() };
        let members = vec!["bob".to_owned()];
        setup.stands("alice", Some(What::Created(GroupCreated { members, ..GroupCreated::default() })));
        setup
    }

    fn stands(&mut self, sender: &str, what: Option<What>) {
        let id = format!("entry {}", self.log.len() + 1);
        let change = what.map(|what| Box::new(GroupChange { what: Some(what) }));
        self.log.push(Envelope { id, sender: sender.to_owned(), change, ..Envelope::default() });
    }

    /// Messages of Alice.
    fn says(&mut self, messages: usize) {
        (0..messages).for_each(|_| self.stands("alice", None));
    }

    fn becomes_of_bob(&mut self, kind: Kind) {
        let users = vec!["bob".to_owned()];
        self.stands(
            "alice",
            Some(What::Members(MembersChange { kind: kind.into(), users, ..MembersChange::default() })),
        );
    }

    /// Bob's device is shown these positions of the log.
    fn shows(&self, positions: impl IntoIterator<Item = u64>) {
        for seq in positions {
            self.group.shown(&self.bob, seq, &self.log[seq as usize - 1].id);
        }
    }

    fn reads(&self) {
        let mut reader = self.group.reader();
        (1..).zip(&self.log).for_each(|(seq, envelope)| reader.reads(seq, envelope));
        reader.ends();
    }

    fn found(&self) -> Vec<String> {
        self.checker.finish().violations.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn who_hears_everything_of_a_membership_in_order_is_well() {
    let mut setup = Setup::new();
    setup.says(3);
    setup.becomes_of_bob(Kind::Banned);
    setup.says(2);
    setup.becomes_of_bob(Kind::Pardoned);
    setup.becomes_of_bob(Kind::Added);
    setup.says(1);
    setup.group.accepted(10, "entry 10");
    setup.shows(1..=5);
    assert!(!setup.checker.complete());
    setup.bob.trimmed(9);
    setup.shows(9..=10);
    setup.reads();
    assert!(setup.checker.complete());
    assert_eq!(setup.found(), Vec::<String>::new());
}

#[test]
fn the_end_of_a_membership_may_come_before_the_last_words() {
    let mut setup = Setup::new();
    setup.says(3);
    setup.becomes_of_bob(Kind::Removed);
    setup.shows(1..=2);
    setup.reads();
    assert_eq!(setup.found(), Vec::<String>::new());
}

#[test]
fn what_a_member_is_not_shown_is_lost() {
    let mut setup = Setup::new();
    setup.says(4);
    setup.shows([1, 2, 4]);
    assert_eq!(
        setup.found(),
        ["gap: bob/phone: position 4 of group club where 3 is next"],
        "nothing more is known yet"
    );
    setup.reads();
    assert!(!setup.checker.complete());
    let lost = |seq| format!("lost: bob/phone: position {seq} of group club");
    assert_eq!(setup.found()[1..], [lost(3), lost(5)]);
    // Of a membership that has ended, only the last ones may be missing.
    setup.becomes_of_bob(Kind::Left);
    setup.reads();
    assert_eq!(setup.found()[1..], [lost(3)]);
}

#[test]
fn what_is_trimmed_during_a_membership_is_lost() {
    let mut setup = Setup::new();
    setup.says(2);
    setup.shows([1]);
    setup.bob.trimmed(3);
    setup.shows([3]);
    setup.reads();
    assert_eq!(setup.found(), ["lost: bob/phone: position 2 of group club"]);
}

#[test]
fn what_is_said_after_a_ban_is_overheard() {
    let mut setup = Setup::new();
    setup.becomes_of_bob(Kind::Banned);
    setup.says(1);
    setup.shows(1..=3);
    setup.reads();
    assert_eq!(setup.found(), ["overheard: bob/phone: position 3 of group club"]);
}

#[test]
fn a_message_of_who_is_banned_has_intruded() {
    let mut setup = Setup::new();
    setup.stands("bob", None);
    setup.becomes_of_bob(Kind::Banned);
    setup.stands("bob", None);
    setup.shows(1..=3);
    setup.reads();
    assert_eq!(setup.found(), ["intruded: bob: position 4 of group club"]);
}

#[test]
fn a_position_that_is_shown_again_is_doubled() {
    let mut setup = Setup::new();
    setup.says(1);
    setup.shows([1, 2, 1]);
    setup.reads();
    assert_eq!(setup.found(), ["doubled: bob/phone: position 1 of group club"]);
}

#[test]
fn positions_of_a_device_that_are_not_those_of_the_log_are_told() {
    let mut setup = Setup::new();
    setup.says(2);
    setup.group.accepted(3, "entry 3");
    setup.shows([1]);
    // As if the second entry had been dropped, and the third renumbered.
    setup.group.shown(&setup.bob, 2, "entry 3");
    setup.reads();
    let found = setup.found();
    // The first device that shows a position is believed: here the reading of the log is told.
    assert_eq!(
        found,
        ["misplaced: club/read back: position 2 of group club", "lost: bob/phone: position 3 of group club"]
    );
    setup.group.accepted(2, "entry 2");
    assert_eq!(setup.checker.broken(), 2);
}

#[test]
fn a_position_far_behind_the_log_takes_no_memory() {
    let setup = Setup::new();
    setup.group.accepted(u64::MAX, "far");
    setup.group.accepted(0, "nowhere");
    assert_eq!(setup.checker.broken(), 2);
}

#[test]
fn sends_to_a_group_are_found_once_in_its_log() {
    let checker = Checker::default();
    let group = checker.group("club");
    let (flow, reader) = (checker.group_flow("alice", &group), checker.reader("club"));
    flow.expect(&reader);
    for _ in 0..3 {
        let counter = flow.sending();
        flow.ended(counter, Outcome::Accepted);
    }
    [1, 3, 3].into_iter().for_each(|counter| _ = flow.delivered(&reader, counter));
    let found: Vec<_> = checker.finish().violations.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["doubled: club/read back: alice -> club #3", "lost: club/read back: alice -> club #2"]);
}
