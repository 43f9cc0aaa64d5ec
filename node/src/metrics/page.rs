//! The page `docs/metrics.md`, which is made of the descriptions.

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path};

use carillon_proto::{
    metrics::{Kind, Metric, Values},
    queues,
};

use super::tests;

const BEGIN: &str = "# Metrics

Each process shows its own at `/metrics` of its admin listener (`admin.listen`). This page is made of the descriptions in the code: do
not edit it. `CARILLON_WRITE_PAGES=1 cargo test -p carillon --lib metrics` writes it, and `cargo test` fails when it is out of date.

Names end with the unit: seconds, bytes, or ratio (from 0 to 1); without one they are numbers of things. Counters end with `_total`,
and begin at 0 for all values of their labels, if these are known. Labels have few values: a metric by shard has as many series as the
node has replicas, and nothing is told by user, device or message. Where the last column says *debugging*, no panel and no alert
shows the metric.

[operations.md](operations.md#watching) says how to scrape them, and [runbook.md](runbook.md) what to do about alerts.

## The stages of a message

| stage | metric | where |
| --- | --- | --- |
| received | `carillon_gateway_receive_latency_seconds` | the sender's gateway has read the send, and given it to the link of the recipient's router |
| routed | `carillon_router_request_duration_seconds{op=\"send\"}` | the recipient's router has answered it: appended to both inboxes |
| appended | `carillon_router_append_duration_seconds` | the store has answered one of the two appends, with all repeats |
| committed | `carillon_storage_proposal_seconds` | an entry with the append is on disk on a majority and applied on the leader |
| flushed | `carillon_storage_log_flush_seconds` | one node has written and synced what waited |
| applied | `carillon_storage_apply_seconds` | one node has applied a batch of entries |
| accepted | `carillon_gateway_send_latency_seconds` | the sender's gateway has written `Accepted` |
| delivered | `carillon_gateway_delivery_latency_seconds` | a connection of the recipient has it |
| acknowledged | `carillon_gateway_acknowledge_latency_seconds` | the recipient's device has acknowledged it |
";

const TITLES: [(&str, &str); 5] = [
    ("carillon_gateway_", "Gateways"),
    ("carillon_router_", "Routers"),
    ("carillon_storage_", "Storage nodes"),
    ("carillon_canary_", "Canaries"),
    ("carillon_node_", "All processes"),
];

fn page() -> String {
    let mut page = BEGIN.to_owned();
    for ((prefix, metrics), (of, title)) in tests::groups().into_iter().zip(TITLES) {
        assert_eq!(prefix, of, "titles and groups have the same order");
        // Writing to a string does not fail.
        let _ = write!(
            page,
            "\n## {title}\n\n| metric | type | labels | meaning | use |\n| --- | --- | --- | --- | --- |\n"
        );
        metrics.iter().for_each(|metric| page.push_str(&row(metric)));
    }
    page.push_str("\n## Kinds of queues\n\nThe values of the label `queue`, and what happens when one is full:\n\n");
    page.push_str("| queue | what waits |\n| --- | --- |\n");
    for (kind, waits) in queues::KINDS {
        let _ = writeln!(page, "| `{kind}` | {waits} |");
    }
    page
}

fn row(metric: &Metric) -> String {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let kind = metric.unit().map_or(kind.to_owned(), |unit| format!("{kind}, {unit}"));
    let values = |values: &Values| match values {
        Values::Known(values) => values.join(", "),
        Values::Are(are) => (*are).to_owned(),
    };
    let labels: Vec<String> =
        metric.labels.iter().map(|label| format!("`{}`: {}", label.name, values(&label.values))).collect();
    let used = if metric.for_debugging { "debugging" } else { "" };
    format!("| `{}` | {kind} | {} | {} | {used} |\n", metric.name, labels.join("; "), metric.help)
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_page_of_metrics_is_what_the_code_says() {
    let (path, page) = (root().join("docs/metrics.md"), page());
    if env::var_os("CARILLON_WRITE_PAGES").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(there.lines()).find(|(wanted, found)| wanted != found);
    assert!(
        page == there,
        "docs/metrics.md is out of date, at {differs:?}: write it with CARILLON_WRITE_PAGES=1 cargo test -p carillon --lib metrics"
    );
}

/// The names of metrics in a line of code, without those that only begin as one.
fn names_in(line: &str) -> impl Iterator<Item = &str> {
    let prefixes = TITLES.map(|(prefix, _)| prefix);
    line.split('"').skip(1).step_by(2).filter(move |text| {
        let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        prefixes.iter().any(|prefix| text.len() > prefix.len() && text.starts_with(prefix)) && is_name(text)
    })
}

fn names_in_sources(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names_in_sources(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            names.extend(code.flat_map(names_in).map(str::to_owned));
        }
    }
}

#[test]
fn each_metric_in_the_sources_is_described() {
    let mut used = BTreeSet::new();
    for krate in ["proto", "gateway", "router", "storage", "canary", "node"] {
        names_in_sources(&root().join(krate).join("src"), &mut used);
    }
    let described: BTreeSet<String> =
        tests::groups().iter().flat_map(|(_, metrics)| metrics).map(|metric| metric.name.to_owned()).collect();
    let undescribed: Vec<_> = used.difference(&described).collect();
    assert!(undescribed.is_empty(), "{undescribed:?} have no description");
    let missing: Vec<_> = described.difference(&used).collect();
    assert!(missing.is_empty(), "this test does not find {missing:?}");
}
