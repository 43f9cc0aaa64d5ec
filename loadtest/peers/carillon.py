"""Carillon, by its own load generator, which is built for it and checks every message."""

import json
import subprocess

from service.carillon import PROGRAMS

from . import machine


def version():
    for name in ("carillon", "carillon-loadtest"):
        if not (PROGRAMS / name).exists():
            raise machine.Missing("cargo build --release --workspace")
    found = subprocess.run([PROGRAMS / "carillon", "--version"], capture_output=True, text=True, timeout=10)
    return found.stdout.split()[1]


def rows(name, service, disk, options):
    built = version()
    row = {"server": name, "version": built, "disk": disk}
    if options.idle:
        row["idle_bytes"] = idle_bytes(service, options.idle)
    with machine.folder() as folder, service(PROGRAMS / "carillon", folder) as serving:
        common = serving.arguments()
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
    with machine.folder() as folder, service(PROGRAMS / "carillon", folder) as serving:
        common = serving.arguments()
        load(folder, ["sign-in", "--count", 32, *common])
        return figure(load(folder, ["idle", "--connections", count, "--seconds", 1, *common]), "server memory")


def load(folder, command):
    report = folder / "report.json"
    command = [str(part) for part in (PROGRAMS / "carillon-loadtest", *command, "--json", report)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode not in (0, 4):
        raise SystemExit(f"carillon-loadtest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(report.read_text())


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
