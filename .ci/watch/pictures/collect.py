#!/usr/bin/env python3
"""What each panel of the dashboards finds while things happen to a cluster under load.

    collect.py play FOLDER     runs cluster, load and incidents under a Prometheus; FOLDER keeps its data, and all logs
    collect.py ask FOLDER      asks this data each query of each panel, and writes the answers to FOLDER/data.json
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import local
import rules

SCRAPE = 5
# Grafana takes four scrapes.
RATE = f"{4 * SCRAPE}s"
MINUTES = 15
# A log so small that shards make snapshots within minutes.
LOG_BYTES = 48 << 20


def tls(folder):
    """Settings for TLS between the nodes: dashboards show when certificates end."""
    subprocess.run([rules.ROOT / "deploy/secrets", "node-tls", folder / "tls", "90"], check=True)
    files = {"ca": "node-ca.crt", "certificate": "node.crt", "key": "node.key"}
    return {f"cluster.tls.{key}": str(folder / "tls" / file) for key, file in files.items()} | {"cluster.tls.server_name": "carillon.internal"}


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Incidents:
    """What happens to nodes, at seconds after the beginning; what is started again runs until the end."""

    def __init__(self, cluster, stack):
        self.cluster, self.stack = cluster, stack

    def node(self, name):
        [node] = [node for node in self.cluster.nodes() if node["name"] == name]
        return node

    def end(self, name, how):
        say(f"{name}: {how.name}")
        os.kill(self.node(name)["pid"], how)

    def start(self, name):
        say(f"{name}: started again")
        self.stack.enter_context(self.cluster.start_again(self.node(name)))

    def steps(self):
        return [
            (5 * 60, lambda: self.end("gateway-1", signal.SIGKILL)),
            (5 * 60 + 45, lambda: self.start("gateway-1")),
            (8.5 * 60, lambda: self.end("storage-2", signal.SIGKILL)),
            (9.5 * 60, lambda: self.start("storage-2")),
            (13 * 60, lambda: self.end("router-2", signal.SIGTERM)),
            (13 * 60 + 30, lambda: self.start("router-2")),
        ]


def play(cluster, stack, load, began):
    for at, step in Incidents(cluster, stack).steps():
        while (wait := began + at - time.time()) > 0:
            assert load.runs(), load.log.read_text()
            time.sleep(min(wait, 1))
        step()
    time.sleep(max(0, began + MINUTES * 60 - time.time()))


def runnable(expression):
    return rules.runnable(expression.replace("$__rate_interval", RATE).replace("$__range", f"{MINUTES}m"))


def series(prometheus, target, start, end):
    found = prometheus.over(runnable(target["expr"]), start, end, SCRAPE)
    return {"legendFormat": target["legendFormat"], "refId": target["refId"], "series": found}


def collected(prometheus, start, end):
    """For each panel, by dashboard and id, what its queries found."""
    made = {}
    for name, panel in rules.panels():
        found = [series(prometheus, target, start, end) for target in panel["targets"]]
        made.setdefault(name.removesuffix(".json"), {})[panel["id"]] = found
    return made


def play_in(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = tls(folder)
    flags = [f"--set={key}={value}" for key, value in settings.items()] + [f"--set=storage.log_bytes={LOG_BYTES}"]
    more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(local.cluster(folder, *flags))
        stack.enter_context(local.canary(folder, cluster, interval_ms=1000, more=more))
        stack.enter_context(local.prometheus(folder, f"{SCRAPE}s"))
        urls = [f"--url=tcp://{address}" for address in cluster.addresses("tcp")]
        say("load")
        load = stack.enter_context(local.running(
            folder, "load", local.LOADTEST, "run", HERE / "scenario.toml", "--token-secret-file", "local/secrets/token", *urls,
        ))  # fmt: skip
        began = int(time.time())
        play(cluster, stack, load, began)
        (folder / "time.json").write_text(json.dumps({"from": began, "to": began + MINUTES * 60, "step": SCRAPE}))
        say("end")


def ask_in(folder):
    shown = json.loads((folder / "time.json").read_text())
    with local.prometheus(folder, f"{SCRAPE}s") as prometheus:
        found = collected(prometheus, shown["from"], shown["to"])
    (folder / "data.json").write_text(json.dumps(shown | {"found": found}))


def main():
    [_, what, folder] = sys.argv
    {"play": play_in, "ask": ask_in}[what](pathlib.Path(folder).resolve())


if __name__ == "__main__":
    main()
