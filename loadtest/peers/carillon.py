"""Carillon, by its own load generator, which is built for it and checks every message."""

import contextlib
import json
import pathlib
import signal
import subprocess
import urllib.request

from . import machine

PROGRAMS = pathlib.Path(__file__).resolve().parents[2] / "target/release"
LIMITS = ["--set", "gateway.sends_per_second=1000000", "--set", "gateway.send_burst=1000000"]


def version():
    for name in ("carillon", "carillon-loadtest"):
        if not (PROGRAMS / name).exists():
            raise machine.Missing("cargo build --release --workspace")
    found = subprocess.run([PROGRAMS / "carillon", "--version"], capture_output=True, text=True, timeout=10)
    return found.stdout.split()[1]


@contextlib.contextmanager
def one_process(folder):
    """Where it listens, the file with the secret for tokens, and its process ids."""
    admin, tcp, storage, router = (f"127.0.0.1:{port}" for port in machine.free_ports(4))
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
    with machine.running([PROGRAMS / "carillon", *LIMITS, *listeners], folder, signal.SIGINT) as process:
        machine.until(lambda: ready(admin), "carillon", process)
        yield [tcp], folder / "data/secrets/token", [process.pid]


@contextlib.contextmanager
def seven_processes(folder):
    command = [PROGRAMS / "carillon", "cluster", "--dir", folder, "--base-port", 0, *LIMITS]
    with machine.running(command, folder, signal.SIGINT) as process:
        nodes = machine.until(lambda: all_ready(folder / "cluster.json"), "carillon cluster", process)
        gateways = [node["addresses"]["tcp"] for node in nodes if node["role"] == "gateway"]
        yield gateways, folder / "secrets/token", [node["pid"] for node in nodes]


def ready(admin):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"http://{admin}/readyz", timeout=5).status == 200


def all_ready(plan):
    nodes = json.loads(plan.read_text())["nodes"] if plan.exists() else []
    return all(ready(node["addresses"]["admin"]) for node in nodes) and nodes


def rows(name, service, disk, options):
    built = version()
    row = {"server": name, "version": built, "disk": disk}
    if options.idle:
        row["idle_bytes"] = idle_bytes(service, options.idle)
    with machine.folder() as folder, service(folder) as serving:
        common = arguments(folder, *serving)
        times = ["--warm-up", options.warm_up, "--seconds", options.seconds]
        direct = ["direct", "--users", options.users, *times, *common]
        row["full"] = result(load(folder, [*direct, "--window", options.window]))
        row["open"] = result(load(folder, [*direct, "--rate", options.rate]))
        yield row
        away = ["offline", "--absent", options.absent, "--senders", options.senders, *common]
        away += ["--messages", options.messages]
        yield {
            "server": f"{name}, recipient away",
            "version": built,
            "disk": disk,
            "full": result(load(folder, [*away, "--window", options.window])),
            "open": result(load(folder, [*away, "--rate", options.rate])),
        }


def idle_bytes(service, count):
    """Memory of all processes for each connection that is signed in and does nothing, after some others."""
    with machine.folder() as folder, service(folder) as serving:
        common = arguments(folder, *serving)
        load(folder, ["sign-in", "--count", 32, *common])
        return figure(load(folder, ["idle", "--connections", count, "--seconds", 1, *common]), "server memory")


def arguments(folder, addresses, secret, pids):
    urls = [part for address in addresses for part in ("--url", f"tcp://{address}")]
    return ["--token-secret-file", secret, "--json", folder / "report.json", "--server-pid", *pids, *urls]


def load(folder, command):
    command = [str(part) for part in (PROGRAMS / "carillon-loadtest", *command)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode not in (0, 4):
        raise SystemExit(f"carillon-loadtest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads((folder / "report.json").read_text())


def figure(report, name):
    return next(figure["value"] for figure in report["figures"] if figure["name"] == name)


def result(report):
    generator, seconds = report["generator"], report["measured_s"]
    servers = sum(server["cpu_us"] for server in report["servers"]) / 1e6 / seconds
    quantiles = {known["name"]: known["quantiles"] for known in report["distributions"]}
    words = {"accepted": quantiles.get("acceptance"), "delivered": quantiles.get("delivery")}
    return {
        "rate": figure(report, "accepted"),
        "cpu_us": figure(report, "server CPU"),
        "latencies_ms": {
            word: {name: found[f"{name}_us"] / 1000 for name in ("p50", "p99")}
            for word, found in words.items()
            if found
        },
        "generator_cores": generator["cores"],
        "others_cores": generator["machine_busy"] * report["machine"]["cores"] - servers - generator["cores"],
        "remarks": [generator["invalid"]] if generator["invalid"] else [],
    }
