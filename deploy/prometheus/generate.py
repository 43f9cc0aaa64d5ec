#!/usr/bin/env python3
"""Writes the files in this folder that are made of others; with --check it only says whether they are up to date.

rules.yaml           the service levels: how much of the error budget is used, over several windows, and alerts on that
alerts.yaml          written by hand, but for its links to the runbook
prometheusrule.yaml  rules.yaml and alerts.yaml for Prometheus's operator

--runbook-url 'https://wiki.example/carillon/runbook#%s' makes each alert link to your copy of docs/runbook.md: %s is the
heading of its section, as links to headings have it. --to FOLDER writes the three files there.
"""

import argparse
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
MADE = "# Made by generate.py: do not edit.\n"
RUNBOOK_URL = "docs/runbook.md#%s"

# The share of sends, or of deliveries, that must be good over 30 days.
LEVELS = [
    {
        "record": "carillon:send_errors",
        "alert": "CarillonSendsRefused",
        "objective": 0.999,
        "what": "sends are refused because the service could not take them",
        "bad": 'rate(carillon_gateway_refusals_total{of="send",code=~"CODE_OVERLOADED|CODE_UNAVAILABLE|CODE_INTERNAL"}[WINDOW])',
        "all": "rate(carillon_gateway_sends_total[WINDOW])",
    },
    {
        "record": "carillon:slow_sends",
        "alert": "CarillonSendsSlow",
        "objective": 0.99,
        "what": "sends are accepted after more than 50 ms",
        "within": 'rate(carillon_gateway_send_latency_seconds_bucket{le="0.05"}[WINDOW])',
        "all": "rate(carillon_gateway_send_latency_seconds_count[WINDOW])",
    },
    {
        "record": "carillon:slow_deliveries",
        "alert": "CarillonDeliveriesSlow",
        "objective": 0.99,
        "what": "messages reach connected devices after more than 250 ms",
        "within": 'rate(carillon_gateway_delivery_latency_seconds_bucket{le="0.25"}[WINDOW])',
        "all": "rate(carillon_gateway_delivery_latency_seconds_count[WINDOW])",
    },
]
WINDOWS = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]
# How many times faster than allowed the error budget is used, over a long window and over a short one, which ends the
# alert soon after its cause has ended. 14.4 uses 2 % of the budget of 30 days in an hour.
BURNS = [
    ("critical", [("14.4", "1h", "5m"), ("6", "6h", "30m")]),
    ("warning", [("3", "1d", "2h"), ("1", "3d", "6h")]),
]
# Sends a second in the last hour below which one bad message would be an alert.
ENOUGH = "0.2"


def ratio(level, window):
    all_of = f"sum by (namespace) ({level['all']})"
    bad = f"sum by (namespace) ({level['bad']})" if "bad" in level else f"({all_of} - sum by (namespace) ({level['within']}))"
    return f"{bad} / ({all_of} > 0)".replace("WINDOW", window)


def burn_alert(level, severity, burns):
    budget = round(1 - level["objective"], 4)
    record = level["record"]
    parts = [
        f"({record}:ratio_rate{long} > {factor} * {budget} and {record}:ratio_rate{short} > {factor} * {budget})"
        for factor, long, short in burns
    ]
    objective = f"{level['objective'] * 100:g} %"
    return f"""\
      - alert: {level['alert']}
        expr: >-
          ({" or ".join(parts)})
          and on (namespace) carillon:sends:rate1h > {ENOUGH}
        labels: {{severity: {severity}}}
        annotations:
          summary: Too many {level['what']}
          description: '{{{{ $value | humanizePercentage }}}}: {level['what']}. At this rate the objective of {objective} over 30 days will be missed.'
          runbook_url: {RUNBOOK_URL}
"""


def rules():
    text = MADE + "groups:\n  - name: carillon-service-levels\n    rules:\n"
    text += "      - record: carillon:sends:rate1h\n        expr: sum by (namespace) (rate(carillon_gateway_sends_total[1h]))\n"
    for level in LEVELS:
        for window in WINDOWS:
            text += f"      - record: {level['record']}:ratio_rate{window}\n        expr: {ratio(level, window)}\n"
    # In the same group, whose rules are evaluated in this order.
    for level in LEVELS:
        text += "".join(burn_alert(level, severity, burns) for severity, burns in BURNS)
    return text


def groups_of(text):
    """The list of groups, without the file's comments and its first key."""
    return text[text.index("groups:\n") + len("groups:\n"):]


def prometheus_rule(rules_text, alerts_text):
    head = (
        MADE + "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: carillon\n"
        "  labels:\n    app.kubernetes.io/name: carillon\n    app.kubernetes.io/part-of: carillon\nspec:\n  groups:\n"
    )
    body = groups_of(rules_text) + groups_of(alerts_text)
    return head + "".join(f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True))


def with_links(text, pattern):
    """Rules in which each alert's link to the runbook is made of this pattern."""
    made, anchor = [], None
    for line in text.splitlines(keepends=True):
        if alert := re.match(r" *- alert: (\w+)$", line):
            anchor = alert[1].lower()
        made.append(re.sub(r"(?<= runbook_url: ).*", lambda _: pattern.replace("%s", anchor), line))
    return "".join(made)


def files(runbook_url):
    made = with_links(rules(), runbook_url)
    alerts = with_links((HERE / "alerts.yaml").read_text(), runbook_url)
    return {"rules.yaml": made, "alerts.yaml": alerts, "prometheusrule.yaml": prometheus_rule(made, alerts)}


def pattern_of_links(text):
    """What can stand in YAML without quotes, and has a place for the heading."""
    if text.count("%s") != 1 or not re.fullmatch(r"[A-Za-z/][\w./:%#?=&~+@,-]*(?<!:)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the address of a page with one %s, which stands for the heading of the alert")
    return text


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    parser.add_argument("--runbook-url", type=pattern_of_links, default=RUNBOOK_URL, metavar="PATTERN")
    parser.add_argument("--to", type=pathlib.Path, default=HERE, metavar="FOLDER")
    return parser.parse_args()


def main():
    given = arguments()
    made = files(given.runbook_url)
    if given.check:
        stale = [name for name, text in made.items() if not (given.to / name).exists() or (given.to / name).read_text() != text]
        sys.exit(f"out of date: {', '.join(stale)}: run deploy/prometheus/generate.py" if stale else 0)
    given.to.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (given.to / name).write_text(text)


if __name__ == "__main__":
    main()
