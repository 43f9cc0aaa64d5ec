"""The program as a client among the clients: a pod in another namespace, with the clients' label."""

import json

from kube import carillon, inside, kubectl, until
from load import NAMESPACE

IMAGE = "docker.io/library/carillon:0.2.0"
SERVICE = "tcp://carillon-gateway.carillon:7410"


def phase(name):
    return kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}", namespace=NAMESPACE, check=False)


def program(name, *arguments, user, labels=None):
    """Starts `carillon ARGUMENTS` with a token of a user, at the gateways' Service."""
    token = carillon("token", user, pod="deploy/carillon-gateway").stdout.strip()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {"carillon-client": "true"}},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "carillon",
                    "image": IMAGE,
                    "args": [*arguments, f"--url={SERVICE}"],
                    "env": [{"name": "CARILLON_TOKEN", "value": token}],
                }
            ],
        },
    }
    kubectl("delete", "pod", name, "--ignore-not-found", "--grace-period=1", "--wait=true", namespace=NAMESPACE)
    inside("kubectl", "apply", "-f", "-", given=json.dumps(pod))
    until(f"{name} to run", lambda: phase(name) not in ("Pending", ""), 60)


def command(name, *arguments, **options):
    """The same, for a command that ends: what it has printed."""
    program(name, *arguments, **options)
    until(f"{name} to end", lambda: phase(name) in ("Succeeded", "Failed"), 60)
    return kubectl("logs", name, namespace=NAMESPACE)
