"""The service under test: one process or a cluster, on free ports of loopback, asked for its metrics."""

import contextlib
import json
import pathlib
import urllib.request

from .process import free_ports, running, until

PROGRAMS = pathlib.Path(__file__).resolve().parents[2] / "target/release"
LIMITS = ["--set", "gateway.sends_per_second=1000000", "--set", "gateway.send_burst=1000000"]
ACCEPTED = "carillon_gateway_accepted_total"


class Serving:
    """A service that runs: its processes, the gateways' addresses, and the file with the secret for tokens."""

    def __init__(self, program, folder, nodes, gateways, secret):
        self.program, self.folder, self.nodes, self.gateways = program, folder, nodes, gateways
        self.secret = folder / secret

    def arguments(self):
        """What the load generator needs."""
        urls = [part for address in self.gateways for part in ("--url", f"tcp://{address}")]
        return [*urls, "--token-secret-file", self.secret, "--server-pid", *(node.pid for node in self.nodes)]


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
def one_process(program, folder, under=(), arguments=()):
    """`under`: a command that runs the program, such as valgrind, which makes it slow."""
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
    with running([*under, program, *LIMITS, *listeners, *arguments], folder) as process:
        node = Node("carillon", process.pid, admin)
        until(node.ready, "carillon", process, seconds=300 if under else 60)
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
