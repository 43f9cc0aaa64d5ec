"""What an operator does with deploy/kubernetes, in a real Kubernetes: see .ci/kubernetes."""

import json
import os
import pathlib
import shutil
import sys
import time

import yaml
from kube import (
    ROOT,
    Failed,
    carillon,
    inside,
    is_ready,
    kubectl,
    lab,
    objects,
    rolled_out,
    secrets,
    settled,
    tier,
    until,
)
from load import Load, prepare

OVERLAYS = ROOT / "deploy/kubernetes/overlays"
WORKLOADS = ("statefulset/carillon-storage", "deployment/carillon-router", "deployment/carillon-gateway")
# A client that is told to move is back within this time.
AWAY_S = 2.0
# A gateway that has vanished says nothing: the client library leaves it 15 seconds after a send without an answer.
VANISHED_S = 17.0


class Report:
    def __init__(self):
        self.began = time.monotonic()
        self.passed = self.failed = 0
        self.lines = []

    def say(self, text):
        line = f"{time.monotonic() - self.began:6.0f} s  {text}"
        print(line)
        self.lines.append(line)

    def check(self, what, well, figures=""):
        self.passed += bool(well)
        self.failed += not well
        self.say(f"{'ok  ' if well else 'FAIL'} {what}{': ' if figures else ''}{figures}")

    def load(self, what, found, away_s=AWAY_S):
        self.check(f"{what}: nothing lost, doubled or reordered", found.whole(), str(found))
        self.check(f"{what}: nothing refused", found.refused == 0, str(found.refused))
        if away_s is not None:
            self.check(f"{what}: nobody away for longer than {away_s:g} s", found.longest_away_s <= away_s, f"{found.longest_away_s:.2f} s")


report = Report()


def ready_pods(name):
    return [pod for pod in objects("pod", tier(name)) if is_ready(pod)]


def all_ready(deadline=300):
    rolled_out(*WORKLOADS, deadline=deadline)
    _, took = until("the storage nodes to be settled", settled, deadline)
    return took


def apply(folder, check=True):
    return kubectl("apply", "-k", folder, check=check)


def overlay(folder, name, components=(), patches=()):
    """A copy of an overlay, as an operator makes it, beside the rest of the manifests."""
    shutil.copytree(ROOT / "deploy/kubernetes", folder, dirs_exist_ok=True)
    file = folder / "overlays" / name / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    content.setdefault("components", []).extend(f"../../components/{one}" for one in components)
    content.setdefault("patches", []).extend(patches)
    file.write_text(yaml.safe_dump(content))
    return file.parent


def templates():
    """The generation of each workload, which changes with what its pods are made of."""
    return {one["metadata"]["name"]: one["metadata"]["generation"] for kind in ("statefulset", "deployment") for one in objects(kind)}


# ---- One node -------------------------------------------------------------------------------------------------------


def step_trial(folder):
    lab("network-policies")
    lab("volumes", 3, "2Gi")
    apply(OVERLAYS / "trial")
    # Without the secrets nothing starts, and Kubernetes says why.
    wanted = {f"carillon-{name}" for name in ("storage-tokens", "router-tokens", "gateway-tokens", "operator-tokens")}

    def told():
        messages = " ".join(event["message"] for event in objects("events") if event["reason"] == "FailedMount")
        return all(f'secret "{name}" not found' in messages for name in wanted)

    until("the pods to tell which secret is missing", told)
    report.check("without secrets no container starts", not any(map(is_ready, objects("pod"))))

    secrets("make", folder / "secrets")
    inside("kubectl", "apply", "--server-side", "-f", "-", given=secrets("kubernetes", folder / "secrets"))
    began = time.monotonic()
    rolled_out(*WORKLOADS)
    report.check("the trial is ready once the secrets are there", settled() is not None, f"{time.monotonic() - began:.0f} s")
    before = templates()
    apply(OVERLAYS / "trial")
    report.check("applied again, no pod changes", templates() == before)
    kubectl("wait", "--for=delete", "job/carillon-init", "--timeout=300s")
    apply(OVERLAYS / "trial")
    kubectl("wait", "--for=condition=complete", "job/carillon-init", "--timeout=120s")
    said = kubectl("logs", "job/carillon-init")
    report.check("the init Job runs again and changes nothing", "nothing is changed" in said, said.strip())

    smoke = overlay(folder / "smoke", "trial", ["smoke-test"])
    apply(smoke)
    kubectl("wait", "--for=condition=complete", "job/carillon-smoke-test", "--timeout=120s")
    report.check("the smoke test sends a message", True, kubectl("logs", "job/carillon-smoke-test").strip())
    prepare()
    load = Load("trial")
    time.sleep(20)
    report.load("clients in another namespace send through the Service", load.end())
    stranger = Load("stranger", labels={"app": "stranger"})
    text = stranger.said(15)
    report.check("without the clients' label nobody gets through", "accepted" not in text, text[-200:].strip())
    limit = inside("curl", "-s", f"http://{ready_pods('storage')[0]['status']['podIP']}:7400/metrics").stdout
    [line] = [line for line in limit.splitlines() if line.startswith("carillon_node_memory_limit_bytes ")]
    report.check("a process knows its memory limit", float(line.split()[1]) == 512 << 20, line)
    load_test(folder)
    wrong_configuration(folder)
    apply_deleted(OVERLAYS / "trial")


