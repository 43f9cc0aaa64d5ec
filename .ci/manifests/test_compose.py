"""deploy/compose.yaml: each service's configuration is valid for its role, and it is the cluster of deploy/kubernetes."""

import os
import subprocess

import pytest
import yaml
from conftest import DEPLOY
from pods import CARILLON
from references import GIVEN

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def test_it_is_the_same_cluster():
    roles = [service["command"][0] for service in SERVICES.values()]
    assert [roles.count(role) for role in ("storage", "router", "gateway", "cluster")] == [3, 2, 2, 1]
    assert SERVICES["init"]["command"][1:3] == ["init", "--if-not-exists"]
    for name, service in SERVICES.items():
        tier = name.split("-")[0]
        known = {"init": "carillon-operator-tokens"}.get(tier, f"carillon-{tier}-tokens")
        assert set(service["secrets"]) == GIVEN[known] | ({"token-key"} if tier == "gateway" else set())
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["user"] == "65532:65532"


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "init"])
def test_its_settings_are_valid(name, tmp_path):
    service = SERVICES[name]
    for secret in service["secrets"]:
        (tmp_path / secret).write_text("5" * 64)
    variables = {key: value.replace("/run/secrets", str(tmp_path)) for key, value in service["environment"].items()}
    variables = {key: value.replace("/var/lib/carillon", str(tmp_path / "data")) for key, value in variables.items()}
    checked = subprocess.run(
        [CARILLON, *service["command"], "--check-config"],
        env={"PATH": os.environ["PATH"], **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0 and "warning" not in checked.stderr, checked.stdout + checked.stderr
    # Nothing that looks like a setting and is none.
    assert "sets nothing" not in checked.stderr
    if "CARILLON_STORAGE__ADVERTISE" in variables:
        assert variables["CARILLON_STORAGE__ADVERTISE"] == f"{name}:7401"
    if "CARILLON_ROUTER__ADVERTISE" in variables:
        assert variables["CARILLON_ROUTER__ADVERTISE"] == f"{name}:7402"
