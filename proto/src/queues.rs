//! How full the bounded queues of this process are, read at each scrape.

use std::{collections::BTreeMap, sync::Once};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::metrics::{Label, Metric, Samples, at_scrape};

const QUEUE: &[Label] = &[Label::open("queue", "kinds of queues, listed below")];

const LENGTH: Metric =
    Metric::gauge("carillon_node_queue_length", "Items that wait in all queues of the kind").labels(QUEUE);
const CAPACITY: Metric =
    Metric::gauge("carillon_node_queue_capacity", "Items for which all queues of the kind have room").labels(QUEUE);
const FULLEST: Metric =
    Metric::gauge("carillon_node_queue_fullest_ratio", "How full the fullest queue of the kind is, from 0 to 1")
        .labels(QUEUE);

pub const ALL: [Metric; 3] = [LENGTH, CAPACITY, FULLEST];

/// The kinds of queues: what waits in them, and what happens when one is full.
pub const KINDS: [(&str, &str); 19] = [
    ("gateway_links", "changes of links and of the registry; when it is full, links wait"),
    ("gateway_requests", "requests on their way to one router; further ones are refused as overload"),
    (
        "router_replies",
        "answers on their way to one gateway or router; when it is full, no more of its requests are read",
    ),
    (
        "router_inputs",
        "requests and hints for one partition; when it is full, links are not read and hints are dropped",
    ),
    ("router_answers", "answers of the store for one partition; when it is full, the store client waits"),
    ("router_pushes", "deliveries on their way to one gateway; further ones are dropped, and the gateway reads them"),
    ("router_signals", "signals on their way to one gateway; further ones are dropped, and presences are told again"),
    ("router_directed", "directed requests on their way to one gateway; further ones are refused"),
    ("router_evictions", "evictions on their way to one gateway; when it is full, the link is cut"),
    ("router_hints", "deliveries on their way to one other router; further ones are dropped, and told later"),
    ("router_tellings", "words of users to contacts; further ones are left to the worker of the shard"),
    ("router_store_asks", "operations on their way to the store client; further ones are refused"),
    ("router_store_events", "batches of answers of storage nodes; when it is full, they are not read"),
    ("router_store_requests", "requests on their way to one storage node; further ones are handled as refused"),
    ("storage_writes", "commands that wait for their place in one shard's log; further ones are refused as busy"),
    ("storage_write_bytes", "the same in bytes"),
    ("storage_reads", "reads that wait for one shard; further ones are refused as busy"),
    ("storage_log", "writes that wait for the next flush of the log; when it is full, shards wait"),
    ("storage_peer_calls", "Raft calls on their way to one other node; when it is full, the calling shard waits"),
];

/// How much waits in a queue, and for how much it has room: items, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    pub length: usize,
    pub capacity: usize,
}

/// `None` when the queue is gone.
type Measure = Box<dyn Fn() -> Option<Fill> + Send>;

static QUEUES: Mutex<BTreeMap<&'static str, Vec<Measure>>> = Mutex::new(BTreeMap::new());
static SCRAPED: Once = Once::new();

/// Adds a queue of this kind, until it is gone. Not for queues of single connections, of which there are too many.
pub fn watch<T: Send + 'static>(kind: &'static str, queue: &mpsc::Sender<T>) {
    let queue = queue.downgrade();
    measure(kind, move || {
        let queue = queue.upgrade()?;
        let capacity = queue.max_capacity();
        Some(Fill { length: capacity - queue.capacity(), capacity })
    });
}

/// Adds something else that is bounded.
pub fn measure(kind: &'static str, fill: impl Fn() -> Option<Fill> + Send + 'static) {
    debug_assert!(KINDS.iter().any(|(known, _)| *known == kind), "{kind} is not among the kinds");
    let mut queues = QUEUES.lock();
    let of_kind = queues.entry(kind).or_default();
    // Links come and go, also while nobody scrapes.
    of_kind.retain(|fill| fill().is_some());
    of_kind.push(Box::new(fill));
    drop(queues);
    SCRAPED.call_once(|| at_scrape(read));
}

fn read(samples: &mut Samples) -> bool {
    for (kind, queues) in QUEUES.lock().iter() {
        let (mut length, mut capacity, mut fullest) = (0, 0, 0.0_f64);
        for fill in queues.iter().filter_map(|fill| fill()) {
            length += fill.length;
            capacity += fill.capacity;
            fullest = fullest.max(fill.length as f64 / fill.capacity.max(1) as f64);
        }
        let labels = [("queue", *kind)];
        samples.set(&LENGTH, &labels, length as f64);
        samples.set(&CAPACITY, &labels, capacity as f64);
        samples.set(&FULLEST, &labels, fullest);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::collect;

    #[test]
    fn queues_of_a_kind_are_told_together_and_end_with_their_senders() {
        let (small, _small) = mpsc::channel::<u8>(4);
        let (large, _large) = mpsc::channel::<u8>(12);
        watch("router_signals", &small);
        watch("router_signals", &large);
        small.try_send(1).expect("room");
        small.try_send(2).expect("room");
        large.try_send(3).expect("room");
        let told = |line: &str| assert!(collect().render().contains(line), "{line} is not in {}", collect().render());
        told("carillon_node_queue_length{queue=\"router_signals\"} 3\n");
        told("carillon_node_queue_capacity{queue=\"router_signals\"} 16\n");
        told("carillon_node_queue_fullest_ratio{queue=\"router_signals\"} 0.5\n");
        drop(small);
        told("carillon_node_queue_capacity{queue=\"router_signals\"} 12\n");
    }
}
