"""Real processes, started as the manifests of production start them, and asked by the same probes."""

import json
import os
import socket
import time

import pytest
from conftest import overlay
from pods import CARILLON, Pod, World, until


class Cluster:
    def __init__(self, folder):
        assert os.access(CARILLON, os.X_OK), "cargo build --release comes first"
        rendered = overlay("production")
        self.world = World(folder, rendered)
        storage, router, gateway = (rendered.tier(tier) for tier in ("storage", "router", "gateway"))
        self.storage = [Pod(self.world, storage, f"carillon-storage-{n}", f"127.77.1.{n + 1}") for n in range(3)]
        self.routers = [Pod(self.world, router, f"carillon-router-{n}", f"127.77.2.{n + 1}") for n in range(2)]
        self.gateways = [Pod(self.world, gateway, f"carillon-gateway-{n}", f"127.77.3.{n + 1}") for n in range(2)]
        self.init = Pod(self.world, rendered.kind("Job")["carillon-init"], "carillon-init", "127.77.4.1")

    def pods(self):
        return [*self.storage, *self.routers, *self.gateways]

    def send(self, pod, text):
        return pod.run("send", "ann", "ann", text, "--url", f"tcp://{pod.ip}:7410")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("pods"))
    try:
        yield cluster
    finally:
        for pod in cluster.pods():
            pod.kill()


def ready(pods):
    for pod in pods:
        until(f"{pod.name} to be ready: {pod.said()[-2000:]}", lambda pod=pod: pod.probe("readiness"))


def test_before_the_cluster_is_made_pods_live_have_started_and_are_not_ready(cluster):
    for pod in cluster.pods():
        pod.start()
    for pod in cluster.pods():
        # From the first second of the process.
        until(f"{pod.name} to live", lambda pod=pod: pod.probe("liveness"), 5)
        until(f"{pod.name} to have started", lambda pod=pod: pod.probe("startup"))
        assert pod.probe("readiness") is False
        assert pod.probe("liveness") is True


def test_the_job_makes_the_cluster_and_may_run_again(cluster):
    first = cluster.init.run()
    assert first.returncode == 0 and "is made" in first.stdout, first.stderr
    ready(cluster.pods())
    again = cluster.init.run()
    assert again.returncode == 0 and "nothing is changed" in again.stdout, again.stderr


def test_the_zone_and_the_address_are_those_of_the_pod(cluster):
    status = cluster.routers[0].run("cluster", "status", "--json")
    assert status.returncode == 0, status.stderr
    nodes = json.loads(status.stdout)["nodes"]
    assert {node["address"] for node in nodes} == {f"{pod.ip}:7401" for pod in cluster.storage}
    assert {node["zone"] for node in nodes} == {"zone-a"}


def test_a_message_goes_through_all_tiers(cluster):
    sent = cluster.send(cluster.gateways[1], "hello")
    assert sent.returncode == 0, sent.stderr


def test_a_gateway_may_not_call_what_belongs_to_storage(cluster):
    gateway = cluster.gateways[0]
    refused = gateway.run("cluster", "status", "--node", f"{cluster.storage[0].ip}:7401")
    assert refused.returncode == 1 and "token" in refused.stderr, refused.stderr
    token = gateway.place_of("/etc/carillon/tokens/gateway")
    forged = gateway.run(
        "cluster", "status", "--node", f"{cluster.storage[0].ip}:7401", "--set", f"cluster.tokens.operator_file={token}"
    )
    assert forged.returncode == 1 and "no answer" not in forged.stderr, forged.stderr


def test_readiness_asks_this_node_only(cluster):
    gone = cluster.storage[2]
    gone.terminate()
    assert gone.ended() == 0, gone.said()[-2000:]
    # With one of three storage nodes away, all others stay ready.
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for pod in cluster.pods():
            if pod is not gone:
                assert pod.probe("readiness") is True, pod.name
        time.sleep(0.2)
    gone.start()
    ready([gone])


def test_a_gateway_that_stops_serves_until_the_endpoints_have_spread_and_ends_within_its_grace(cluster):
    gateway = cluster.gateways[0]
    began = time.monotonic()
    gateway.terminate()
    until("it to be not ready", lambda: gateway.probe("readiness") is False, 2)
    # New clients still come, and are served.
    with socket.create_connection((gateway.ip, 7411), timeout=2):
        pass
    sent = cluster.send(gateway, "while it drains")
    assert sent.returncode == 0, sent.stderr
    # Neither probe kills it for that.
    assert gateway.probe("liveness") is True and gateway.probe("startup") is True
    assert gateway.ended() == 0, gateway.said()[-2000:]
    delay = cluster.world.rendered.settings("gateway")["gateway"]["drain_delay_ms"] / 1000
    assert time.monotonic() - began >= delay
    gateway.start()
    ready([gateway])


@pytest.mark.parametrize("tier", ["routers", "storage"])
def test_the_others_end_within_their_grace_and_come_back(cluster, tier):
    pod = getattr(cluster, tier)[1]
    pod.terminate()
    assert pod.ended() == 0, pod.said()[-2000:]
    pod.start()
    ready([pod])


def test_a_wrong_configuration_is_told_at_the_start(cluster):
    gateway = Pod(cluster.world, cluster.world.rendered.tier("gateway"), "carillon-gateway-wrong", "127.77.3.9")
    refused = gateway.run("gateway", "--set", "gateway.max_connections=0")
    assert refused.returncode == 1 and "gateway.max_connections" in refused.stderr, refused.stderr
