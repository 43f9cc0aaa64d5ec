"""The service under test: started in a folder of its own on free ports, asked for its metrics, ended."""

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.request

LIMITS = ["--set", "gateway.sends_per_second=1000000", "--set", "gateway.send_burst=1000000"]
ACCEPTED = "carillon_gateway_accepted_total"


class Serving:
    """A service that runs: its processes, the gateways' addresses, and the file with the secret for tokens."""

    def __init__(self, program, folder, nodes, gateways, secret):
        self.program, self.folder, self.nodes, self.gateways = program, folder, nodes, gateways
        self.secret = folder / secret


class Node:
    """One process of the service."""

    def __init__(self, name, pid, admin):
        self.name, self.pid, self.admin = name, pid, admin

    def ready(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=5).status == 200

    def metrics(self):
        """The sum of each metric over its labels."""
        lines = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5).read().decode().splitlines()
        sums = {}
        for line in lines:
            if line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                name = series.partition("{")[0]
                sums[name] = sums.get(name, 0) + float(value)
        return sums


@contextlib.contextmanager
def running(command, folder, log="log"):
    """A process that writes to `log` in the folder. No Ctrl-C of a terminal reaches it: it is ended here, in order."""
    path = folder / log
    with open(path, "ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.log = path
    try:
        yield process
    finally:
        end(process)


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
    finally:
        # Also when a second Ctrl-C came meanwhile.
        if process.poll() is None:
            process.kill()
            process.wait()


def until(condition, what, process, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        if process.poll() is not None:
            raise SystemExit(f"{what}: ended with {process.returncode}:\n{process.log.read_text()[-2000:]}")
        if time.monotonic() > end:
            raise SystemExit(f"{what}: waited {seconds} s in vain")
        time.sleep(0.05)
    return found


def free_ports(count):
    with contextlib.ExitStack() as held:
        # All are held until the last is chosen, so that none is chosen twice.
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def one_process(program, folder):
    admin, tcp, storage, router = (f"127.0.0.1:{port}" for port in free_ports(4))
    settings = {
        "admin.listen": admin,
        "storage.listen": storage,
        "router.listen": router,
        "router.storage": f'["{storage}"]',
        "gateway.routers": f'["{router}"]',
        "gateway.tcp.listen": tcp,
        "gateway.ws.enabled": "false",
        "gateway.grpc.enabled": "false",
    }
    listeners = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    with running([program, *LIMITS, *listeners], folder) as process:
        node = Node("carillon", process.pid, admin)
        until(node.ready, "carillon", process)
        yield Serving(program, folder, [node], [tcp], "data/secrets/token")


@contextlib.contextmanager
def cluster(program, folder):
    command = [program, "cluster", "--dir", folder, "--base-port", 0, *LIMITS]
    with running(command, folder) as process:
        planned = until(lambda: all_ready(folder / "cluster.json"), "carillon cluster", process)
        nodes = [Node(one["name"], one["pid"], one["addresses"]["admin"]) for one in planned]
        gateways = [one["addresses"]["tcp"] for one in planned if one["role"] == "gateway"]
        yield Serving(program, folder, nodes, gateways, "secrets/token")


def all_ready(plan):
    planned = json.loads(plan.read_text())["nodes"] if plan.exists() else []
    nodes = [Node(one["name"], one["pid"], one["addresses"]["admin"]) for one in planned]
    return all(node.ready() for node in nodes) and planned


def accepted(nodes):
    return sum(node.metrics().get(ACCEPTED, 0) for node in nodes)
