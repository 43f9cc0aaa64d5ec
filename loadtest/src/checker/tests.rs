use super::*;

struct Setup {
    checker: Checker,
    flow: Arc<FlowCheck>,
    watcher: Arc<WatcherCheck>,
}

/// A flow to one device, with this many messages accepted.
fn setup(accepted: u64) -> Setup {
    let checker = Checker::default();
    let (flow, watcher) = (checker.flow("alice", "bob"), checker.watcher("bob", "d"));
    flow.expect(&watcher);
    let setup = Setup { checker, flow, watcher };
    for _ in 0..accepted {
        setup.send(Outcome::Accepted);
    }
    setup
}

impl Setup {
    fn send(&self, outcome: Outcome) -> u64 {
        let counter = self.flow.sending();
        self.flow.ended(counter, outcome);
        counter
    }

    fn deliver(&self, counters: impl IntoIterator<Item = u64>) {
        for counter in counters {
            self.flow.delivered(&self.watcher, counter);
        }
    }

    fn found(&self) -> Vec<String> {
        self.checker.finish().violations.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn what_is_missing_in_an_inbox_that_was_not_read_is_not_lost() {
    let setup = setup(3);
    setup.deliver(1..=3);
    let reader = setup.checker.reader("bob");
    setup.flow.expect(&reader);
    setup.flow.delivered(&reader, 1);
    assert_eq!(setup.found().len(), 2);
    reader.unread("nobody answers".to_owned());
    assert!(setup.found().is_empty());
    let unread: Vec<_> = setup.checker.finish().unread.iter().map(ToString::to_string).collect();
    assert_eq!(unread, ["unread: bob/read back: nobody answers"]);
    // Nor is it a half of a restored message.
    let other = setup.checker.reader("alice");
    setup.flow.expect(&other);
    (1..=3).for_each(|counter| _ = setup.flow.delivered(&other, counter));
    assert!(setup.checker.finish_restored().violations.is_empty());
}

#[test]
fn all_in_order_is_clean() {
    let setup = setup(3);
    for counter in 1..=3 {
        assert!(!setup.checker.complete());
        setup.deliver([counter]);
    }
    assert!(setup.checker.complete());
    assert!(setup.found().is_empty());
    let expected = Summary { sent: 3, accepted: 3, delivered: 3, ..Summary::default() };
    assert_eq!(setup.checker.finish().summary, expected);
}

#[test]
fn what_was_accepted_and_not_shown_is_lost() {
    let setup = setup(4);
    setup.deliver([1, 3]);
    assert_eq!(setup.found(), ["lost: bob/d: alice -> bob #2", "lost: bob/d: alice -> bob #4"]);
    assert!(!setup.checker.complete());
}

#[test]
fn what_is_shown_again_is_doubled() {
    let setup = setup(3);
    setup.deliver([1, 2, 2, 3, 1]);
    assert_eq!(setup.found(), ["doubled: bob/d: alice -> bob #2", "doubled: bob/d: alice -> bob #1"]);
}

#[test]
fn what_is_shown_after_a_later_one_is_reordered_and_then_doubled() {
    let setup = setup(3);
    setup.deliver([2, 1, 3, 1]);
    assert_eq!(setup.found(), ["reordered: bob/d: alice -> bob #1 after #2", "doubled: bob/d: alice -> bob #1"]);
}

#[test]
fn what_was_never_sent_is_invented() {
    let setup = setup(1);
    setup.deliver([1, 2, 0]);
    assert_eq!(setup.found(), ["invented: bob/d: alice -> bob #2", "invented: bob/d: alice -> bob #0"]);
}

#[test]
fn what_was_refused_is_invented_whether_shown_before_or_after() {
    let setup = setup(1);
    setup.deliver([1]);
    let early = setup.flow.sending();
    setup.deliver([early]);
    setup.flow.ended(early, Outcome::Refused);
    let late = setup.send(Outcome::Refused);
    setup.deliver([late]);
    assert_eq!(setup.found(), ["invented: bob/d: alice -> bob #2", "invented: bob/d: alice -> bob #3"]);
}

#[test]
fn what_is_not_readable_is_corrupted() {
    let setup = setup(0);
    setup.watcher.corrupted("its checksum is wrong".to_owned());
    assert_eq!(setup.found(), ["corrupted: bob/d: its checksum is wrong"]);
}

#[test]
fn a_position_that_is_not_the_next_one_is_a_gap() {
    let setup = setup(0);
    for seq in [5, 6, 8, 8] {
        setup.watcher.position(seq);
    }
    let gaps = ["gap: bob/d: position 8 where 7 is next", "gap: bob/d: position 8 where 9 is next"];
    assert_eq!(setup.found(), gaps);
}

#[test]
fn a_trimmed_timeline_goes_on_at_its_new_beginning() {
    let setup = setup(0);
    setup.watcher.position(5);
    setup.watcher.trimmed(9);
    setup.watcher.position(9);
    assert!(setup.found().is_empty());
}

#[test]
fn an_unknown_send_may_be_shown_once_or_never() {
    let setup = setup(1);
    let (shown, never) = (setup.send(Outcome::Unknown), setup.send(Outcome::Unknown));
    setup.deliver([1, shown]);
    assert!(setup.checker.complete());
    assert!(setup.found().is_empty());
    setup.deliver([shown]);
    assert_eq!(setup.found(), [format!("doubled: bob/d: alice -> bob #{shown}")]);
    assert_eq!(setup.checker.finish().summary.unknown, never - 1);
}

#[test]
fn a_send_that_was_given_up_may_come_late_but_once() {
    let setup = setup(0);
    let given_up = setup.send(Outcome::Unknown);
    setup.send(Outcome::Accepted);
    setup.deliver([2, given_up]);
    assert!(setup.found().is_empty());
    setup.deliver([given_up]);
    assert_eq!(setup.found(), ["doubled: bob/d: alice -> bob #1"]);
}

#[test]
fn a_send_that_has_not_ended_keeps_the_run_open_and_counts_as_unknown() {
    let setup = setup(0);
    setup.flow.sending();
    assert!(!setup.checker.complete());
    assert_eq!(setup.checker.finish().summary.unknown, 1);
    assert!(setup.found().is_empty());
}

#[test]
fn a_send_that_nobody_waits_for_any_more_does_not_keep_the_run_open() {
    let setup = setup(1);
    let late = setup.flow.sending();
    setup.deliver([1]);
    assert!(!setup.checker.complete());
    setup.checker.give_up();
    assert!(setup.checker.complete());
    setup.flow.ended(late, Outcome::Accepted);
    assert!(setup.checker.complete(), "it came too late to be a promise");
    setup.deliver([late]);
    setup.deliver([late]);
    assert_eq!(setup.found(), [format!("doubled: bob/d: alice -> bob #{late}")]);
    assert_eq!(setup.checker.finish().summary.unknown, 1);
}

#[test]
fn each_watcher_is_followed_by_itself() {
    let setup = setup(2);
    let (other, passer_by) = (setup.checker.watcher("bob", "e"), setup.checker.watcher("alice", "f"));
    setup.flow.expect(&other);
    setup.deliver([1, 2]);
    setup.flow.delivered(&other, 2);
    setup.flow.delivered(&passer_by, 2);
    assert_eq!(setup.found(), ["lost: bob/e: alice -> bob #1"]);
    assert!(setup.flow.complete_for(&setup.watcher));
    assert!(!setup.flow.complete_for(&other));
}

#[test]
fn memory_does_not_grow_with_the_messages() {
    let setup = setup(0);
    for round in 0..10_000u64 {
        // A window of eight sends that end in another order than they began.
        let window: Vec<u64> = (0..8).map(|_| setup.flow.sending()).collect();
        for at in [3, 0, 7, 1, 2, 6, 5, 4] {
            setup.flow.ended(window[at], Outcome::Accepted);
        }
        setup.deliver(window);
        assert!(setup.flow.weight() == 0, "round {round}");
    }
    let first = setup.flow.sending();
    for _ in 0..1000 {
        setup.send(Outcome::Refused);
        setup.send(Outcome::Refused);
    }
    setup.flow.ended(first, Outcome::Accepted);
    assert_eq!(setup.flow.weight(), 1);
    assert_eq!(setup.found(), [format!("lost: bob/d: alice -> bob #{first}")]);
}

#[test]
fn many_violations_are_counted_and_the_first_are_kept() {
    let setup = setup(5000);
    let findings = setup.checker.finish();
    assert_eq!(findings.counts["lost"], 5000);
    assert_eq!(findings.violations.len(), 1000);
}

#[test]
fn what_is_lost_is_kept_however_much_was_doubled() {
    let setup = setup(2);
    setup.deliver(std::iter::repeat_n(1, 2001));
    let findings = setup.checker.finish();
    assert_eq!((findings.counts["doubled"], findings.counts["lost"]), (2000, 1));
    assert_eq!(findings.violations.len(), 1001);
    let report = crate::report::Integrity::from(&findings);
    assert_eq!(report.examples.last().expect("some"), "lost: bob/d: alice -> bob #2");
    assert_eq!(report.examples.len(), 11);
}

/// Both inboxes of a flow, read in a cluster that was restored from a backup before which `before` messages were accepted.
fn restored(sent: &Setup, before: u64, senders: &[u64], recipients: &[u64]) -> Vec<String> {
    let mut accepted = Ranges::default();
    accepted.insert(1, before);
    let noted = HashMap::from([(sent.flow.name.clone(), accepted)]);
    let checker = sent.checker.anew(Some(&noted));
    let flow = checker.flow("alice", "bob");
    for (user, counters) in [("alice", senders), ("bob", recipients)] {
        let reader = checker.reader(user);
        flow.expect(&reader);
        for counter in counters {
            flow.delivered(&reader, *counter);
        }
    }
    checker.finish_restored().violations.iter().map(ToString::to_string).collect()
}

#[test]
fn a_backup_must_have_what_was_accepted_before_and_may_have_more_in_both_inboxes() {
    let sent = setup(6);
    sent.deliver(1..=6);
    assert_eq!(sent.checker.accepted()[&sent.flow.name].runs().collect::<Vec<_>>(), [(1, 6)]);
    assert!(restored(&sent, 4, &[1, 2, 3, 4], &[1, 2, 3, 4]).is_empty());
    assert!(restored(&sent, 4, &[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4, 5, 6]).is_empty());
    assert!(restored(&sent, 4, &[1, 2, 3, 4, 6], &[1, 2, 3, 4, 6]).is_empty(), "later ones need not be all");
    assert_eq!(restored(&sent, 4, &[1, 2, 4], &[1, 2, 4]).len(), 2, "lost from both");
    assert_eq!(
        restored(&sent, 4, &[1, 2, 3, 4, 5], &[1, 2, 3, 4]),
        ["halved: bob/read back: alice -> bob #5"],
        "one copy alone"
    );
    let reordered = restored(&sent, 4, &[1, 2, 3, 4, 6, 5], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(reordered, ["reordered: alice/read back: alice -> bob #5 after #6"]);
    let doubled = restored(&sent, 4, &[1, 2, 3, 4], &[1, 2, 2, 3, 4]);
    assert_eq!(doubled, ["doubled: bob/read back: alice -> bob #2"]);
}

#[test]
fn what_was_unknown_may_come_back_in_both_inboxes_and_what_was_refused_may_not() {
    let sent = setup(2);
    assert_eq!(sent.send(Outcome::Unknown), 3);
    assert_eq!(sent.send(Outcome::Refused), 4);
    assert!(restored(&sent, 2, &[1, 2], &[1, 2]).is_empty());
    assert!(restored(&sent, 2, &[1, 2, 3], &[1, 2, 3]).is_empty());
    assert_eq!(restored(&sent, 2, &[1, 2, 3], &[1, 2]), ["halved: bob/read back: alice -> bob #3"]);
    assert_eq!(restored(&sent, 2, &[1, 2], &[1, 2, 4]), ["invented: bob/read back: alice -> bob #4"]);
}

#[test]
fn a_second_reading_does_not_count_as_doubled() {
    let sent = setup(3);
    sent.deliver(1..=3);
    let checker = sent.checker.anew(None);
    let (flow, reader) = (checker.flow("alice", "bob"), checker.reader("bob"));
    flow.expect(&reader);
    assert_eq!(checker.finish().violations.len(), 3, "nothing is read yet");
    for counter in 1..=3 {
        flow.delivered(&reader, counter);
    }
    assert!(checker.finish().violations.is_empty());
    assert_eq!(checker.finish().summary.read_back, 3);
}

#[test]
fn what_is_seen_wrong_of_others_is_a_violation_of_its_class_and_names_who_sees_it() {
    let checker = Checker::default();
    let watcher = || Watcher { user: "bob".to_owned(), device: "d".to_owned() };
    let why = |what: &str| format!("alice {what}");
    checker.found(Violation::Untrue { view: View::Presence, watcher: watcher(), why: why("is offline") });
    checker.found(Violation::Untrue { view: View::Mark, watcher: watcher(), why: why("has read m2") });
    checker.found(Violation::Untrue { view: View::ChatState, watcher: watcher(), why: why("is a stranger") });
    let integrity = crate::report::Integrity::from(&checker.finish());
    assert_eq!(integrity.violations.values().sum::<u64>(), 3);
    assert_eq!(
        integrity.examples,
        [
            "chat state wrong: bob/d: alice is a stranger",
            "mark wrong: bob/d: alice has read m2",
            "presence wrong: bob/d: alice is offline"
        ]
    );
}
