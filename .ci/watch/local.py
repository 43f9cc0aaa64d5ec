"""A cluster on one machine, its canary, load on it, and a Prometheus that scrapes it as deploy/prometheus/prometheus.yml says."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.parse
import urllib.request

import rules

# Another build may be tried. Taken out of the environment, in which the program looks for settings.
CARILLON = pathlib.Path(os.environ.pop("CARILLON_BIN", rules.ROOT / "target/release/carillon")).resolve()
LOADTEST = CARILLON.with_name("carillon-loadtest")
LISTEN = "127.0.0.1:9190"
# The operator's listener of the canary, which `carillon cluster` does not start.
CANARY = "127.0.0.1:7590"


def until(what, condition, deadline=60):
    """Waits for a condition; fails with what was waited for, and with what the condition said last."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value is True:
            return
        assert time.monotonic() < end, f"waited {deadline} s for: {what}; {value}"
        time.sleep(0.5)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError as error:
        return error


class Process:
    def __init__(self, folder, name, *arguments):
        self.log = folder / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)

    def runs(self):
        return self.process.poll() is None

    def stop(self):
        if self.runs():
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()


@contextlib.contextmanager
def running(folder, name, *arguments):
    process = Process(folder, name, *arguments)
    try:
        yield process
    finally:
        process.stop()


class Prometheus:
    def ask(self, path, **parameters):
        url = f"http://{LISTEN}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def is_up(self):
        try:
            return self.ask("query", query="up")["status"] == "success"
        # While it starts, it answers with plain text.
        except (OSError, ValueError):
            return False

    def found(self, query):
        """The values that a query finds, without those that are no number. Fails if it is not valid."""
        answer = self.ask("query", query=query)
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        assert answer["data"]["resultType"] == "vector", query
        return [one for one in answer["data"]["result"] if one["value"][1] != "NaN"]

    def over(self, query, start, end, step):
        """The series that a query finds in a time."""
        answer = self.ask("query_range", query=query, start=start, end=end, step=step)
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        return answer["data"]["result"]

    def names(self):
        return set(self.ask("label/__name__/values")["data"])


class Cluster:
    """What `carillon cluster` has made in a folder."""

    def __init__(self, folder, process):
        self.folder, self.process = folder, process

    def nodes(self):
        return json.loads((self.folder / "local/cluster.json").read_text())["nodes"]

    def addresses(self, listener):
        return [node["addresses"][listener] for node in self.nodes() if listener in node["addresses"]]

    def start_again(self, node):
        """Starts a node that has ended; `carillon cluster` only says that it has."""
        return running(self.folder, f"{node['name']}-again", CARILLON, node["role"], "--config", node["config"])


@contextlib.contextmanager
def cluster(folder, *arguments):
    assert os.access(CARILLON, os.X_OK) and os.access(LOADTEST, os.X_OK), "cargo build --release -p carillon -p carillon-loadtest comes first"
    with running(folder, "cluster", CARILLON, "cluster", "--dir", "local", "--ready-timeout", "120", *arguments) as process:
        there = Cluster(folder, process)
        until("cluster.json", lambda: (folder / "local/cluster.json").exists() or not process.runs())
        for admin in there.addresses("admin"):
            until(f"{admin} is ready", lambda: answers(f"http://{admin}/readyz"), 150)
        yield there


@contextlib.contextmanager
def canary(folder, cluster, interval_ms, more=""):
    routers = [node["addresses"]["rpc"] for node in cluster.nodes() if node["role"] == "router"]
    gateways = [f"tcp://{address}" for address in cluster.addresses("tcp")] + [f"ws://{address}/ws" for address in cluster.addresses("ws")]
    config = folder / "canary.toml"
    config.write_text(
        f'data_dir = "canary"\ncluster.secret_file = "local/secrets/cluster"\nadmin.listen = "{CANARY}"\n'
        f"gateway.routers = {json.dumps(routers)}\ncanary.gateways = {json.dumps(gateways)}\ncanary.interval_ms = {interval_ms}\n{more}"
    )
    with running(folder, "canary", CARILLON, "canary", "--config", config) as process:
        until("the canary is well", lambda: answers(f"http://{CANARY}/readyz"))
        yield process


def configuration(folder, interval):
    """The configuration as it is delivered, but with another time between scrapes, and the canary."""
    text = (rules.PROMETHEUS / "prometheus.yml").read_text()
    text = text.replace("interval: 15s", f"interval: {interval}").replace("rules.yaml", str(rules.PROMETHEUS / "rules.yaml"))
    text += f'  - job_name: carillon-canary\n    static_configs: [{{targets: ["{CANARY}"], labels: {{instance: canary}}}}]\n'
    file = folder / "prometheus.yml"
    file.write_text(text.replace("alerts.yaml", str(rules.PROMETHEUS / "alerts.yaml")))
    return file


@contextlib.contextmanager
def prometheus(folder, interval):
    """A Prometheus that scrapes with this interval."""
    with running(
        folder, "prometheus", "prometheus", f"--config.file={configuration(folder, interval)}", f"--storage.tsdb.path={folder / 'prometheus-data'}",
        f"--web.listen-address={LISTEN}",
    ):  # fmt: skip
        there = Prometheus()
        until("Prometheus", there.is_up)
        yield there
