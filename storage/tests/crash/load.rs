//! Writes to a store and reads it back.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use carillon_proto::pb::store::{
    StoreError, StoreReply, StoreRequest, store_error::Why, store_reply::Result as Outcome,
};
use tokio::{
    runtime::Runtime,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    ledger::{Ledger, of_id},
    support::{Stream, timeline_shard},
};

/// Unanswered writes of one writer.
const WINDOW: u64 = 24;
const MESSAGE: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(60);

/// Writes to one node until it is stopped, even if the node's process ends in between.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writing: JoinHandle<Ledger>,
}

impl Load {
    pub(crate) fn start(runtime: &Runtime, address: SocketAddr, mut ledger: Ledger) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(ledger.acknowledged())));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let writing = runtime.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(stream) = Stream::open(address).await {
                    write(stream, &mut ledger, &stopped, &count).await;
                }
                sleep(PAUSE).await;
            }
            ledger
        });
        Self { stop, acknowledged, writing }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more writes were acknowledged.
    pub(crate) fn wait_for(&self, more: u64) {
        let (begun, goal) = (std::time::Instant::now(), self.acknowledged() + more);
        while self.acknowledged() < goal {
            assert!(!self.writing.is_finished(), "the load has found something");
            assert!(begun.elapsed() < DEADLINE, "no {more} writes within {DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The outcome of writes in flight remains unknown.
    pub(crate) fn stop(self, runtime: &Runtime) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(self.writing).expect("every answer was right")
    }
}

async fn write(mut stream: Stream, ledger: &mut Ledger, stop: &AtomicBool, count: &AtomicU64) {
    let mut due = Vec::new();
    for writer in 0..ledger.writers.len() {
        let state = &mut ledger.writers[writer];
        state.sent = state.sent.max(state.acknowledged + WINDOW);
        let (from, to, accounts) = (state.acknowledged, state.sent, state.accounts..state.accounts_sent);
        due.extend((from..to).map(|n| ledger.append(writer, n)));
        due.extend(accounts.map(|n| ledger.account(writer, n)));
    }
    loop {
        for requests in due.chunks(MESSAGE) {
            stream.send(requests.to_vec()).await;
        }
        due.clear();
        let Ok(reply) = timeout(Duration::from_millis(100), stream.reply()).await else {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            continue;
        };
        let Some(reply) = reply else { return };
        let Some(writer) = take(&reply, ledger) else { return };
        count.store(ledger.acknowledged(), Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if ledger.writers[writer].sent < ledger.writers[writer].acknowledged + WINDOW {
            due.push(ledger.append(writer, ledger.writers[writer].sent));
            ledger.writers[writer].sent += 1;
        }
        if let Some(account) = ledger.due_account(writer) {
            ledger.writers[writer].accounts_sent += 1;
            due.push(account);
        }
    }
}

/// The writer whose write was acknowledged; `None` if it was refused and has to be sent again.
fn take(reply: &StoreReply, ledger: &mut Ledger) -> Option<usize> {
    let (writer, n, is_account) = of_id(reply.id);
    let state = &ledger.writers[writer];
    match reply.result.as_ref()? {
        Outcome::Appended(appended) => {
            let who = &state.user;
            assert_eq!((appended.epoch, appended.seq), (7, n + 1), "write {n} of {who} stands at another position");
            assert_eq!(n, state.acknowledged, "writes of {who} were answered out of order");
            if !appended.first_envelope.is_empty() {
                assert!(appended.first_envelope == ledger.envelope(writer, n), "write {n} of {who} has changed");
            }
            ledger.writers[writer].acknowledged = n + 1;
        }
        Outcome::Done(_) if is_account => ledger.writers[writer].accounts = n + 1,
        Outcome::Error(StoreError { why: Some(Why::Rejected(why)) }) => panic!("rejected: {why:?}"),
        Outcome::Error(_) => return None,
        other => panic!("not an answer to a write: {other:?}"),
    }
    Some(writer)
}

/// Sends this many more writes of each writer to the leaders.
pub(crate) async fn write_more(nodes: &[SocketAddr], ledger: &mut Ledger, more: u64) {
    let goals: Vec<_> = ledger.writers.iter().map(|writer| writer.acknowledged + more).collect();
    let mut shards: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, writer) in ledger.writers.iter().enumerate() {
        shards.entry(timeline_shard(&writer.user).to_string()).or_default().push(number);
    }
    let deadline = Instant::now() + DEADLINE;
    for writers in shards.values() {
        let mut node = 0;
        while let Some(due) = batch(ledger, writers, &goals) {
            assert!(Instant::now() < deadline, "nobody takes writes");
            if timeout(Duration::from_secs(5), write_batch(nodes[node], ledger, due)).await != Ok(true) {
                node = (node + 1) % nodes.len();
                sleep(PAUSE).await;
            }
        }
    }
}

fn batch(ledger: &mut Ledger, writers: &[usize], goals: &[u64]) -> Option<Vec<StoreRequest>> {
    let mut due = Vec::new();
    for writer in writers {
        let from = ledger.writers[*writer].acknowledged;
        let to = goals[*writer].min(from + WINDOW);
        let state = &mut ledger.writers[*writer];
        state.sent = state.sent.max(to);
        due.extend((from..to).map(|n| ledger.append(*writer, n)));
    }
    (!due.is_empty()).then_some(due)
}

async fn write_batch(node: SocketAddr, ledger: &mut Ledger, due: Vec<StoreRequest>) -> bool {
    let Some(mut stream) = Stream::open(node).await else { return false };
    let sent = due.len();
    stream.send(due).await;
    for _ in 0..sent {
        let Some(reply) = stream.reply().await else { return false };
        if take(&reply, ledger).is_none() {
            return false;
        }
    }
    true
}

/// How much of the timelines to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// Only the newest entries of each timeline.
    Recent,
}

