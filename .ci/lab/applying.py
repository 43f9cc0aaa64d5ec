"""What an apply changes, and what it leaves alone."""

import json

from installation import SMALLER, all_ready, apply, overlay, production_overlay, templates
from kube import kubectl, objects, until
from report import report

MINE = "example.org/mine"


def added(target, path, value):
    return {"target": target, "patch": json.dumps([{"op": "add", "path": path, "value": value}])}


def gateways():
    [found] = [one for one in objects("deployment") if one["metadata"]["name"] == "carillon-gateway"]
    return found["spec"]["replicas"]


def labels():
    [found] = [one for one in objects("service") if one["metadata"]["name"] == "carillon-gateway"]
    return found["metadata"]["labels"]


def applying(folder):
    """Half a minute: an apply takes away what is no longer in the manifests, and keeps the number of gateways that the autoscaler has set."""
    more = added({"kind": "HorizontalPodAutoscaler", "name": "carillon-gateway"}, "/spec/minReplicas", 4)
    mine = added({"kind": "Service", "name": "carillon-gateway"}, "/metadata/labels/example.org~1mine", "there")
    apply(overlay(folder / "changed", "production", patches=[*SMALLER, more, mine]))
    until("the autoscaler to add a gateway", lambda: gateways() == 4, 120)
    all_ready()
    report.check("an apply adds what is new in the manifests", labels().get(MINE) == "there")
    before = templates()
    apply(production_overlay(folder))
    report.check("an apply keeps the number of gateways that the autoscaler has set", gateways() == 4, str(gateways()))
    report.check("an apply removes what is no longer in the manifests", MINE not in labels())
    report.check("it changes no pod", templates() == before)
    # As the other steps expect it. Without figures the autoscaler removes none.
    kubectl("scale", "deployment/carillon-gateway", "--replicas=3")
    all_ready()