def load_test(folder):
    """The capacity preset as a coordinator and workers, as docs/loadtest.md says it; short, because the lab shares its machine."""
    secrets("loadtest", folder / "secrets")
    inside("kubectl", "apply", "--server-side", "-f", "-", given=secrets("kubernetes", folder / "secrets"))
    made = overlay(folder / "load-test", "trial").parents[1] / "loadtest"
    file = made / "coordinator.yaml"
    changes = ("direct.users=60", "capacity.window=4s", "capacity.precision=0.2", "level.acceptance_p99_ms=200")
    lines = "".join(f"            - --set={change}\n" for change in changes)
    file.write_text(file.read_text().replace("            - capacity\n", f"            - capacity\n{lines}"))
    lab("volumes", 1, "100Mi")
    apply(made)

    def ended():
        [job] = [one for one in objects("job") if one["metadata"]["name"] == "carillon-loadtest"]
        return job["status"].get("succeeded") or job["status"].get("failed")

    until("the load test to end", ended, 1200)
    said = kubectl("logs", "job/carillon-loadtest")
    [line] = [line for line in said.splitlines() if line.startswith("{")]
    found = json.loads(line)
    steps = len(found["capacity"]["steps"])
    figures = f"{found['capacity']['rate']} messages a second after {steps} steps, {found['verdict']}: {found['capacity']['why']}"
    report.check("a Job finds the highest rate with three workers", steps > 1 and len(found["workers"]) == 3, figures)
    report.check("nothing is lost meanwhile", not found["integrity"]["violations"], str(found["integrity"]["accepted"]))
    report.check("its test cases are in its log", "<testsuites" in said)
    kubectl("delete", "-k", made, "--wait=true", "--timeout=120s")


def wrong_configuration(folder):
    """A configuration that can't work stops the roll at the first pod, and those that serve go on."""
    bad = overlay(folder / "bad", "trial")
    file = bad.parents[1] / "base/config/gateway.toml"
    file.write_text(file.read_text().replace("drain_spread_ms = 15000", "drain_spread_ms = 150000"))
    apply(bad)

    def refused():
        for pod in objects("pod", tier("gateway")):
            for status in pod["status"].get("containerStatuses", []):
                if status["restartCount"] > 0 and not status["ready"]:
                    return kubectl("logs", pod["metadata"]["name"], "--previous")
        return None

    said, _ = until("the new gateway to refuse its configuration", refused)
    report.check("a wrong configuration is named, and the gateways that serve stay", len(ready_pods("gateway")) == 2, said.strip()[:200])
    apply(OVERLAYS / "trial")
    rolled_out("deployment/carillon-gateway")


def apply_deleted(folder):
    kubectl("delete", "-k", folder, "--wait=true", "--timeout=300s")
    inside("kubectl", "delete", "namespace", "clients", "--wait=true")
    until("the volumes to be free", lambda: not objects("pvc"), 60)
    inside("kubectl", "delete", "pv", "--all")


# ---- Three nodes ----------------------------------------------------------------------------------------------------

# Three nodes of the lab share the processors and the memory of one machine.
SMALLER = [
    {
        "target": {"kind": kind, "name": f"carillon-{name}"},
        "patch": json.dumps(
            [
                {
                    "op": "replace",
                    "path": "/spec/template/spec/containers/0/resources",
                    "value": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "768Mi"}},
                }
            ]
        ),
    }
    for kind, name in (("StatefulSet", "storage"), ("Deployment", "router"), ("Deployment", "gateway"))
]


def production(folder):
    made = folder / "production"
    return made / "overlays/production" if made.exists() else overlay(made, "production", patches=SMALLER)


def step_production(folder):
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
    apply(production(folder))
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


def step_rolls(folder):
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


def step_delete(folder):
    """A gateway that is deleted moves its clients; one that is killed, with its network, says nothing to them."""
    for how, flags, away_s in (("deleted", [], AWAY_S), ("killed", ["--grace-period=0", "--force"], VANISHED_S)):
        load = Load("delete")
        pod = ready_pods("gateway")[0]["metadata"]["name"]
        kubectl("delete", "pod", pod, "--wait=false", *flags)
        until(f"a gateway in the place of the {how} one", lambda: len(ready_pods("gateway")) >= 3)
        until("the old one to be gone", lambda: pod not in [one["metadata"]["name"] for one in objects("pod")], 120)
        time.sleep(5)
        report.load(f"a gateway with users {how}", load.end(), away_s)


def step_drain(folder):
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


def step_volume(folder):
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


def step_cable(folder):
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


STEPS = ("trial", "production", "rolls", "delete", "drain", "volume", "cable")


def main():
    steps = sys.argv[1:] or STEPS
    if unknown := set(steps) - set(STEPS):
        sys.exit(f"unknown steps: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    # A later run of single steps goes on with the secrets of the earlier one.
    kept = pathlib.Path(os.environ["CARILLON_LAB"]) / "run" / "files"
    try:
        for step in steps:
            report.say(f"==== {step}")
            report.say(lab("up").strip())
            kept.mkdir(exist_ok=True)
            globals()[f"step_{step}"](kept)
    except Failed as failure:
        report.check("everything went as it should", False, str(failure))
        report.say(inside("kubectl", "get", "pods", "-A", "-o", "wide", check=False).stdout)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main()
