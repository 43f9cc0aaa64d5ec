"""An installation of deploy/kubernetes in the lab."""

import json
import re
import shutil

import yaml
from kube import ROOT, is_ready, kubectl, objects, rolled_out, settled, tier, until

OVERLAYS = ROOT / "deploy/kubernetes/overlays"
WORKLOADS = ("statefulset/carillon-storage", "deployment/carillon-router", "deployment/carillon-gateway")
# Three nodes of the lab share the processors and the memory of one machine.
SMALLER = [
    {
        "target": {"kind": kind, "name": f"carillon-{name}"},
        "patch": json.dumps(
            [
                {
                    "op": "replace",
                    "path": "/spec/template/spec/containers/0/resources",
                    "value": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "768Mi"}},
                }
            ]
        ),
    }
    for kind, name in (("StatefulSet", "storage"), ("Deployment", "router"), ("Deployment", "gateway"))
]


def ready_pods(name):
    return [pod for pod in objects("pod", tier(name)) if is_ready(pod)]


def all_ready(deadline=300):
    rolled_out(*WORKLOADS, deadline=deadline)
    _, took = until("the storage nodes to be settled", settled, deadline)
    return took


def apply(folder, check=True):
    return kubectl("apply", "--server-side", "-k", folder, check=check)


def overlay(folder, name, components=(), patches=()):
    """A copy of an overlay, as an operator makes it, beside the rest of the manifests."""
    for part in ("kubernetes", "prometheus", "grafana"):
        shutil.copytree(ROOT / "deploy" / part, folder / part, dirs_exist_ok=True)
    file = folder / "kubernetes/overlays" / name / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    paths = (one if one.startswith(".") else f"../../components/{one}" for one in components)
    content.setdefault("components", []).extend(paths)
    content.setdefault("patches", []).extend(patches)
    file.write_text(yaml.safe_dump(content))
    return file.parent


def block_of_the_page(key):
    """The piece of YAML in docs/kubernetes.md that begins with this key."""
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```", (ROOT / "docs/kubernetes.md").read_text())
    [block] = [block for block in blocks if block.startswith(f"{key}:")]
    return block


def templates():
    """The generation of each workload, which changes with what its pods are made of."""
    return {one["metadata"]["name"]: one["metadata"]["generation"] for kind in ("statefulset", "deployment") for one in objects(kind)}


def production_overlay(folder):
    made = folder / "production"
    return made / "kubernetes/overlays/production" if made.exists() else overlay(made, "production", patches=SMALLER)
