//! Messages are sent, read and expire, for any length of time: memory, disk and the time to open stay level.

use std::{
    collections::VecDeque,
    env, fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use carillon_proto::pb::store::{SetCursor, TimelineCommand, store_request::Op, timeline_command};
use carillon_proto::pb::store::{StoreRequest, store_reply::Result as Outcome};

use crate::{
    Folder,
    kills::{address, runtime},
    ledger::Ledger,
    load::{ask, write_more},
    node::Node,
    support::{inbox, timeline_shard},
};

const WRITERS: usize = 50;
/// Messages of each writer in each turn.
const MESSAGES: u64 = 4;
const TURN: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(20);
const MAX_AGE: Duration = Duration::from_secs(40);

/// Figures at the end of each minute.
#[derive(Debug, Clone, Copy)]
struct Figures {
    resident: u64,
    disk: u64,
    opening: Duration,
}

/// One node runs all the time and shows its memory and disk; another one takes the same and is killed each minute to
/// show how long it takes to open.
#[test]
#[ignore = "takes CARILLON_TEST_MINUTES: run .ci/crash soak"]
fn memory_disk_and_opening_time_stay_flat() {
    let minutes = env::var("CARILLON_TEST_MINUTES").map_or(3, |minutes| minutes.parse::<usize>().expect("a number"));
    let (folder, runtime) = (Folder::new("soak"), runtime());
    let mut nodes = ["steady", "reopened"].map(|name| {
        Node::new(folder.0.join(name), address(30), |config| {
            config.retention.max_age_ms = MAX_AGE.as_millis() as u64;
            config.retention.duplicate_window_ms = WINDOW.as_millis() as u64;
            config.log_bytes = 8 << 20;
            // So that the tables are full within the first minutes.
            config.timeline_memtables_bytes = 8 << 20;
        })
    });
    nodes.iter_mut().for_each(Node::start);
    for node in &mut nodes {
        node.wait_ready();
    }
    let mut ledgers = [Ledger::new(WRITERS, 1, 500), Ledger::new(WRITERS, 1, 500)];
    let mut turns = VecDeque::new();
    let mut figures = Vec::new();
    println!("minute | messages | kept | resident MiB | disk MiB | opening ms");
    for minute in 1..=minutes {
        let end = Instant::now() + Duration::from_secs(60);
        let mut kept = 0;
        while Instant::now() < end {
            let turn = Instant::now();
            turns.push_back(turn);
            for (node, ledger) in nodes.iter().zip(&mut ledgers) {
                runtime.block_on(write_more(&[node.address()], ledger, MESSAGES));
                kept = runtime.block_on(read(node.address(), ledger, &turns));
            }
            turns.retain(|turn| turn.elapsed() < MAX_AGE);
            std::thread::sleep(TURN.saturating_sub(turn.elapsed()));
        }
        nodes[1].kill();
        nodes[1].start();
        let opening = nodes[1].wait_ready();
        let now = Figures { resident: nodes[0].resident_bytes(), disk: bytes_in(&nodes[0].config.data_dir), opening };
        let (sent, mib) = (ledgers[0].acknowledged(), |bytes| bytes as f64 / f64::from(1 << 20));
        let Figures { resident, disk, .. } = now;
        println!("{minute} | {sent} | {kept} | {:.1} | {:.1} | {}", mib(resident), mib(disk), opening.as_millis());
        figures.push(now);
    }
    nodes.iter_mut().for_each(Node::stop_in_order);
    check_flat(&figures);
}

/// Reads what is new and acknowledges it, as a device does. How many messages the store has. `turns`: when the last ones
/// began, each of which brought so many messages.
async fn read(node: SocketAddr, ledger: &Ledger, turns: &VecDeque<Instant>) -> u64 {
    let mut kept = 0;
    for (number, writer) in ledger.writers.iter().enumerate() {
        let from = writer.acknowledged - MESSAGES + 1;
        let Outcome::TimelineRead(read) = ask(&[node], ledger.read(number, from)).await else {
            panic!("not a reading of a timeline");
        };
        let head = read.head.expect("has one");
        assert_eq!(head.last, writer.acknowledged, "the inbox of {}", writer.user);
        assert_eq!(read.entries.len() as u64, MESSAGES, "new messages of {}", writer.user);
        for entry in &read.entries {
            assert!(entry.envelope == ledger.envelope(number, entry.seq - 1), "position {} is another", entry.seq);
        }
        kept += head.last + 1 - head.first;
        let young = turns.iter().filter(|turn| turn.elapsed() < MAX_AGE).count() as u64 * MESSAGES;
        assert!(head.last + 1 - head.first >= young, "of {young} messages some were removed too early: {head:?}");
        assert!(matches!(ask(&[node], cursor(&writer.user, head.last)).await, Outcome::Done(_)));
    }
    kept
}

fn cursor(user: &str, seq: u64) -> StoreRequest {
    let cursor = SetCursor { timeline: Some(inbox(user).to_key()), device: "phone".into(), epoch: 7, seq };
    let op = Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::SetCursor(cursor)) });
    StoreRequest { id: 1, shard: Some(timeline_shard(user).to_pb()), op: Some(op), ..StoreRequest::default() }
}

/// Compares the later half with the earlier one, without the first minutes, in which caches and tables fill.
fn check_flat(figures: &[Figures]) {
    let figures = &figures[figures.len() / 4..];
    if figures.len() < 4 {
        return println!("too short to tell what grows");
    }
    let (early, late) = figures.split_at(figures.len() / 2);
    let highest = |part: &[Figures], of: fn(&Figures) -> f64| part.iter().map(of).fold(0.0, f64::max);
    let grows = |what: &str, of: fn(&Figures) -> f64, slack: f64| {
        let (early, late) = (highest(early, of), highest(late, of));
        assert!(late <= early * 1.25 + slack, "{what} grew from {early} to {late}");
    };
    grows("memory", |figures| figures.resident as f64, f64::from(8 << 20));
    grows("disk", |figures| figures.disk as f64, f64::from(8 << 20));
    grows("opening time", |figures| figures.opening.as_secs_f64(), 1.0);
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
            // Allocated bytes: the engines make some files longer than their content. Some files go while this looks.
            meta => meta.map_or(0, |meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512),
        })
        .sum()
}
