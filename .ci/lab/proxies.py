"""In front of the gateways: Traefik, by an Ingress and by the Gateway API, and HAProxy as a load balancer with the PROXY protocol."""

import json
import os
import subprocess
import time

from around import FOLDER, SUITE, administrator, applied, deployment, image, labelled, namespace, of_program
from bring_in import load_balancer, outside
from installation import SMALLER, all_ready, apply, overlay, production_overlay, ready_pods
from kube import LAB, carillon, inside, kubectl, tier, until
from report import report

HOST = "chat.example.org"
ADDRESS = "10.201.0.20"
# Of the machine outside.
CLIENT = "10.200.0.200"
PROGRAM = os.environ.get("CARILLON_BIN", "target/release/carillon")
# Two heartbeats of a client that is silent, and more than a minute.
SILENT_S = 100


def certificate(folder):
    key, file = folder / "chat.key", folder / "chat.crt"
    names = f"subjectAltName=DNS:{HOST},DNS:grpc.{HOST}"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
         "-subj", f"/CN={HOST}", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", names, "-keyout", key, "-out", file],
        check=True, capture_output=True,
    )  # fmt: skip
    return file, key


def secret(name, namespace, file, key):
    applied(labelled("Secret", name, namespace, type="kubernetes.io/tls", stringData={"tls.crt": file.read_text(), "tls.key": key.read_text()}))


# Without a second hop, so that the proxy sees who comes.
LOCAL = {"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}}


def traefik(where, *arguments, ports=(("websecure", 443),), volumes=(), mounts=()):
    namespace(where)
    administrator("traefik", where)
    entry_points = [f"--entrypoints.{name}.address=:{port}" for name, port in ports]
    container = {
        "image": of_program("traefik"),
        "args": [*entry_points, "--log.level=INFO", *arguments],
        "ports": [{"name": name, "containerPort": port} for name, port in ports],
        "volumeMounts": list(mounts),
    }
    deployment("traefik", where, container, serviceAccountName="traefik", nodeName="node1", volumes=list(volumes))
    kubectl("patch", "service", "traefik", "-p", json.dumps(LOCAL), namespace=where)
    load_balancer("traefik", ADDRESS, where)


class Listener:
    """`carillon listen` outside."""

    def __init__(self, folder, user, url, ca):
        token = carillon("token", user, pod="deploy/carillon-gateway").stdout.strip()
        self.log = folder / f"listen-{user}.log"
        arguments = [LAB / "k.sh", "-n", "outside", PROGRAM, "listen", user, f"--url={url}", f"--token={token}", *([f"--ca={ca}"] if ca else [])]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log)
        self.user = user

    def said(self):
        return self.log.read_text()

    def end(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def sends(user, text, url, ca):
    token = carillon("token", user, pod="deploy/carillon-gateway").stdout.strip()
    return outside(PROGRAM, "send", user, user, text, f"--url={url}", f"--token={token}", "--timeout=20", *([f"--ca={ca}"] if ca else []), check=False)


def sessions(user):
    return [json.loads(line) for line in carillon("session", "list", "--user", user, "--json").stdout.splitlines() if line.startswith("{")]


def seen_address(url, ca):
    """The address that the gateways log for a sign-in with a wrong token from outside."""
    outside(PROGRAM, "send", "nobody", "nobody", "x", f"--url={url}", "--token=wrong", "--timeout=5", *([f"--ca={ca}"] if ca else []), check=False)
    logs = kubectl("logs", "-l", tier("gateway"), "--since=20s", "--prefix=false")
    lines = [json.loads(line) for line in logs.splitlines() if "sign-in failed" in line]
    return sorted({line.get("address", "").rsplit(":", 1)[0] for line in lines})


def silent(folder, name, url, ca):
    """A client that is silent for longer than a minute is still there, with the session that it came with."""
    until(f"a message through {name}", lambda: sends("ann", "first", url, ca).returncode == 0, 60)
    listener = Listener(folder, f"idle-{name}", url, ca)
    until(f"a client through {name} to be signed in", lambda: sessions(listener.user), 30)
    before = sessions(listener.user)
    time.sleep(SILENT_S)
    after = sessions(listener.user)
    carillon("send", listener.user, listener.user, "still there?", pod="deploy/carillon-gateway")
    until("the silent client to hear", lambda: "still there?" in listener.said(), 20)
    report.check(f"through {name}: a client that was silent for {SILENT_S} s hears a message", before == after, f"{before}; {listener.said().strip()[:200]}")
    listener.end()


def address_is_known(name, url, ca):
    found = seen_address(url, ca)
    report.check(f"through {name}: the gateways know the client's address", found == [CLIENT], str(found))


def ingress(folder):
    """Some four minutes: WebSocket from outside through an Ingress."""
    file, key = certificate(folder)
    traefik("ingress-traefik", "--providers.kubernetesingress=true", "--entrypoints.websecure.http.tls=true")
    secret("carillon-client-tls", "carillon", file, key)
    of_traefik = [
        {"target": {"kind": "Ingress", "name": "carillon"}, "patch": json.dumps([{"op": "replace", "path": "/spec/ingressClassName", "value": "traefik"}])},
        {
            "target": {"kind": "NetworkPolicy", "name": "carillon-from-ingress"},
            "patch": json.dumps(
                [{"op": "replace", "path": "/spec/ingress/0/from/0/namespaceSelector/matchLabels", "value": {"kubernetes.io/metadata.name": "ingress-traefik"}}]
            ),
        },
    ]
    applied({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "traefik"}, "spec": {"controller": "traefik.io/ingress-controller"}})
    apply(overlay(folder / "behind-an-ingress", "production", ["ingress"], [*SMALLER, *of_traefik]))
    all_ready(600)
    silent(folder, "ingress", f"wss://{HOST}/ws", file)
    address_is_known("ingress", f"wss://{HOST}/ws", file)
    inside("kubectl", "delete", "namespace", "ingress-traefik", "--wait=true")