/// Checks that every acknowledged write is there, once, in order and as it was sent, and that nothing else is there.
pub(crate) async fn check(nodes: &[SocketAddr], ledger: &Ledger, extent: Extent) {
    for (number, writer) in ledger.writers.iter().enumerate() {
        let first = if extent == Extent::Whole { 1 } else { writer.acknowledged.saturating_sub(300) + 1 };
        let mut next = first;
        let last = loop {
            let Outcome::TimelineRead(read) = ask(nodes, ledger.read(number, next)).await else {
                panic!("not a reading of a timeline");
            };
            for entry in &read.entries {
                assert_eq!(entry.seq, next, "a gap in the inbox of {}", writer.user);
                let right = entry.envelope == ledger.envelope(number, next - 1);
                assert!(right, "position {next} of {} does not hold what was sent for it", writer.user);
                next += 1;
            }
            if read.complete {
                break read.head.expect("has one").last;
            }
        };
        assert_eq!(last + 1, next.max(1), "the inbox of {} ends elsewhere than its head says", writer.user);
        let (acknowledged, sent) = (writer.acknowledged, writer.sent);
        assert!(last >= acknowledged, "{} has {last} messages, but {acknowledged} were acknowledged", writer.user);
        assert!(last <= sent, "{} has {last} messages, but only {sent} were ever sent", writer.user);
        let first = if extent == Extent::Whole { 0 } else { writer.accounts.saturating_sub(20) };
        for n in first..writer.accounts {
            let Outcome::User(user) = ask(nodes, ledger.read_account(number, n)).await else {
                panic!("not a user");
            };
            let right = ledger.account_is_right(n, user.account.as_ref());
            assert!(right, "account {n} of {} is {:?}", writer.user, user.account);
        }
    }
}

pub(crate) async fn ask(nodes: &[SocketAddr], request: StoreRequest) -> Outcome {
    let deadline = Instant::now() + DEADLINE;
    let mut last = None;
    while Instant::now() < deadline {
        for node in nodes {
            match timeout(Duration::from_secs(5), ask_one(*node, request.clone())).await {
                Ok(Some(Outcome::Error(error))) => last = Some(error),
                Ok(Some(outcome)) => return outcome,
                Ok(None) | Err(_) => {}
            }
        }
        sleep(PAUSE).await;
    }
    panic!("nobody answers: {last:?}");
}

/// The answer of this node, if it answers.
pub(crate) async fn ask_one(node: SocketAddr, request: StoreRequest) -> Option<Outcome> {
    let mut stream = Stream::open(node).await?;
    stream.send(vec![request]).await;
    stream.reply().await?.result
}
