"""What stands around an installation, as pods: a storage for backups, Prometheus, proxies."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import yaml
from kube import LAB, inside, kubectl, until

FOLDER = pathlib.Path(os.environ["CARILLON_LAB"])
SUITE = next(line.split("=")[1].strip() for line in open("/etc/os-release") if line.startswith("VERSION_CODENAME"))


def image(name, *lines, files=()):
    """An image of the lab's programs on the runtime of the program's own image."""
    with tempfile.TemporaryDirectory() as context:
        for file in files:
            shutil.copy(file, context)
        base = f"FROM localhost/carillon-runtime:{SUITE}" if not lines[0].startswith("FROM") else ""
        pathlib.Path(context, "Dockerfile").write_text("\n".join([base, *lines]) + "\n")
        subprocess.run([LAB / "image.sh", "build", context, name, "-f", f"{context}/Dockerfile"], check=True, capture_output=True)
    return name


def of_program(program, *arguments):
    """An image with one program of $CARILLON_LAB/bin, built once."""
    words = json.dumps([f"/bin/{program}", *arguments])
    return image(f"localhost/{program}:1", f"COPY {program} /bin/{program}", f"ENTRYPOINT {words}", files=[FOLDER / "bin" / program])


def applied(*objects):
    inside("kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-", given=yaml.safe_dump_all(objects))


def namespace(name, **labels):
    applied({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def labelled(kind, name, namespace, api="v1", **fields):
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}}, **fields}


def deployment(name, namespace, container, labels=None, **pod):
    """One pod of one image, and a Service of its ports."""
    container = {"name": name, "imagePullPolicy": "IfNotPresent", **container}
    all_labels = {"app": name, **(labels or {})}
    template = {"metadata": {"labels": all_labels}, "spec": {"containers": [container], "enableServiceLinks": False, **pod}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    ports = [{"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]} for port in container["ports"]]
    applied(
        labelled("Deployment", name, namespace, "apps/v1", spec=spec),
        labelled("Service", name, namespace, spec={"selector": {"app": name}, "ports": ports}),
    )
    kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s", namespace=namespace)


def administrator(name, namespace):
    """An account that may do everything: what a controller's own manifests would list."""
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": f"lab-{name}"}, "subjects": [subject], "roleRef": role}
    applied(labelled("ServiceAccount", name, namespace), binding)


def ended(job, namespace="carillon", deadline=300):
    """Waits until a Job has ended; true if it has succeeded."""

    def status():
        found = json.loads(kubectl("get", "job", job, "-o", "json", namespace=namespace))["status"]
        return found if found.get("succeeded") or any(one["type"] == "Failed" for one in found.get("conditions", [])) else None

    found, _ = until(f"job {job} to end", status, deadline)
    return bool(found.get("succeeded"))