def gateway_api(folder):
    """Some four minutes: WebSocket and gRPC from outside through a Gateway."""
    inside("kubectl", "apply", "--server-side", "--force-conflicts", "-f", FOLDER / "definitions/gateway-api")
    file, key = certificate(folder)
    namespace("gateway-system")
    secret("chat", "gateway-system", file, key)
    listeners = [
        {
            "name": name,
            "port": 443,
            "protocol": "HTTPS",
            "hostname": host,
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "chat"}]},
            "allowedRoutes": {"namespaces": {"from": "All"}},
        }
        for name, host in (("chat", HOST), ("grpc", f"grpc.{HOST}"))
    ]
    api = "gateway.networking.k8s.io/v1"
    applied(
        {"apiVersion": api, "kind": "GatewayClass", "metadata": {"name": "traefik"}, "spec": {"controllerName": "traefik.io/gateway-controller"}},
        labelled("Gateway", "public", "gateway-system", api, spec={"gatewayClassName": "traefik", "listeners": listeners}),
    )
    # The stream of gRPC is one request, which Traefik ends after a minute by default; a WebSocket is none.
    traefik("gateway-system", "--providers.kubernetesgateway=true", "--entrypoints.websecure.transport.respondingTimeouts.readTimeout=0")
    apply(overlay(folder / "behind-a-gateway", "production", ["gateway-api"], SMALLER))
    all_ready(600)
    silent(folder, "gateway", f"wss://{HOST}/ws", file)
    address_is_known("gateway", f"wss://{HOST}/ws", file)
    silent(folder, "gateway-grpc", f"grpcs://grpc.{HOST}", file)
    inside("kubectl", "delete", "namespace", "gateway-system", "--wait=true")


HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend chat
    bind :7410
    default_backend gateways
backend gateways
    server gateways carillon-gateway.carillon:7410 send-proxy-v2
"""


def haproxy(where):
    """Debian's HAProxy, as a load balancer outside of Carillon's namespace."""
    subprocess.run([LAB / "image.sh", "base", SUITE, "localhost/haproxy-files:1", "haproxy"], check=True, capture_output=True, env={**os.environ, "VARIANT": "extract"})
    made = image("localhost/haproxy:1", "FROM localhost/haproxy-files:1", 'ENTRYPOINT ["/usr/sbin/haproxy"]')
    namespace(where)
    applied(labelled("ConfigMap", "haproxy", where, data={"haproxy.cfg": HAPROXY}))
    container = {
        "image": made,
        "args": ["-db", "-f", "/config/haproxy.cfg"],
        "ports": [{"name": "tcp", "containerPort": 7410}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
    }
    deployment("haproxy", where, container, nodeName="node1", volumes=[{"name": "config", "configMap": {"name": "haproxy"}}])
    kubectl("patch", "service", "haproxy", "-p", json.dumps(LOCAL), namespace=where)
    load_balancer("haproxy", ADDRESS, where)


def proxy_protocol(folder):
    """Two minutes: TCP through a load balancer that speaks the PROXY protocol."""
    where = "balancers"
    haproxy(where)
    pods = {"matchLabels": {"app.kubernetes.io/component": "gateway"}}
    of_balancer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": where}}}
    allow = {"podSelector": pods, "ingress": [{"from": [of_balancer], "ports": [{"protocol": "TCP", "port": "tcp"}]}]}
    applied(labelled("NetworkPolicy", "from-balancers", "carillon", "networking.k8s.io/v1", spec=allow))
    apply(overlay(folder / "proxied", "production", ["proxy-protocol"], SMALLER))
    all_ready(600)
    url = f"tcp://{ADDRESS}:7410"
    until("a message through the load balancer", lambda: sends("ann", "proxied", url, None).returncode == 0, 60)
    found = seen_address(url, None)
    report.check("by the PROXY protocol the gateways know the client's address", found == [CLIENT], str(found))
    until("the canary to be refused, which does not speak it", lambda: not ready_pods("canary"), 90)
    report.check("whoever does not speak it is refused, the canary, too", True)
    kubectl("delete", "networkpolicy", "from-balancers")
    inside("kubectl", "delete", "namespace", where, "--wait=true")
    apply(production_overlay(folder))
    all_ready(600)
