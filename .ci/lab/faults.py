"""Faults by carillon-loadtest, with the operator's kubectl, on clients that come through a load balancer."""

import json
import os

from bring_in import load_balancer
from installation import SMALLER, all_ready, apply, overlay
from kube import carillon, inside, kubectl, lab, objects, settled, tier, until
from report import report

LOADTEST = os.environ.get("CARILLON_LOADTEST_BIN", "target/release/carillon-loadtest")
FAULTS = ("kill gateway", "kill router", "kill storage-leader", "roll gateways", "roll routers", "roll storage", "add new", "remove storage-follower")


def run(folder, *arguments, check=False):
    settings = (f"--set=chaos.faults={json.dumps(FAULTS)}", "--set=chaos.pause=5s", "--set=chaos.patience=4m")
    return inside(LOADTEST, "run", "chaos", "--kubernetes=carillon", *settings, *arguments, check=check, timeout=1800)


def pods():
    return {pod["metadata"]["uid"] for name in ("storage", "router", "gateway") for pod in objects("pod", tier(name))}


def chaos(folder):
    """Some ten minutes: refused without consent or label, rehearsed, then each fault once, and a storage node added and removed."""
    # A fourth storage node needs a fourth machine, and each one that is added a disk.
    lab("join", 4)
    lab("network-policies")
    inside("kubectl", "label", "node", "node4", "topology.kubernetes.io/zone=zone-a", "--overwrite")
    lab("volumes", 2, "50Gi", "node4")
    apply(overlay(folder / "balanced", "production", ["load-balancer"], SMALLER))
    all_ready(600)
    address = load_balancer("carillon-clients")
    there = (f"--url=tcp://{address}:7410", f"--token-secret-file={folder}/secrets/token-key")
    before = pods()
    kubectl("label", "namespace", "carillon", "carillon-faults-")
    rehearsed = run(folder, "--dry-run")
    lines = [line.strip() for line in rehearsed.stdout.splitlines() if line.startswith("    ")]
    report.check("a rehearsal says each command", rehearsed.returncode == 0 and len(lines) >= len(FAULTS), f"{len(lines)} commands; {lines[:2]}")
    refused = run(folder, *there, "--yes-i-mean=lab/carillon")
    report.check("without the label it is refused", refused.returncode != 0 and "does not allow faults" in refused.stderr, refused.stderr.strip()[-200:])
    kubectl("label", "namespace", "carillon", "carillon-faults=allowed")
    refused = run(folder, *there, "--yes-i-mean=production/carillon")
    report.check("without consent it is refused", refused.returncode != 0 and "nothing is touched" in refused.stderr, refused.stderr.strip()[-200:])
    report.check("nothing was touched", pods() == before)
    done = run(folder, *there, "--yes-i-mean=lab/carillon", "--set=time.measured=8m", "--set=direct.rate=100", f"--json={folder}/chaos.json", f"--html={folder}/chaos.html")
    for line in done.stdout.splitlines():
        if any(word in line for word in ("healed", "back", "not healed", "verdict", "lost")) or line.lstrip()[:2].rstrip().isdigit():
            report.say(f"     {line.strip()[:160]}")
    (folder / "chaos.txt").write_text(done.stdout + done.stderr)
    found = json.loads((folder / "chaos.json").read_text())
    report.check("faults under load: nothing is lost", not found["integrity"]["violations"], str(found["integrity"]))
    report.check("everything came back", done.returncode == 0, f"exit code {done.returncode}, {found['verdict']}: {done.stderr.strip()[-300:]}")
    kubectl("label", "namespace", "carillon", "carillon-faults-")
    if len(objects("pod", tier("storage"))) > 3:
        fourth_leaves()


def fourth_leaves():
    """The faults ended with a storage node more than the overlay has."""
    of_fourth = lambda: [one["node"] for one in settled()["nodes"] if one["address"].startswith("carillon-storage-3.")]  # noqa: E731
    [number] = of_fourth()
    carillon("cluster", "remove", number)
    until("the fourth storage node to leave", lambda: settled() and not of_fourth(), 300)
    kubectl("scale", "statefulset/carillon-storage", "--replicas=3")
    kubectl("wait", "--for=delete", "pod/carillon-storage-3", "--timeout=120s")
    kubectl("delete", "pvc", "data-carillon-storage-3")
    report.check("the storage node that was added last leaves", settled() is not None)
