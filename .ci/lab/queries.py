"""What a Prometheus in the lab knows."""

import json
import sys
import urllib.parse

from installation import ready_pods
from kube import ROOT, inside, objects, until
from report import report

sys.path.insert(0, str(ROOT / ".ci/watch"))
import rules  # noqa: E402


class Prometheus:
    """The one pod of a namespace that has the label of Prometheus, without which the NetworkPolicies would not let it in."""

    def __init__(self, namespace):
        self.namespace = namespace

    def ask(self, path, **parameters):
        [pod] = objects("pod", "app.kubernetes.io/name=prometheus", self.namespace)
        url = f"http://{pod['status']['podIP']}:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        done = inside("curl", "-s", url, check=False)
        return json.loads(done.stdout or "{}").get("data") or {}

    def found(self, query):
        return self.ask("query", query=query).get("result", [])

    def value(self, query):
        return sum(float(one["value"][1]) for one in self.found(query))

    def up(self):
        return {one["metric"]["instance"] for one in self.found("up{namespace='carillon'} == 1")}

    def rules(self):
        return [rule for group in self.ask("rules").get("groups", []) for rule in group["rules"]]

    def scrapes_all(self, whose):
        """Every pod of Carillon, and no other, with its tier and its zone."""
        _, took = until("all pods to be scraped", lambda: self.up() == pods(), 180)
        tiers = {one["metric"]["tier"]: int(one["value"][1]) for one in self.found("count by (tier) (up{namespace='carillon'})")}
        zones = sorted({one["metric"].get("zone", "") for one in self.found("up{namespace='carillon'}")})
        report.check(f"{whose} scrapes all pods", len(tiers) == 4 and "" not in zones, f"{tiers}, zones {zones}, after {took:.0f} s")

    def has_rules(self, whose):
        until("the rules", lambda: len(self.rules()) == len(rules.rules()), 120)
        until("each rule to be evaluated", lambda: all(rule["health"] != "unknown" for rule in self.rules()), 90)
        bad = [rule["name"] for rule in self.rules() if rule["health"] != "ok"]
        report.check(f"{whose} takes the rules", not bad, f"{len(self.rules())} rules; {bad}")


def pods():
    return {pod["metadata"]["name"] for name in ("storage", "router", "gateway", "canary") for pod in ready_pods(name)}
