"""The certificates of the nodes from cert-manager, with components/cert-manager."""

import base64
import json
import subprocess
import time

import yaml
from around import FOLDER, administrator, applied, deployment, labelled, of_program
from around import namespace as make_namespace
from installation import SMALLER, all_ready, apply, block_of_the_page, overlay, ready_pods
from kube import ROOT, inside, kubectl, until
from load import Load
from operating import ends
from report import report

NAMESPACE = "cert-manager"
WEBHOOK = "cert-manager-webhook"
COMPONENT = ROOT / "deploy/kubernetes/components/cert-manager"


def program(name, *arguments, port=9402):
    account = f"cert-manager-{name}"
    administrator(account, NAMESPACE)
    container = {"image": of_program(account), "args": list(arguments), "ports": [{"name": "port", "containerPort": port}]}
    deployment(account, NAMESPACE, container, serviceAccountName=account)


def webhook(kind, name, path, operations, groups, resources):
    rule = {"apiGroups": groups, "apiVersions": ["v1"], "operations": operations, "resources": resources}
    hook = {
        "name": "webhook.cert-manager.io",
        "rules": [rule],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"service": {"name": WEBHOOK, "namespace": NAMESPACE, "path": path, "port": 10250}},
    }
    metadata = {"name": name, "annotations": {"cert-manager.io/inject-ca-from-secret": f"{NAMESPACE}/{WEBHOOK}-ca"}}
    return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata, "webhooks": [hook]}


def cert_manager_runs():
    inside("kubectl", "apply", "--server-side", "--force-conflicts", "-f", FOLDER / "definitions/cert-manager")
    make_namespace(NAMESPACE)
    program("controller", f"--cluster-resource-namespace={NAMESPACE}", "--leader-elect=false")
    names = [f"--dynamic-serving-dns-names={WEBHOOK}{rest}" for rest in ("", f".{NAMESPACE}", f".{NAMESPACE}.svc")]
    authority = [f"--dynamic-serving-ca-secret-namespace={NAMESPACE}", f"--dynamic-serving-ca-secret-name={WEBHOOK}-ca"]
    program("webhook", "--secure-port=10250", *authority, *names, port=10250)
    program("cainjector", "--leader-elect=false")
    applied(
        webhook("ValidatingWebhookConfiguration", "cert-manager", "/validate", ["CREATE", "UPDATE"], ["cert-manager.io"], ["*/*"]),
        webhook("MutatingWebhookConfiguration", "cert-manager", "/mutate", ["CREATE"], ["cert-manager.io"], ["certificaterequests"]),
    )
    until("cert-manager to take objects", lambda: inside("kubectl", "apply", "--dry-run=server", "-n", "default", "-k", COMPONENT, check=False).returncode == 0, 120)


def certificate(name, namespace="carillon"):
    return json.loads(kubectl("get", "certificate", name, "-o", "json", namespace=namespace))


def issued(name, namespace="carillon", after=0):
    status = certificate(name, namespace).get("status", {})
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))
    return status if ready and status.get("revision", 0) > after else None


def renew(name):
    """What `cmctl renew` does."""
    found = certificate(name)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found["status"]["conditions"] = [one for one in found["status"]["conditions"] if one["type"] != "Issuing"]
    found["status"]["conditions"].append({"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by hand", "lastTransitionTime": at})
    inside("kubectl", "replace", "--subresource=status", "-f", "-", given=json.dumps(found))


def secret(name, namespace="carillon"):
    data = json.loads(kubectl("get", "secret", name, "-o", "json", namespace=namespace))["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def as_it_is(folder):
    """The component alone, in a namespace of its own: an authority, and a certificate that the nodes take."""
    where = "authority"
    make_namespace(where)
    inside("kubectl", "apply", "--server-side", "-n", where, "-k", COMPONENT)
    until("the certificate of a new installation", lambda: issued("carillon-node-tls", where), 90)
    found = secret("carillon-node-tls", where)
    for key in ("ca.crt", "tls.crt"):
        (folder / key).write_text(found[key])
    command = ["openssl", "verify", "-CAfile", folder / "ca.crt", "-purpose", "sslserver", "-verify_hostname", "carillon.internal", folder / "tls.crt"]
    said = subprocess.run(command, capture_output=True, text=True)
    report.check("a new installation gets a certificate of an authority of its own", said.returncode == 0, (said.stdout + said.stderr).strip()[-200:])
    inside("kubectl", "delete", "namespace", where, "--wait=true")


def replaced(what, begin, connections_live):
    """What begins a new certificate, under load: all nodes have it, and no client has noticed."""
    load = Load("issued")
    before = ends()
    began = time.monotonic()
    begin()
    until("all nodes to have the new certificate", lambda: len(ends()) == 1 and ends() != before, 240)
    took = time.monotonic() - began
    if connections_live:
        # New connections with it.
        kubectl("delete", "pod", ready_pods("router")[0]["metadata"]["name"])
        all_ready()
    found = load.end()
    report.check(f"{what}: all nodes have the new certificate", True, f"after {took:.0f} s")
    report.load(what, found)
    report.check(f"{what}: no client lost its connection", found.came_back == 0, str(found.came_back))


def cert_manager(folder):
    """Six minutes: an installation with certificates of `deploy/secrets` goes over to cert-manager, and one is renewed."""
    cert_manager_runs()
    as_it_is(folder)
    # As docs/kubernetes.md says it for an installation that runs.
    files = folder / "secrets"
    applied(labelled("Secret", "carillon-node-ca", "carillon", type="kubernetes.io/tls", stringData={"tls.crt": (files / "node-ca.crt").read_text(), "tls.key": (files / "node-ca.key").read_text()}))
    without = yaml.safe_load(block_of_the_page("components"))["patches"]
    made = overlay(folder / "issued", "production", ["cert-manager"], [*SMALLER, *without])

    def taken_over():
        apply(made)
        until("the first certificate of cert-manager", lambda: issued("carillon-node-tls"), 90)

    replaced("cert-manager takes over", taken_over, False)
    same = secret("carillon-node-tls")["ca.crt"].strip() == (files / "node-ca.crt").read_text().strip()
    report.check("the authority has stayed", same)
    revision = certificate("carillon-node-tls")["status"]["revision"]
    replaced("cert-manager renews", lambda: renew("carillon-node-tls"), True)
    report.check("it is the next revision", issued("carillon-node-tls", after=revision) is not None, str(certificate("carillon-node-tls")["status"]["revision"]))
