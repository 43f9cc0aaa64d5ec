"""A cluster on one machine under load, and a Prometheus that scrapes it each second."""

import pytest

import local


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("watch")


@pytest.fixture(scope="session")
def cluster(folder):
    with local.cluster(folder) as there:
        yield there


@pytest.fixture(scope="session")
def canary(folder, cluster):
    with local.canary(folder, cluster, interval_ms=500) as process:
        yield process
        assert process.runs(), process.log.read_text()


@pytest.fixture(scope="session")
def prometheus(folder, cluster, canary):
    load = local.running(
        folder, "load", local.LOADTEST, "direct", "--url", "tcp://127.0.0.1:7510", "--url", "ws://127.0.0.1:7515/ws",
        "--token-secret-file", "local/secrets/token", "--users", "20", "--rate", "100", "--seconds", "150",
    )  # fmt: skip
    with load as process, local.prometheus(folder, "1s") as there:
        yield there
        assert process.runs(), process.log.read_text()
