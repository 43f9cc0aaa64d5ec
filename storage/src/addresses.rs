//! The addresses of the storage nodes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::machine::ClusterRows;

/// The address of each node, from the cluster's rows or from the node itself. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AddressBook {
    known: Arc<watch::Sender<HashMap<u64, Arc<str>>>>,
    /// The addresses in the rows read last, so that only changed ones are taken.
    rows: Arc<Mutex<BTreeMap<u64, String>>>,
}

impl AddressBook {
    pub(crate) fn new() -> Self {
        Self { known: Arc::new(watch::Sender::new(HashMap::new())), rows: Arc::default() }
    }

    pub(crate) fn of(&self, node: u64) -> Option<Arc<str>> {
        self.known.borrow().get(&node).cloned()
    }

    /// Takes the address that the node itself reported. An empty one is ignored.
    pub(crate) fn learn(&self, node: u64, address: &str) {
        if address.is_empty() {
            return;
        }
        self.known.send_if_modified(|known| {
            let news = known.get(&node).is_none_or(|known| **known != *address);
            if news {
                known.insert(node, Arc::from(address));
            }
            news
        });
    }

    /// Takes an address that may be outdated, if none is known.
    pub(crate) fn suppose(&self, node: u64, address: &str) {
        if self.of(node).is_none() {
            self.learn(node, address);
        }
    }

    /// Takes the addresses that have changed in the rows since the last call, and forgets the nodes that have left.
    pub(crate) fn follow(&self, cluster: &ClusterRows) {
        let mut rows = self.rows.lock();
        rows.retain(|left, _| {
            let stays = cluster.nodes().any(|node| node.node == *left);
            if !stays {
                self.known.send_if_modified(|known| known.remove(left).is_some());
            }
            stays
        });
        for node in cluster.nodes() {
            if rows.get(&node.node) != Some(&node.address) {
                rows.insert(node.node, node.address.clone());
                self.learn(node.node, &node.address);
            }
        }
    }

    pub(crate) fn has(&self, address: &str) -> bool {
        self.known.borrow().values().any(|known| **known == *address)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<HashMap<u64, Arc<str>>> {
        self.known.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{ShardMap, pb::store::StorageNode};

    use super::*;

    fn rows(address: &str) -> ClusterRows {
        let node = StorageNode { node: 2, address: address.to_owned(), ..StorageNode::default() };
        ClusterRows::founded(vec![node], ShardMap { directory: 1, timeline: 1 })
    }

    #[test]
    fn a_node_that_has_left_has_no_address() {
        let book = AddressBook::new();
        book.learn(3, "joins:1");
        book.follow(&rows("a:1"));
        assert_eq!((book.of(2).as_deref(), book.of(3).as_deref()), (Some("a:1"), Some("joins:1")));
        book.follow(&ClusterRows::founded(vec![], ShardMap { directory: 1, timeline: 1 }));
        assert_eq!((book.of(2), book.of(3).as_deref()), (None, Some("joins:1")));
    }

    #[test]
    fn what_a_node_has_told_stays_until_its_row_says_something_new() {
        let book = AddressBook::new();
        // What stands for the rows after a crash that lost them has no addresses.
        book.follow(&rows(""));
        book.suppose(2, "");
        assert_eq!(book.of(2), None);
        book.suppose(2, "long-ago:1");
        book.follow(&rows("old:1"));
        assert_eq!(book.of(2).as_deref(), Some("old:1"));
        book.learn(2, "new:1");
        book.follow(&rows("old:1"));
        book.suppose(2, "long-ago:1");
        assert_eq!(book.of(2).as_deref(), Some("new:1"));
        book.follow(&rows("newest:1"));
        assert_eq!(book.of(2).as_deref(), Some("newest:1"));
    }
}
