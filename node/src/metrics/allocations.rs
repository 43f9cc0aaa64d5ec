//! Counts the calls to the allocator, for `loadtest/profile --allocations`. Only with the feature `count-allocations`,
//! in which this replaces the allocator of `main.rs`.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait, and nothing but an allocator sees each allocation")]

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use carillon_proto::tasks::Tasks;
use metrics::{Unit, counter, describe_counter};
use mimalloc::MiMalloc;

const ALLOCATIONS: &str = "carillon_process_allocations_total";
const ALLOCATED_BYTES: &str = "carillon_process_allocated_bytes_total";

/// Threads share a counter only if there are more threads than counters.
const SHARDS: usize = 128;
/// Short, so that the difference of two scrapes is exact.
const RENEWED: Duration = Duration::from_millis(50);
const NO_SHARD: usize = usize::MAX;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static COUNTS: [Count; SHARDS] = [const { Count::new() }; SHARDS];
static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The variable has no destructor and a constant initial value, so its use allocates nothing.
    static SHARD: Cell<usize> = const { Cell::new(NO_SHARD) };
}

/// Aligned to two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
struct Count {
    allocations: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    const fn new() -> Self {
        Self { allocations: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

/// A reallocation counts as an allocation of the whole new size, because it may copy.
struct Counting;

// SAFETY: every call goes to mimalloc as it came, and what mimalloc returns is returned as it is, so that its promises
// are the promises of this allocator. Counting touches statics and a `Cell` of the thread: it does not allocate, and
// does not panic, as the cell is never destroyed and the shard is always within bounds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is this call's.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; all that was allocated here came from mimalloc.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above; all that was allocated here came from mimalloc.
        unsafe { MiMalloc.realloc(pointer, layout, new_size) }
    }
}

#[inline]
fn count(bytes: usize) {
    let shard = SHARD.get();
    let shard = if shard == NO_SHARD { choose_shard() } else { shard };
    let count = &COUNTS[shard % SHARDS];
    count.allocations.fetch_add(1, Relaxed);
    count.bytes.fetch_add(bytes as u64, Relaxed);
}

#[cold]
fn choose_shard() -> usize {
    let shard = NEXT_SHARD.fetch_add(1, Relaxed) % SHARDS;
    SHARD.set(shard);
    shard
}

fn totals() -> (u64, u64) {
    let sum = |of: fn(&Count) -> &AtomicU64| COUNTS.iter().map(|count| of(count).load(Relaxed)).sum();
    (sum(|count| &count.allocations), sum(|count| &count.bytes))
}

fn describe() {
    let moved = "moving to another size counts, with the new one";
    describe_counter!(ALLOCATIONS, Unit::Count, format!("Allocations of memory by the process; {moved}"));
    describe_counter!(ALLOCATED_BYTES, Unit::Bytes, format!("Bytes that the process has allocated; {moved}"));
}

pub(super) fn run(tasks: &Tasks) {
    describe();
    let (allocations, bytes) = (counter!(ALLOCATIONS), counter!(ALLOCATED_BYTES));
    tasks.spawn("allocations", async move {
        let mut tick = tokio::time::interval(RENEWED);
        loop {
            tick.tick().await;
            let (all, all_bytes) = totals();
            allocations.absolute(all);
            bytes.absolute(all_bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_of_all_threads_are_counted_and_frees_are_not() {
        let (allocations, bytes) = totals();
        let threads =
            (0..2 * SHARDS).map(|_| std::thread::spawn(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(1000)))));
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        let (after, bytes_after) = totals();
        assert!(after - allocations >= 2 * SHARDS as u64, "{}", after - allocations);
        assert!(bytes_after - bytes >= 2000 * SHARDS as u64, "{}", bytes_after - bytes);
    }

    #[test]
    fn names_follow_the_rule() {
        for name in [ALLOCATIONS, ALLOCATED_BYTES] {
            assert!(name.starts_with("carillon_process_") && name.ends_with("_total"), "{name}");
        }
    }
}
