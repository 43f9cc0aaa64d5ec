//! Many seeds, and the proof that a broken service would not pass them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use carillon_simulation::{Guard, Plant, Report, Simulator};
use tempfile::TempDir;

/// Number of runs, unless CARILLON_SEEDS says otherwise.
const SEEDS: u64 = 500;
/// Runs within which each planted bug is found.
const PLANTED: u64 = 200;
/// Runs that pass without guards that are not needed.
const WITHOUT: u64 = 100;
/// Runs with many faults at a time.
const HOSTILE: u64 = 50;

/// A folder for engines, which are made anew for each test; in memory where the machine has such a folder.
fn simulator() -> (TempDir, Simulator) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("folder");
    let simulator = Simulator::open(dir.path()).expect("opens");
    (dir, simulator)
}

fn seeds() -> u64 {
    let asked = std::env::var("CARILLON_SEEDS").ok();
    asked.map_or(SEEDS, |asked| asked.parse().expect("CARILLON_SEEDS is a number"))
}

#[test]
fn every_run_keeps_the_promises() {
    let (began, next) = (Instant::now(), AtomicU64::new(1));
    let mut all = Report::default();
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(|| runs(&next))).collect();
        for worker in workers {
            all += worker.join().expect("every run passes");
        }
    });
    println!("{} runs in {:?}: {all:?}", seeds(), began.elapsed());
    // A world in which hardly anything is accepted would prove nothing.
    assert!(all.accepted * 10 > all.sent * 6, "{all:?}");
    assert!(all.behind > seeds(), "{all:?}");
    assert!(all.in_groups > seeds(), "{all:?}");
    assert!(all.scheduled > seeds(), "{all:?}");
    assert!(all.expired > seeds() / 2, "{all:?}");
    assert!(all.members > seeds(), "{all:?}");
    assert!(all.annotated > seeds() && all.annotated_in_groups > seeds() / 50, "{all:?}");
    assert!(all.presences > seeds(), "{all:?}");
    assert!(all.swept > seeds() / 10 && all.moves > seeds() && all.above_level > seeds() / 50, "{all:?}");
}

/// Seeds that are this thread's part.
fn runs(next: &AtomicU64) -> Report {
    let (_dir, mut simulator) = simulator();
    let mut all = Report::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed > seeds() {
            return all;
        }
        match simulator.run(seed, None, false) {
            Ok(report) => all += report,
            Err(failure) => panic!(
                "seed {seed} failed after {} us: {}\nagain: cargo run -p carillon-simulation -- --seed {seed} --verbose",
                failure.at_us, failure.what
            ),
        }
    }
}

#[test]
fn many_faults_at_a_time_break_no_promise_either() {
    let (_dir, mut simulator) = simulator();
    for seed in 1..=HOSTILE {
        if let Err(failure) = simulator.run(seed, Some(Plant::Hostile), false) {
            panic!("seed {seed} failed, run with --hostile: {}", failure.what);
        }
    }
}

#[test]
fn one_seed_is_one_run() {
    let (_dir, mut simulator) = simulator();
    for seed in 1..=20 {
        let (first, second) = (simulator.run(seed, None, false), simulator.run(seed, None, false));
        assert_eq!(first, second, "seed {seed}");
    }
}

/// `how`: the ends that a run with this bug may have.
fn is_found(plant: Plant, how: &[&str]) {
    let (_dir, mut simulator) = simulator();
    let began = Instant::now();
    let failure =
        (1..=PLANTED).find_map(|seed| simulator.run(seed, Some(plant), false).err().map(|failure| (seed, failure)));
    let (seed, failure) = failure.unwrap_or_else(|| panic!("{plant:?} was not found in {PLANTED} runs"));
    println!("{plant:?} was found by seed {seed} in {:?}: {}", began.elapsed(), failure.what);
    assert!(
        how.iter().any(|how| failure.what.contains(how)),
        "{plant:?} was found for another reason: {}",
        failure.what
    );
}

#[test]
fn forgotten_duplicates_are_found() {
    is_found(Plant::DuplicatesForgotten, &[" and at ", " twice"]);
}

#[test]
fn a_reordered_batch_is_found() {
    is_found(Plant::ReorderedBatch, &["stands behind"]);
}

#[test]
fn an_answer_before_the_commit_is_found() {
    is_found(Plant::AnsweredBeforeCommit, &["accepted before it was appended", "which is not there"]);
}

#[test]
fn a_lane_that_stays_open_is_found() {
    is_found(Plant::LanesStayOpen, &["stands behind"]);
}

