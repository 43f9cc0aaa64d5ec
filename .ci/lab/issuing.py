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


def ready(name, namespace="carillon"):
    status = certificate(name, namespace).get("status", {})
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))


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
    until("the certificate of a new installation", lambda: ready("carillon-node-tls", where), 90)
    found = secret("carillon-node-tls", where)
    for key in ("ca.crt", "tls.crt"):
        (folder / key).write_text(found[key])
    command = ["openssl", "verify", "-CAfile", folder / "ca.crt", "-purpose", "sslserver", "-verify_hostname", "carillon.internal", folder / "tls.crt"]
    said = subprocess.run(command, capture_output=True, text=True)
    report.check("a new installation gets a certificate of an authority of its own", said.returncode == 0, (said.stdout + said.stderr).strip()[-200:])
    inside("kubectl", "delete", "namespace", where, "--wait=true")


def renewed():
    """Under load: all nodes have the new certificate, and no client has noticed."""
    load = Load("renewed")
    before = ends()
    renew("carillon-node-tls")
    _, took = until("all nodes to have the new certificate", lambda: len(ends()) == 1 and ends() != before, 240)
    report.check("cert-manager renews a certificate, and it is read without a restart", ready("carillon-node-tls"), f"by all nodes after {took:.0f} s")
    # New connections with it.
    kubectl("delete", "pod", ready_pods("router")[0]["metadata"]["name"])
    all_ready()
    found = load.end()
    report.load("a certificate is renewed", found)
    report.check("no client lost its connection", found.came_back == 0, str(found.came_back))


def cert_manager(folder):
    """Three minutes: an installation with certificates of `deploy/secrets` goes over to cert-manager, which renews one."""
    cert_manager_runs()
    as_it_is(folder)
    # As docs/kubernetes.md says it for an installation that runs.
    key, authority = (folder / "secrets/node-ca.key").read_text(), (folder / "secrets/node-ca.crt").read_text()
    applied(labelled("Secret", "carillon-node-ca", "carillon", type="kubernetes.io/tls", stringData={"tls.crt": authority, "tls.key": key}))
    without = yaml.safe_load(block_of_the_page("components"))["patches"]
    before = secret("carillon-node-tls")
    apply(overlay(folder / "issued", "production", ["cert-manager"], [*SMALLER, *without]))
    all_ready()
    until("cert-manager to have the certificate", lambda: ready("carillon-node-tls"), 90)
    report.check("cert-manager takes the certificate over as it is", secret("carillon-node-tls") == before)
    renewed()
    report.check("the authority has stayed", secret("carillon-node-tls")["ca.crt"].strip() == authority.strip())
