"""The load generator as a pod among the clients, and what it has found."""

import json
import os
import pathlib
import signal
import time

from kube import Failed, inside, kubectl, objects, token_key, until

NAMESPACE = "clients"
IMAGE = "localhost/carillon-loadtest:1"
USERS = 40
# Messages a second. What the lab and its neighbours share is one machine: this is no measurement of speed.
RATE = int(os.environ.get("CARILLON_LAB_RATE", 100))


def prepare():
    """A namespace of the clients, who have the label that the gateways' policy asks for."""
    inside("kubectl", "apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "token-key", "namespace": NAMESPACE},
        "stringData": {"key": token_key()},
    }
    inside("kubectl", "apply", "-f", "-", given=json.dumps(secret))


class Load:
    """Messages between users through the Service, from a pod on node1, checked from the first to the last."""

    def __init__(self, name, labels=None, users=USERS):
        self.name = name
        arguments = ["direct", "--url=tcp://carillon-gateway.carillon:7410", "--token-secret-file=/key/key", "--json=/dev/stdout"]
        arguments += [f"--users={users}", f"--rate={RATE}", "--devices=2", "--seconds=3600", "--patience=120", "--workers=1"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {"carillon-client": "true"}},
            "spec": {
                "restartPolicy": "Never",
                "nodeName": "node1",
                "volumes": [{"name": "key", "secret": {"secretName": "token-key"}}],
                "containers": [
                    {
                        "name": "load",
                        "image": IMAGE,
                        "args": arguments,
                        "volumeMounts": [{"name": "key", "mountPath": "/key", "readOnly": True}],
                    }
                ],
            },
        }
        kubectl("delete", "pod", name, "--ignore-not-found", "--wait=true", namespace=NAMESPACE)
        inside("kubectl", "apply", "-f", "-", given=json.dumps(pod))
        until("the load generator to run", lambda: self.phase() == "Running", 120)
        # Everyone signs in, and the first messages are there.
        time.sleep(10)

    def said(self, seconds):
        """What it has written after some seconds, when nothing is expected of it; it is killed then."""
        time.sleep(seconds)
        text = kubectl("logs", self.name, namespace=NAMESPACE)
        kubectl("delete", "pod", self.name, "--grace-period=0", "--force", namespace=NAMESPACE)
        return text

    def pod(self):
        return next((pod for pod in objects("pod", namespace=NAMESPACE) if pod["metadata"]["name"] == self.name), None)

    def phase(self):
        pod = self.pod()
        return pod["status"]["phase"] if pod else None

    def end(self):
        """Stops the load, waits until everything is delivered and read back, and returns what was found."""
        self.interrupt()
        until("the load generator to end", lambda: self.phase() in ("Succeeded", "Failed"), 400)
        text = kubectl("logs", self.name, namespace=NAMESPACE)
        start = text.find("{\n")
        if start < 0:
            raise Failed(f"the load generator {self.name} has no report: {text[-1500:]}")
        report, _ = json.JSONDecoder().raw_decode(text[start:])
        return Found(report)

    def interrupt(self):
        """SIGINT for the process: there is no shell in its image, and the log of a deleted pod would be gone."""
        [status] = self.pod()["status"]["containerStatuses"]
        if "running" not in status["state"]:
            raise Failed(f"the load generator {self.name} has ended by itself: {kubectl('logs', self.name, namespace=NAMESPACE)[-1500:]}")
        container = status["containerID"].removeprefix("containerd://")
        socket = pathlib.Path(os.environ["CARILLON_LAB"]) / "run/ctd.sock"
        tasks = inside("ctr", "-a", socket, "-n", "k8s.io", "task", "ls").stdout
        [pid] = [line.split()[1] for line in tasks.splitlines() if line.startswith(container)]
        os.kill(int(pid), signal.SIGINT)


class Found:
    def __init__(self, report):
        integrity = report["integrity"]
        figures = {figure["name"]: figure["value"] for figure in report["figures"]}
        latency = {one["name"]: one["quantiles"] for one in report["distributions"]}
        self.sent, self.accepted = integrity["sent"], integrity["accepted"]
        self.refused, self.unknown = integrity["refused"], integrity["unknown"]
        self.violations = integrity["violations"]
        self.lost = integrity["violations"].get("lost", 0)
        self.came_back = int(figures.get("devices that came back", 0))
        self.longest_away_s = figures.get("longest time away", 0) / 1000
        self.slowest_s = latency.get("acceptance", {}).get("max_us", 0) / 1e6
        self.p99_ms = latency.get("acceptance", {}).get("p99_us", 0) / 1000

    def whole(self):
        return not self.violations and self.accepted > 0

    def __str__(self):
        wrong = f", {self.violations}" if self.violations else ""
        return (
            f"sent {self.sent}, refused {self.refused}, unknown {self.unknown}, lost {self.lost}{wrong}; devices that came back "
            f"{self.came_back}, longest away {self.longest_away_s:.2f} s, slowest acceptance {self.slowest_s:.2f} s"
        )
