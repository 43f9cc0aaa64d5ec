"""Every query finds something in a real Prometheus that scrapes a real cluster under load, and no alert fires there."""

import subprocess
import urllib.request

import local
import rules


def queries():
    """All queries of panels and recording rules, by where they stand; without those that may find nothing."""
    found = {}
    for name, panel in rules.panels():
        for target in panel["targets"]:
            if "mayBeEmpty" not in target:
                found[f"{name}: {panel['title']}: {target['refId']}"] = rules.runnable(target["expr"])
    return found | {rule["record"]: rule["record"] for rule in rules.records()}


def test_each_query_finds_something(prometheus):
    wanted = queries()

    def all_found():
        empty = [where for where, query in wanted.items() if not prometheus.found(query)]
        for where in set(wanted) - set(empty):
            del wanted[where]
        return not empty or f"{empty} find nothing"

    local.until("each query finds something", all_found, 100)


def test_queries_that_may_find_nothing_are_valid(prometheus):
    for _, panel in rules.panels():
        for target in panel["targets"]:
            if "mayBeEmpty" in target:
                prometheus.found(rules.runnable(target["expr"]))


def test_each_alert_looks_at_something(prometheus):
    for alert in rules.alerts():
        if "empty" in rules.cases()[rules.key(alert)]:
            continue
        for selector in rules.selectors(alert["expr"]):
            assert prometheus.found(selector), f"{alert['alert']}: {selector} finds nothing"


def test_no_alert_on_a_cause_fires_on_a_healthy_cluster(prometheus):
    of_levels = {alert["alert"] for alert in rules.rules_of("rules.yaml") if "alert" in alert}
    firing = {one["metric"]["alertname"] for one in prometheus.found('ALERTS{alertstate="firing"}')}
    # The machine may be too slow for the service levels.
    assert firing <= of_levels, firing


def test_the_page_has_all_metrics_and_no_other(prometheus):
    known = rules.page()
    there = rules.metrics_in(" ".join(prometheus.names()), known)
    assert there <= set(known), f"{there - set(known)} are not in docs/metrics.md"
    # There are neither certificates nor, on every machine, a limit of memory.
    without = {"carillon_node_certificate_ends_timestamp_seconds", "carillon_node_memory_limit_bytes"}
    absent = set(known) - there - without
    assert not absent, f"no process has {absent}"
    types = {name: one[0]["type"] for name, one in prometheus.ask("metadata")["data"].items() if name in known}
    assert types == {name: known[name][0] for name in types}
    assert len(types) == len(there)


def test_promtool_finds_nothing_wrong_with_what_is_scraped(cluster):
    for admin in cluster.addresses("admin"):
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=5) as answer:
            text = answer.read()
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
        assert done.returncode == 0, f"{admin}: {(done.stdout + done.stderr).decode()}"
