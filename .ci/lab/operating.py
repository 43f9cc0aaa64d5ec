"""What an operator looks at and does while it runs: the canary, doctor, trace, watch, bundle, backups."""

import io
import json
import subprocess
import tarfile
import time

from clients import command, program
from installation import ready_pods, all_ready
from kube import LAB, carillon, inside, kubectl, objects, secrets, tier, until
from load import Load
from report import report

BINARY = "/usr/bin/carillon"


def asked(pod, path):
    """What a pod's admin listener says to its own node, whose probes come the same way."""
    node = pod["spec"]["nodeName"].removeprefix("node")
    return inside("curl", "-s", f"http://{pod['status']['podIP']}:7400/{path}", node=node).stdout


def metrics_of(pod):
    pairs = (line.rsplit(" ", 1) for line in asked(pod, "metrics").splitlines() if line.strip() and not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


# ---- The canary -----------------------------------------------------------------------------------------------------


def rounds(result):
    return metrics_of(ready_pods("canary")[0])[f'carillon_canary_rounds_total{{result="{result}"}}']


def canary(folder):
    """Half a minute: it is ready while messages are delivered. With all routers away it is not."""
    until("the canary to be ready", lambda: ready_pods("canary"), 60)
    before = rounds("ok")
    until("the canary's messages to be delivered", lambda: rounds("ok") > before, 30)
    wrong = rounds("wrong")
    report.check("the canary is ready, and its messages are delivered", wrong == 0, f"{rounds('ok'):.0f} went well, {wrong:.0f} wrong")
    replicas = len(objects("pod", tier("router")))
    kubectl("scale", "deployment/carillon-router", "--replicas=0")
    began = time.monotonic()
    until("the canary not to be ready", lambda: not ready_pods("canary"), 120)
    took = time.monotonic() - began
    report.check("without routers it is not ready", True, f"after {took:.0f} s: {asked(objects('pod', tier('canary'))[0], 'readyz').strip()[:200]}")
    kubectl("scale", "deployment/carillon-router", f"--replicas={replicas}")
    began = time.monotonic()
    until("the canary to be ready again", lambda: ready_pods("canary"), 120)
    report.check("it is ready again when they are back", True, f"{time.monotonic() - began:.0f} s later")
    all_ready()


# ---- Commands -------------------------------------------------------------------------------------------------------


class Watch:
    """`carillon watch USER` in a router's pod, beside what else is done."""

    def __init__(self, user):
        arguments = [LAB / "k.sh", "kubectl", "-n", "carillon", "exec", "deploy/carillon-router", "--", BINARY, "watch", user, "--json"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self):
        self.process.terminate()
        text, _ = self.process.communicate(timeout=30)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def trace(message):
    done = carillon("trace", message, "--json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def states(story):
    return {f"{one['user']}/{device['device']}": device["state"] for one in story["inboxes"] for device in one["devices"]}


def commands(folder):
    """One minute: the doctor in each tier, a message's story before and after its gateway has died, watch, a bundle."""
    doctors()
    story_of_a_message()
    bundle(folder)


def doctors():
    for name in ("storage", "router", "gateway", "canary"):
        pod = ready_pods(name)[0]["metadata"]["name"]
        done = carillon("doctor", "--json", pod=pod, check=False)
        findings = json.loads(done.stdout)["findings"]
        bad = [f"{one['severity']}: {one['found']}" for one in findings if one["severity"] not in ("ok", "note")]
        # The lab has what its machine has: the open files of the shell, and a clock that another machine may keep.
        of_the_machine = ("the limit of open files", "no time service keeps this machine's clock")
        others = [one for one in bad if not any(known in one for known in of_the_machine)]
        report.check(f"the doctor finds a {name} pod well", not others, f"{len(findings)} findings, exit code {done.returncode}; {bad}")


def story_of_a_message():
    program("listener", "listen", "bob", "--device", "phone", user="bob")
    until("bob to be signed in", lambda: "bob" in carillon("session", "list", "--user", "bob", check=False).stdout, 60)
    watch = Watch("bob")
    said = command("sender", "send", "alice", "bob", "a message through the Service", "--device", "laptop", user="alice")
    position = said.split("position ")[1].split()[0]
    message = f"bob/{position}"
    story, took = until("bob to acknowledge it", lambda: acknowledged(message), 60)
    report.check("a message through the Service is traced to its acknowledgement", whole(story), shown(story))
    seen = [one["event"] for one in watch.end()]
    report.check("watch shows its way", len(seen) >= 2, str(seen))

    router = story["inboxes"][0]["router"]
    gateways = [pod["metadata"]["name"] for pod in ready_pods("gateway")]
    routers = [pod["metadata"]["name"] for pod in ready_pods("router") if router.startswith(f"{pod['status']['podIP']}:")]
    # All gateways but one, so that both devices' are among them.
    kubectl("delete", "pod", *gateways[:-1], *routers, "--grace-period=0", "--force")
    all_ready()
    story = trace(message)
    report.check("and again when its gateway and its router have died", story is not None and whole(story), shown(story))
    kubectl("delete", "pod", "listener", "--grace-period=1", namespace="clients")
    command("sender", "send", "alice", "bob", "nobody listens", "--device", "laptop", user="alice")
    waits = trace(f"bob/{int(position) + 1}")
    report.check("a message for a device that is away waits", "waits" in states(waits).values(), shown(waits))


def acknowledged(message):
    story = trace(message)
    return story if story and "acknowledged" in states(story).values() else None


def whole(story):
    return all(inbox["replicas_have"] == 3 for inbox in story["inboxes"]) and story["accepted"].startswith("yes")


def shown(story):
    if story is None:
        return "not found"
    replicas = ", ".join(f"{inbox['user']}: on {inbox['replicas_have']} of {inbox['replicas_told']} replicas" for inbox in story["inboxes"])
    return f"{replicas}; {states(story)}"


def bundle(folder):
    file = folder / "bundle.tar.gz"
    # A gateway that was killed is missing until its lease has run out.
    done, _ = until("a bundle with nothing missing", lambda: bundled(file), 90)
    content = {}
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as archive:
        for member in archive.getmembers():
            if member.isfile():
                content[member.name.split("/", 1)[-1]] = archive.extractfile(member).read()
    nodes = {name.split("/")[1] for name in content if name.startswith("nodes/")}
    pods = [pod for name in ("storage", "router", "gateway") for pod in ready_pods(name)]
    report.check("a bundle has all nodes", len(nodes) == len(pods), f"{len(nodes)} nodes, {len(content)} files, {file.stat().st_size >> 10} KiB; {done.strip()}")
    secrets = [path.read_bytes().strip() for path in (folder / "secrets").iterdir() if path.is_file() and not path.name.endswith((".crt", ".srl"))]
    found = [name for name, text in content.items() for secret in secrets if secret and secret in text]
    report.check("no secret is in it", not found and b"through the Service" not in b"".join(content.values()), str(found or f"{len(secrets)} looked for"))


def bundled(file):
    """What the command says when nothing is missing."""
    arguments = [LAB / "k.sh", "kubectl", "-n", "carillon", "exec", "deploy/carillon-router", "--", BINARY, "debug", "bundle", "--out", "-"]
    with open(file, "wb") as into:
        done = subprocess.run(arguments, stdout=into, stderr=subprocess.PIPE, timeout=120)
    return (done.stderr.decode() or "nothing is missing") if done.returncode == 0 else None


# ---- Certificates ---------------------------------------------------------------------------------------------------

ENDS = 'carillon_node_certificate_ends_timestamp_seconds{used_for="nodes"}'


def ends():
    """When the certificates of all nodes end, as the nodes tell it."""
    pods = [pod for name in ("storage", "router", "gateway") for pod in ready_pods(name)]
    return {metrics_of(pod)[ENDS] for pod in pods}


def certificates(folder):
    """Some three minutes: the certificate of the nodes is replaced under load, and nobody notices."""
    load = Load("certificates")
    before = ends()
    secrets("node-tls", folder / "secrets", 180)
    inside("kubectl", "apply", "--server-side", "-f", "-", given=secrets("kubernetes", folder / "secrets"))
    began = time.monotonic()
    until("all nodes to have the new certificate", lambda: len(ends()) == 1 and ends() != before, 240)
    took = time.monotonic() - began
    # New connections with it: a router that comes.
    kubectl("delete", "pod", ready_pods("router")[0]["metadata"]["name"])
    all_ready()
    found = load.end()
    report.check("a new certificate of the nodes is read without a restart", True, f"by all after {took:.0f} s")
    report.load("the certificate is replaced", found)
    report.check("no client lost its connection", found.came_back == 0, str(found.came_back))
