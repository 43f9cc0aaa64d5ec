"""The rules, alerts, cases and dashboards in deploy/, and the page of metrics."""

import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
GRAFANA = ROOT / "deploy/grafana"
RUNBOOK = ROOT / "docs/runbook.md"

# Grafana's own variables, as a panel has them, with the values that make a query run.
VARIABLES = {"$__rate_interval": "1m", "$__range": "15m", "$namespace": ".*", "$instance": ".*"}


def rules_of(name):
    """All rules, recording and alerting, of a file."""
    return [rule for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"] for rule in group["rules"]]


def rules():
    return rules_of("rules.yaml") + rules_of("alerts.yaml")


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def records():
    return [rule for rule in rules() if "record" in rule]


def cases():
    """The cases of each alert, by its name and severity; the severity only where an alert has several."""
    return yaml.safe_load((PROMETHEUS / "cases.yaml").read_text())


def key(alert):
    """The name of an alert in the cases."""
    alone = sum(other["alert"] == alert["alert"] for other in alerts()) == 1
    return alert["alert"] if alone else f"{alert['alert']} {alert['labels']['severity']}"


def dashboards():
    return {path.name: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))}


def panels():
    """Each panel that is no row, with the name of its dashboard."""
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                yield name, panel


def runnable(expression):
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def page():
    """The metrics of docs/metrics.md: name, type, and whether it is for debugging only."""
    rows = re.findall(r"^\| `(carillon_\w+)` \| (\w+)[^|]*\|.*\| (debugging)? ?\|$", (ROOT / "docs/metrics.md").read_text(), re.M)
    return {name: (kind, bool(debugging)) for name, kind, debugging in rows}


def metrics_in(text, known):
    """The metrics that a text names; names of a histogram's series count for it. Others come back as they are."""
    found = set()
    for name in re.findall(r"\bcarillon_(?:gateway|router|storage|canary|node)_\w+", text):
        whole = re.sub(r"_(bucket|count|sum)$", "", name)
        found.add(whole if whole in known and known[whole][0] == "histogram" else name)
    return found


def selectors(expression):
    """The selectors of series in an expression, without their ranges."""
    return sorted(set(re.findall(r"\b(?:carillon[_:][\w:]+|up)(?:\{[^}]*\})?", expression)))