#[test]
fn a_message_behind_the_ban_of_its_sender_is_found() {
    is_found(Plant::BannedMayWrite, &["who is no member"]);
}

#[test]
fn a_mark_that_is_forgotten_is_found() {
    is_found(Plant::MarksForgotten, &["and marked"]);
}

#[test]
fn a_count_of_ones_own_messages_is_found() {
    is_found(Plant::OwnMessagesCount, &["the conversation of"]);
}

#[test]
fn an_edit_by_somebody_else_is_found() {
    is_found(Plant::OthersEdit, &["is shown of message", "was never so"]);
}

#[test]
fn a_scheduled_message_that_is_sent_after_it_was_taken_back_is_found() {
    is_found(Plant::CancelledGoOn, &["was cancelled, and then sent", "was sent, and then cancelled"]);
}

#[test]
fn a_scheduled_message_that_is_sent_early_is_found() {
    is_found(Plant::SentEarly, &["before its time"]);
}

#[test]
fn a_content_that_is_removed_early_is_found() {
    is_found(Plant::RemovedEarly, &["before its time"]);
}

#[test]
fn a_disk_that_comes_back_empty_under_its_old_replicas_is_found() {
    is_found(Plant::DisksComeBackEmpty, &["committed entries"]);
}

#[test]
fn a_gap_that_stays_open_is_found() {
    is_found(Plant::GapsStayOpen, &["not quiet"]);
}

#[test]
fn a_drop_that_nobody_is_told_of_is_found() {
    is_found(Plant::DropsUntold, &["not quiet"]);
}

#[test]
fn a_cursor_too_far_is_found() {
    is_found(Plant::CursorTooFar, &["acknowledged only"]);
}

#[test]
fn a_deleted_user_whose_sessions_go_on_sending_is_found() {
    is_found(Plant::SenderGoesOn, &["the sender was deleted"]);
}

#[test]
fn an_inbox_that_goes_on_under_the_next_owner_is_found() {
    is_found(Plant::InboxGoesOn, &["which is not there", "what is not there", "acknowledged only"]);
}

/// Without these guards of message order nothing is lost, doubled or reordered: see docs/adr/0018-order.md.
fn is_kept_without(guards: &[Guard]) -> Report {
    let (_dir, mut simulator) = simulator();
    let (plant, mut all) = (Plant::Without(guards.iter().copied().collect()), Report::default());
    for seed in 1..=WITHOUT {
        match simulator.run(seed, Some(plant), false) {
            Ok(report) => all += report,
            Err(failure) => panic!("without {guards:?}, seed {seed} failed: {}", failure.what),
        }
    }
    println!("without {guards:?}: {all:?}");
    all
}

#[test]
fn clients_that_name_nothing_have_their_order_by_the_key_alone() {
    use Guard::{Gateway, Lanes, Names};
    let whole = is_kept_without(&[Names]);
    let by_key = is_kept_without(&[Names, Gateway, Lanes]);
    assert!(by_key.out_of_order > whole.out_of_order, "the other guards were not left out: {whole:?} {by_key:?}");
    // Gateways repeat what was refused for its order: their clients hear of little of it.
    assert!(by_key.accepted * 10 > by_key.sent * 6 && by_key.refused < by_key.out_of_order, "{by_key:?}");
}

#[test]
fn clients_that_name_the_message_before_have_their_order_by_the_key_alone() {
    use Guard::{Filling, Gateway, Lanes};
    is_kept_without(&[Filling]);
    is_kept_without(&[Filling, Gateway, Lanes]);
}

#[test]
fn without_the_key_messages_overtake_each_other() {
    is_found(Plant::Without([Guard::Key].into_iter().collect()), &["stands behind"]);
}

/// The lanes of the store and the order in which routers send make it rare.
#[test]
fn without_names_messages_overtake_each_other() {
    for guard in [Guard::Lanes, Guard::Router] {
        is_found(Plant::Without([Guard::Names, Guard::Filling, guard].into_iter().collect()), &["stands behind"]);
    }
}

#[test]
fn without_numbers_a_sign_in_that_was_given_up_replaces_the_later_one() {
    let plant = Plant::Without([Guard::Attempts].into_iter().collect());
    is_found(plant, &["was ended for ever: this device has signed in elsewhere"]);
}

#[test]
fn with_numbers_gateways_that_stand_still_let_no_sign_in_replace_a_later_one() {
    let (_dir, mut simulator) = simulator();
    for seed in 1..=WITHOUT {
        let with = simulator.run(seed, Some(Plant::GatewaysStandStill), false);
        assert!(with.is_ok(), "seed {seed}: {with:?}");
    }
}
