"""Alerts can be made to link to a copy of the runbook, by the generator and by kustomize."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import rules

GENERATOR = rules.PROMETHEUS / "generate.py"
# The one of this virtual environment first: .ci/requirements.txt has its version.
KUBECTL = shutil.which("kubectl", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("kubectl")


def generate(*arguments):
    return subprocess.run([sys.executable, GENERATOR, *arguments], capture_output=True, text=True)


def links(groups):
    """The links of the alerts of some groups, by the alert's name."""
    return {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule}


def wanted(page):
    return {alert["alert"]: f"{page}#{alert['alert'].lower()}" for alert in rules.alerts()}


def test_rules_are_written_with_links_to_another_place(tmp_path):
    done = generate("--runbook-url", "https://wiki.example/a%20b/runbook#%s", "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    made = {path.name: yaml.safe_load(path.read_text()) for path in tmp_path.iterdir()}
    assert set(made) == {"rules.yaml", "alerts.yaml", "prometheusrule.yaml"}
    page = wanted("https://wiki.example/a%20b/runbook")
    assert links(made["rules.yaml"]["groups"]) | links(made["alerts.yaml"]["groups"]) == page
    assert links(made["prometheusrule.yaml"]["spec"]["groups"]) == page
    for name in ("rules.yaml", "alerts.yaml"):
        there = yaml.safe_load((rules.PROMETHEUS / name).read_text())
        assert made[name] != there
        for group in there["groups"] + made[name]["groups"]:
            for rule in group["rules"]:
                rule.get("annotations", {}).pop("runbook_url", None)
        assert made[name] == there, f"{name} differs by more than its links"


@pytest.mark.parametrize("pattern", ["https://wiki.example/runbook", "https://%s/%s", "https://a b/%s", "'%s'", "#%s", "%s:", "a/%s\nb"])
def test_a_pattern_that_makes_no_link_is_refused(tmp_path, pattern):
    done = generate(f"--runbook-url={pattern}", "--to", tmp_path / "new")
    assert done.returncode == 2 and "with one %s" in done.stderr, done.stderr
    assert not (tmp_path / "new").exists()


def test_kustomize_replaces_the_page_as_the_documentation_says(tmp_path):
    assert KUBECTL, "there is no kubectl: .ci/run installs it"
    page = (rules.ROOT / "docs/operations.md").read_text()
    [example] = [block for block in re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S) if "runbook_url" in block]
    assert "[deploy/prometheus]" in example
    folder = os.path.relpath(rules.PROMETHEUS, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(example.replace("[deploy/prometheus]", f"[{folder}]"))
    done = subprocess.run([KUBECTL, "kustomize", tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [rule] = yaml.safe_load_all(done.stdout)
    assert rule["kind"] == "PrometheusRule"
    assert links(rule["spec"]["groups"]) == wanted("https://wiki.example/carillon/runbook")
