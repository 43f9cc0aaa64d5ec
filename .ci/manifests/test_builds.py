"""Everything builds, fits the schemas of a current Kubernetes, and what refers to something finds it."""

import copy
import re
import tomllib

import kubernetes_validate
import pytest
import references
import yaml
from conftest import COMPONENTS, DEPLOY, KUBERNETES, OVERLAYS, ROOT, Rendered, kustomize, overlay, with_component, with_load_test

# The newest one whose schemas are there, and the oldest one that is still maintained.
VERSIONS = ("1.37", "1.35")
# Of others: the Prometheus Operator, cert-manager, the Gateway API.
CUSTOM = {"PodMonitor", "PrometheusRule", "Certificate", "Issuer", "HTTPRoute", "GRPCRoute"}


def check(rendered):
    for one in rendered.objects:
        if one["kind"] in CUSTOM:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)
    assert references.wrong(rendered) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_overlay_builds(name):
    check(overlay(name))


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_builds_on_the_base(name, tmp_path):
    check(with_component(name, tmp_path))


def test_the_load_test_builds_alone_and_fits_the_base(tmp_path):
    check(with_load_test(tmp_path))
    alone = Rendered(kustomize(KUBERNETES / "loadtest"))
    assert "Namespace" not in alone.by_kind and "Secret" not in alone.by_kind
    assert all(one["metadata"]["namespace"] == "carillon" for one in alone.objects)


def test_there_is_nothing_that_no_kustomization_names():
    named = set()
    for file in KUBERNETES.glob("**/kustomization.yaml"):
        text = file.read_text()
        named |= {path for path in file.parent.glob("**/*") if path.is_file() and f"{path.relative_to(file.parent)}" in text}
        named.add(file)
    every = {path for path in KUBERNETES.glob("**/*") if path.is_file()}
    others = {str(path.relative_to(KUBERNETES)) for path in every - named}
    assert others <= {"README.md", "components/cert-manager/client-certificate.yaml"}


def test_a_misspelt_field_and_a_lost_reference_are_found():
    objects = copy.deepcopy(overlay("trial").objects)
    rendered = Rendered(objects)
    pod = rendered.tier("gateway")["spec"]["template"]["spec"]
    pod["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        check(rendered)
    del pod["terminationGracePeriod"]
    pod["containers"][0]["readinessProbe"]["httpGet"]["port"] = "absent"
    del rendered.kind("Service")["carillon-router"]["spec"]["selector"]["app.kubernetes.io/component"]
    rendered.kind("NetworkPolicy")["carillon-storage"]["spec"]["ingress"][0]["ports"][0]["port"] = 1
    pod["volumes"][-1]["secret"]["secretName"] = "unknown"
    found = "\n".join(references.wrong(rendered))
    for part in ("absent", "Service carillon-router", "NetworkPolicy carillon-storage: port 1", "Secret unknown"):
        assert part in found, found


def test_the_image_has_the_version_of_the_program():
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    for name in OVERLAYS:
        images = {c["image"] for one in overlay(name).workloads() for c in references.containers(one)}
        assert images == {f"carillon:{version}"}
    jobs = Rendered(kustomize(KUBERNETES / "loadtest")).workloads()
    assert {c["image"] for one in jobs for c in references.containers(one)} == {f"carillon:{version}"}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert {service["image"] for service in compose["services"].values()} == {f"carillon:{version}"}


def test_the_image_runs_as_a_number_and_needs_no_shell():
    text = (DEPLOY / "Dockerfile").read_text()
    last = re.split(r"(?m)^FROM ", text)[-1]
    assert re.search(r"(?m)^USER 65532:65532$", last)
    assert re.search(r'(?m)^ENTRYPOINT \["/usr/bin/carillon"\]$', last)
    assert re.findall(r"/delivery/\S+ (/usr/bin/\S+)$", last, re.M) == ["/usr/bin/carillon", "/usr/bin/carillon-loadtest"]
    assert not re.search(r"(?m)^(RUN|CMD|SHELL|HEALTHCHECK) ", last)


def test_the_image_is_built_from_the_whole_workspace():
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert members and set(members) <= shown, set(members) - shown
