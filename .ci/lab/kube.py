"""kubectl in the lab, and waiting for what it shows."""

import base64
import json
import pathlib
import subprocess
import time

LAB = pathlib.Path(__file__).resolve().parent
ROOT = LAB.parents[1]
NAMESPACE = "carillon"


class Failed(Exception):
    pass


def lab(script, *arguments, check=True):
    done = subprocess.run([LAB / f"{script}.sh", *map(str, arguments)], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Failed(f"{script} {arguments}: {done.stdout}{done.stderr}")
    return done.stdout


def inside(*command, given=None, check=True, node=None, timeout=900):
    """Runs a command in the namespaces of a node of the lab."""
    where = ["-n", str(node)] if node else []
    done = subprocess.run(
        [LAB / "k.sh", *where, *map(str, command)], input=given, capture_output=True, text=True, timeout=timeout
    )
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))[:300]}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done


def kubectl(*arguments, namespace=NAMESPACE, **options):
    return inside("kubectl", "-n", namespace, *arguments, **options).stdout


def objects(kind, selector=None, namespace=NAMESPACE):
    which = ["-l", selector] if selector else []
    return json.loads(kubectl("get", kind, *which, "-o", "json", namespace=namespace))["items"]


def carillon(*arguments, pod="deploy/carillon-router", check=True):
    """The command line of an operator, in a router's pod. The image has no shell."""
    return inside("kubectl", "-n", NAMESPACE, "exec", pod, "--", "/usr/bin/carillon", *arguments, check=check)


def until(what, condition, deadline=180):
    """Waits for a condition. Returns its value and the seconds that it took; raises with what was waited for."""
    began = time.monotonic()
    while not (value := condition()):
        if time.monotonic() - began > deadline:
            raise Failed(f"waited {deadline} s for {what}")
        time.sleep(0.5)
    return value, time.monotonic() - began


def tier(name):
    return f"app.kubernetes.io/component={name}"


def is_ready(pod):
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def rolled_out(*workloads, deadline=300):
    for workload in workloads:
        kubectl("rollout", "status", workload, f"--timeout={deadline}s", timeout=deadline + 60)


def secrets(*arguments):
    return subprocess.run([ROOT / "deploy/secrets", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def settled():
    """The status of the storage nodes, when all answer and nothing moves."""
    done = carillon("cluster", "status", "--json", check=False)
    if done.returncode != 0:
        return None
    status = json.loads(done.stdout)
    return status if status["left"] is None and all(node["answers"] for node in status["nodes"]) else None


def token_key():
    [key] = [one for one in objects("secret") if one["metadata"]["name"] == "carillon-token-key"]
    return base64.b64decode(key["data"]["key"]).decode()
