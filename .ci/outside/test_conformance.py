"""`carillon conformance` with the Python driver of docs/examples, and with clients that break one rule each."""

import subprocess
import sys

import pytest
import wrong_clients
from conftest import CARILLON, ROOT

DRIVER = f"{sys.executable} {ROOT}/docs/examples/drivers/driver.py"
SCENES = sorted(file.stem for file in (ROOT / "docs/examples").glob("*.toml"))


def conformance(*arguments):
    return subprocess.run([CARILLON, "conformance", *arguments], capture_output=True, text=True, timeout=300)


def test_a_client_in_another_language_passes_every_scene():
    done = conformance("--client", DRIVER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(SCENES)} passed, 0 failed, 0 skipped"


@pytest.mark.parametrize("wrong", wrong_clients.WRONG)
def test_a_client_that_breaks_a_rule_fails_its_scene(wrong):
    scene = wrong_clients.WRONG[wrong][1]
    client = f"{sys.executable} {wrong_clients.__file__} {wrong}"
    done = conformance("--client", client, "--only", scene, "--patience", "12s" if scene == "typing-forgotten" else "3s")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{scene}: FAILED at line" in done.stdout, done.stdout


def test_each_scene_fails_for_some_client():
    assert sorted({scene for _, scene in wrong_clients.WRONG.values()}) == SCENES


def test_scenes_are_listed_chosen_and_skipped(tmp_path):
    listed = conformance("--list")
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == len(SCENES)
    assert conformance("--client", DRIVER, "--only", "no-such-scene").returncode == 1
    assert conformance().returncode == 2
    # It can do nothing but say so.
    limited = tmp_path / "limited.py"
    limited.write_text("import json\nprint(json.dumps({'shown': 'ready', 'can': []}), flush=True)\ninput()\ninput()\n")
    done = conformance("--client", f"{sys.executable} {limited}", "--only", "recalled,ticket")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed, 2 skipped"
    broken = tmp_path / "broken.toml"
    broken.write_text((ROOT / "docs/examples/sign-in.toml").read_text().replace("client connects", "client dances"))
    done = conformance("--client", DRIVER, str(broken))
    assert done.returncode == 1 and "line 4" in done.stderr and "does not do" in done.stderr, done.stderr
