"""What an operator does with deploy/kubernetes, in a real Kubernetes: see .ci/kubernetes."""

import os
import pathlib
import sys

import applying
import autoscaling
import backups
import faults
import issuing
import monitoring
import one_node
import operating
import proxies
import scraping
import three_nodes
from kube import Failed, inside, lab
from report import report

STEPS = {
    "trial": one_node.trial,
    "production": three_nodes.production,
    "rolls": three_nodes.rolls,
    "delete": three_nodes.delete,
    "drain": three_nodes.drain,
    "volume": three_nodes.volume,
    "cable": three_nodes.cable,
    "apply": applying.applying,
    "canary": operating.canary,
    "commands": operating.commands,
    "certificates": operating.certificates,
    "backup": backups.backup,
    "scrape-job": scraping.scrape_job,
    "prometheus": monitoring.prometheus,
    "autoscaling": autoscaling.autoscaling,
    "ingress": proxies.ingress,
    "gateway-api": proxies.gateway_api,
    "proxy-protocol": proxies.proxy_protocol,
    "cert-manager": issuing.cert_manager,
    "chaos": faults.chaos,
}
# What needs more programs than Kubernetes, and minutes more, is asked for by name.
BY_NAME = ("scrape-job", "prometheus", "autoscaling", "ingress", "gateway-api", "proxy-protocol", "cert-manager", "chaos")
DEFAULT = [name for name in STEPS if name not in BY_NAME]


def main():
    steps = sys.argv[1:] or DEFAULT
    if unknown := set(steps) - set(STEPS):
        sys.exit(f"unknown steps: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    # A later run of single steps goes on with the secrets of the earlier one.
    kept = pathlib.Path(os.environ["CARILLON_LAB"]) / "run" / "files"
    try:
        for step in steps:
            report.say(f"==== {step}")
            report.say(lab("up").strip())
            kept.mkdir(exist_ok=True)
            STEPS[step](kept)
    except Failed as failure:
        report.check("everything went as it should", False, str(failure))
        report.say(inside("kubectl", "get", "pods", "-A", "-o", "wide", check=False).stdout)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main()
