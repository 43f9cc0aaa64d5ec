"""The manifests as `kubectl kustomize` renders them, and what is asked of them again and again."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("trial", "production")
COMPONENTS = tuple(sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml")))
TIERS = {"carillon-storage": "storage", "carillon-router": "router", "carillon-gateway": "gateway"}
WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob")

# The one of this virtual environment first: .ci/requirements.txt has its version.
KUBECTL = shutil.which("kubectl", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("kubectl")


def kustomize(folder):
    assert KUBECTL, "there is no kubectl: .ci/run installs it"
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


class Rendered:
    """The objects of one overlay, by kind and name."""

    def __init__(self, objects):
        self.objects = objects
        self.by_kind = {}
        for one in objects:
            names = self.by_kind.setdefault(one["kind"], {})
            assert one["metadata"]["name"] not in names, f"two of {one['kind']} {one['metadata']['name']}"
            names[one["metadata"]["name"]] = one

    def kind(self, kind):
        return self.by_kind.get(kind, {})

    def workloads(self):
        return [one for kind in WORKLOADS for one in self.kind(kind).values()]

    def tier(self, tier):
        """Storage, routers or gateways."""
        [found] = [one for one in self.workloads() if TIERS.get(one["metadata"]["name"]) == tier]
        return found

    def settings(self, tier):
        """The configuration file of a tier, without what the pod's environment adds."""
        pod = self.tier(tier)["spec"]["template"]["spec"]
        [name] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        return tomllib.loads(self.kind("ConfigMap")[name]["data"][f"{tier}.toml"])

    def pods_with(self, labels):
        """The workloads whose pods have these labels."""
        def has(one):
            theirs = template(one)["metadata"]["labels"]
            return all(theirs.get(key) == value for key, value in labels.items())

        return [one for one in self.workloads() if has(one)]


def template(workload):
    spec = workload["spec"]
    return (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]


def containers(workload):
    pod = template(workload)["spec"]
    return pod["containers"] + pod.get("initContainers", [])


def called(one):
    return f"{one['kind']} {one['metadata']['name']}"


@functools.cache
def overlay(name):
    return Rendered(kustomize(KUBERNETES / "overlays" / name))


def with_load_test(folder):
    """The base and, beside it, the Jobs of a load test, which an operator applies by themselves."""
    resources = [os.path.relpath(KUBERNETES / name, folder) for name in ("base", "loadtest")]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"kind": "Kustomization", "namespace": "carillon", "resources": resources}))
    return Rendered(kustomize(folder))


def with_component(name, folder):
    """The base with one component, as a copy of an overlay would have it."""
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": "carillon",
                "resources": [os.path.relpath(KUBERNETES / "base", folder)],
                "components": [os.path.relpath(KUBERNETES / "components" / name, folder)],
            }
        )
    )
    return Rendered(kustomize(folder))
