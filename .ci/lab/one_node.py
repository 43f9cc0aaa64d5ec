"""The trial, on one node."""

import json
import time

from installation import OVERLAYS, WORKLOADS, apply, overlay, ready_pods, templates
from kube import inside, is_ready, kubectl, lab, objects, rolled_out, secrets, settled, tier, until
from load import Load, prepare
from report import report


def trial(folder):
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
    report.check("its page and its test cases are in its log", "<!doctype html>" in said and "<testsuites" in said)
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
