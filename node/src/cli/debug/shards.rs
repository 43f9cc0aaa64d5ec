//! The replicas of all shards as a table, from the metrics of the storage nodes.

use std::collections::BTreeMap;

/// The metrics and their columns.
const COLUMNS: [(&str, &str); 11] = [
    ("carillon_storage_shard_leads", "LEADS"),
    ("carillon_storage_shard_leader_known", "KNOWS_LEADER"),
    ("carillon_storage_shard_term", "TERM"),
    ("carillon_storage_shard_last_index", "LAST"),
    ("carillon_storage_shard_committed_index", "COMMITTED"),
    ("carillon_storage_shard_applied_index", "APPLIED"),
    ("carillon_storage_shard_apply_lag_entries", "APPLY_LAG"),
    ("carillon_storage_shard_follower_lag_entries", "FOLLOWER_LAG"),
    ("carillon_storage_shard_silent_replicas", "SILENT"),
    ("carillon_storage_shard_snapshot_index", "SNAPSHOT"),
    ("carillon_storage_shard_log_bytes", "LOG_BYTES"),
];

/// Rows by shard and node.
#[derive(Default)]
pub(super) struct Shards {
    rows: BTreeMap<(String, String), BTreeMap<&'static str, String>>,
}

impl Shards {
    pub(super) fn add(&mut self, node: &str, metrics: &str) {
        for line in metrics.lines() {
            let Some((name, shard, value)) = parsed(line) else { continue };
            let Some((name, _)) = COLUMNS.iter().find(|(column, _)| *column == name) else { continue };
            self.rows.entry((shard.to_owned(), node.to_owned())).or_default().insert(name, value.to_owned());
        }
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!("{:<14}  {:<12}", "SHARD", "NODE");
        COLUMNS.iter().for_each(|(_, head)| text.push_str(&format!("  {head:>12}")));
        text.push('\n');
        for ((shard, node), row) in &self.rows {
            text.push_str(&format!("{shard:<14}  {node:<12}"));
            for (name, _) in COLUMNS {
                text.push_str(&format!("  {:>12}", row.get(name).map_or("-", String::as_str)));
            }
            text.push('\n');
        }
        text
    }
}

/// `carillon_storage_shard_term{shard="timeline-3"} 7` is the term of timeline-3, 7.
fn parsed(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.split_once("{shard=\"")?;
    let (shard, value) = rest.split_once("\"} ")?;
    Some((name, shard, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_has_a_row() {
        let mut shards = Shards::default();
        shards
            .add("storage-1", "# HELP x\ncarillon_storage_shard_term{shard=\"timeline-3\"} 7\nother{shard=\"x\"} 1\n");
        shards.add("storage-2", "carillon_storage_shard_leads{shard=\"timeline-3\"} 1\n");
        let table = shards.table();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 3, "{table}");
        assert_eq!(rows[0].len(), 2 + COLUMNS.len());
        assert_eq!(rows[1][..5], ["timeline-3", "storage-1", "-", "-", "7"]);
        assert_eq!(rows[2][..3], ["timeline-3", "storage-2", "1"]);
    }
}
