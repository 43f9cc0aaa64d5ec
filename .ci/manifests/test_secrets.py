"""deploy/secrets: what is given to Kubernetes, and the rotation of a token."""

import stat
import subprocess

import pytest
import references
import yaml
from conftest import DEPLOY


def secrets(*arguments):
    return subprocess.run([DEPLOY / "secrets", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def folder(tmp_path):
    made = secrets("make", tmp_path / "secrets")
    assert made.returncode == 0, made.stderr
    return tmp_path / "secrets"


def test_all_secrets_of_the_manifests_are_made_with_exactly_their_keys(folder):
    assert secrets("node-tls", folder).returncode == 0 and secrets("loadtest", folder).returncode == 0
    printed = secrets("kubernetes", folder)
    assert printed.returncode == 0, printed.stderr
    namespace, *made = yaml.safe_load_all(printed.stdout)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    expected = {name: keys for name, keys in references.GIVEN.items() if name not in ("carillon-client-tls", "carillon-backup")}
    assert {one["metadata"]["name"]: set(one["data"]) for one in made} == expected


def test_nothing_is_the_same_twice_and_nothing_is_overwritten(folder):
    names = ["storage", "router", "gateway", "operator", "token-key"]
    values = [(folder / name).read_text() for name in names]
    assert len(set(values)) == len(values) and all(len(value.strip()) == 64 for value in values)
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o600 for name in names)
    (folder / "router").unlink()
    assert secrets("make", folder).returncode == 0
    again = [(folder / name).read_text() for name in names]
    assert [one == two for one, two in zip(values, again)] == [True, False, True, True, True]


def test_what_is_missing_is_named(tmp_path):
    refused = secrets("kubernetes", tmp_path / "nothing")
    assert refused.returncode == 1 and "deploy/secrets make" in refused.stderr
    (tmp_path / "storage").write_text("")
    refused = secrets("kubernetes", tmp_path)
    assert refused.returncode == 1 and "storage" in refused.stderr


def test_a_token_rotates_in_three_steps_with_two_that_are_valid_between(folder):
    file = folder / "gateway"
    [old] = file.read_text().split()
    assert secrets("rotate", folder, "gateway", "use").returncode == 1, "not begun"
    assert secrets("rotate", folder, "gateway", "add").returncode == 0
    [first, new] = file.read_text().split()
    assert first == old and new != old
    assert secrets("rotate", folder, "gateway", "add").returncode == 1, "two at most"
    assert secrets("rotate", folder, "gateway", "use").returncode == 0
    assert secrets("rotate", folder, "gateway", "use").returncode == 1, "a repeat does not undo it"
    assert file.read_text().split() == [new, old]
    assert secrets("rotate", folder, "gateway", "drop").returncode == 0
    assert file.read_text().split() == [new]
    assert secrets("rotate", folder, "token-key", "add").returncode == 1, "that is no tier"


def test_the_certificate_of_the_nodes_is_renewed_by_the_same_authority(folder):
    assert secrets("node-tls", folder).returncode == 0
    authority, first = (folder / "node-ca.crt").read_text(), (folder / "node.crt").read_text()
    assert secrets("node-tls", folder, "30").returncode == 0
    assert (folder / "node-ca.crt").read_text() == authority and (folder / "node.crt").read_text() != first
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", folder / "node-ca.crt", "-verify_hostname", "carillon.internal", folder / "node.crt"],
        capture_output=True,
        text=True,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
