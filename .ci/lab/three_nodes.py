"""Production, on three nodes, and what happens to nodes and pods."""

import json
import time

from installation import WORKLOADS, all_ready, apply, production_overlay, ready_pods
from kube import carillon, inside, kubectl, lab, objects, rolled_out, secrets, settled, tier, until
from load import Load, prepare
from report import AWAY_S, report

# A gateway that has vanished says nothing: the client library leaves it 15 seconds after a send without an answer.
VANISHED_S = 17.0


def production(folder):
    for number in (2, 3):
        report.say(lab("join", number).strip())
    lab("network-policies")
    for number, zone in enumerate("abc", start=1):
        inside("kubectl", "label", "node", f"node{number}", f"topology.kubernetes.io/zone=zone-{zone}", "--overwrite")
    lab("volumes", 1, "50Gi")
    secrets("make", folder / "secrets")
    secrets("node-tls", folder / "secrets")
    inside("kubectl", "apply", "--server-side", "-f", "-", given=secrets("kubernetes", folder / "secrets"))
    began = time.monotonic()
    apply(production_overlay(folder))
    rolled_out(*WORKLOADS)
    status, _ = until("the storage nodes to be settled", settled)
    report.check("production is ready on three nodes", True, f"{time.monotonic() - began:.0f} s")
    zones = sorted(node["zone"] for node in status["nodes"])
    report.check("each storage node knows the zone of its machine", zones == ["zone-a", "zone-b", "zone-c"], str(zones))
    machines = {pod["spec"]["nodeName"] for pod in objects("pod", tier("storage"))}
    report.check("the storage nodes are on three machines", len(machines) == 3, str(sorted(machines)))
    until("three gateways", lambda: len(ready_pods("gateway")) == 3)
    report.check("the autoscaler holds its least number of gateways", True, "3")
    prepare()


def rolls(folder):
    for workload in WORKLOADS:
        load = Load("roll")
        began = time.monotonic()
        kubectl("rollout", "restart", workload)
        rolled_out(workload, deadline=600)
        took = time.monotonic() - began
        caught_up = all_ready(600)
        # Those that are replaced are still draining when the roll is said to be done.
        until("the old pods to be gone", lambda: all("deletionTimestamp" not in pod["metadata"] for pod in objects("pod")), 120)
        time.sleep(5)
        report.say(f"     {workload} rolled in {took:.0f} s, settled {caught_up:.0f} s later")
        report.load(f"roll of {workload.split('/')[1]}", load.end())


def delete(folder):
    """A gateway that is deleted moves its clients; one that is killed, with its network, says nothing to them."""
    for how, flags, away_s in (("deleted", [], AWAY_S), ("killed", ["--grace-period=0", "--force"], VANISHED_S)):
        load = Load("delete")
        pod = ready_pods("gateway")[0]["metadata"]["name"]
        kubectl("delete", "pod", pod, "--wait=false", *flags)
        until(f"a gateway in the place of the {how} one", lambda: len(ready_pods("gateway")) >= 3)
        until("the old one to be gone", lambda: pod not in [one["metadata"]["name"] for one in objects("pod")], 120)
        time.sleep(5)
        report.load(f"a gateway with users {how}", load.end(), away_s)


def drain(folder):
    load = Load("drain")
    inside("kubectl", "drain", "node3", "--ignore-daemonsets", "--timeout=300s")
    report.check("a node is drained within its budgets", not pods_on("node3"))
    time.sleep(10)
    inside("kubectl", "uncordon", "node3")
    began = time.monotonic()
    all_ready(600)
    report.say(f"     the storage node is back and has caught up {time.monotonic() - began:.0f} s after the uncordon")
    report.load("drain of a node", load.end())


def pods_on(node):
    return [pod["metadata"]["name"] for pod in objects("pod") if pod["spec"].get("nodeName") == node]


def volume(folder):
    """The disk of a storage node is gone for good: it gets an empty one, and its place by one command."""
    [victim] = [pod for pod in objects("pod", tier("storage")) if pod["spec"]["nodeName"] == "node3"]
    name = victim["metadata"]["name"]
    load = Load("volume")
    lab("volumes", 1, "50Gi", "node3")
    kubectl("delete", "pvc", f"data-{name}", "--wait=false")
    kubectl("delete", "pod", name, "--wait=true")

    def told():
        said = kubectl("logs", name, check=False)
        return said if "carillon cluster replace" in said else None

    said, _ = until("the empty node to say what it waits for", told)
    number, address = said.split("carillon cluster replace ")[1].split("`")[0].split()
    report.check("with an empty disk it is not ready, and the others serve", len(ready_pods("storage")) == 2, f"cluster replace {number} {address}")
    began = time.monotonic()
    carillon("cluster", "replace", number, address)
    all_ready(900)
    report.check("it has its place again", True, f"caught up {time.monotonic() - began:.0f} s after the command")
    report.load("a storage pod whose volume is gone", load.end())


def cable(folder):
    load = Load("cable")
    inside("ip", "link", "set", "j2", "down")
    began = time.monotonic()
    until("Kubernetes to notice it", lambda: not node_is_ready("node2"), 180)
    noticed = time.monotonic() - began
    until("gateways and routers elsewhere", lambda: len(elsewhere("gateway")) >= 3 and len(elsewhere("router")) >= 3, 300)
    report.say(f"     node2 not ready after {noticed:.0f} s, its gateway and router elsewhere after {time.monotonic() - began:.0f} s")
    inside("ip", "link", "set", "j2", "up")
    began = time.monotonic()
    until("node2 to be ready", lambda: node_is_ready("node2"), 300)
    all_ready(900)
    report.say(f"     all is settled {time.monotonic() - began:.0f} s after the cable is mended")
    # Until Kubernetes has noticed, the Service still leads some of those who come back to the gateway that is cut off.
    report.load("the cable of a node cut", load.end(), noticed)


def node_is_ready(name):
    [node] = [one for one in json.loads(inside("kubectl", "get", "nodes", "-o", "json").stdout)["items"] if one["metadata"]["name"] == name]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])


def elsewhere(name):
    return [pod for pod in ready_pods(name) if pod["spec"]["nodeName"] != "node2"]
