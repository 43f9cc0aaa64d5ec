"""A cluster on one machine under load, and a Prometheus that scrapes it as deploy/prometheus/prometheus.yml says."""

import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.parse
import urllib.request

import pytest

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


class Process:
    def __init__(self, folder, name, *arguments):
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
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

    def names(self):
        return set(self.ask("label/__name__/values")["data"])


def configuration(folder):
    """The configuration as it is delivered, but with a second between scrapes."""
    text = (rules.PROMETHEUS / "prometheus.yml").read_text()
    text = text.replace("interval: 15s", "interval: 1s").replace("rules.yaml", str(rules.PROMETHEUS / "rules.yaml"))
    text += f'  - job_name: carillon-canary\n    static_configs: [{{targets: ["{CANARY}"]}}]\n'
    file = folder / "prometheus.yml"
    file.write_text(text.replace("alerts.yaml", str(rules.PROMETHEUS / "alerts.yaml")))
    return file


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError as error:
        return error


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("watch")


@pytest.fixture(scope="session")
def cluster(folder):
    assert os.access(CARILLON, os.X_OK) and os.access(LOADTEST, os.X_OK), "cargo build --release -p carillon -p carillon-loadtest comes first"
    process = Process(folder, "cluster", CARILLON, "cluster", "--dir", "local", "--ready-timeout", "120")
    plan = folder / "local/cluster.json"
    try:
        until("cluster.json", lambda: plan.exists() or not process.runs())
        admins = [node["addresses"]["admin"] for node in json.loads(plan.read_text())["nodes"]]
        for admin in admins:
            until(f"{admin} is ready", lambda: answers(f"http://{admin}/readyz"), 150)
        yield admins
    finally:
        process.stop()


@pytest.fixture(scope="session")
def canary(folder, cluster):
    nodes = json.loads((folder / "local/cluster.json").read_text())["nodes"]
    of = lambda listener: [node["addresses"][listener] for node in nodes if listener in node["addresses"]]
    routers = [node["addresses"]["rpc"] for node in nodes if node["role"] == "router"]
    gateways = [f"tcp://{address}" for address in of("tcp")] + [f"ws://{address}/ws" for address in of("ws")]
    config = folder / "canary.toml"
    config.write_text(
        f'data_dir = "canary"\ncluster.secret_file = "local/secrets/cluster"\nadmin.listen = "{CANARY}"\n'
        f"gateway.routers = {json.dumps(routers)}\ncanary.gateways = {json.dumps(gateways)}\ncanary.interval_ms = 500\n"
    )
    process = Process(folder, "canary", CARILLON, "canary", "--config", config)
    try:
        until("the canary is well", lambda: answers(f"http://{CANARY}/readyz"))
        yield process
        assert process.runs(), process.log.read_text()
    finally:
        process.stop()


@pytest.fixture(scope="session")
def prometheus(folder, cluster, canary):
    load = Process(
        folder, "load", LOADTEST, "direct", "--url", "tcp://127.0.0.1:7510", "--url", "ws://127.0.0.1:7515/ws",
        "--token-secret-file", "local/secrets/token", "--users", "20", "--rate", "100", "--seconds", "150",
    )  # fmt: skip
    data = folder / "prometheus-data"
    process = Process(
        folder, "prometheus", "prometheus", f"--config.file={configuration(folder)}", f"--storage.tsdb.path={data}",
        f"--web.listen-address={LISTEN}",
    )  # fmt: skip
    there = Prometheus()
    try:
        until("Prometheus", there.is_up)
        yield there
        assert load.runs(), load.log.read_text()
    finally:
        load.stop()
        process.stop()
