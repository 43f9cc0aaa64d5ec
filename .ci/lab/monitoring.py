"""Prometheus by its operator, with the PodMonitor, the rules and the dashboards of deploy/."""

import json
import os
import re
import sys
import time
import urllib.parse

import yaml
from around import FOLDER, administrator, applied, deployment, image, labelled, namespace, of_program
from bring_in import load_balancer, outside
from installation import SMALLER, all_ready, apply, overlay, ready_pods
from kube import ROOT, carillon, inside, kubectl, objects, until
from load import Load
from report import report

sys.path.insert(0, str(ROOT / ".ci/watch"))
import rules  # noqa: E402

NAMESPACE = "monitoring"


def operator():
    inside("kubectl", "apply", "--server-side", "--force-conflicts", "-f", FOLDER / "definitions/prometheus")
    namespace(NAMESPACE)
    administrator("prometheus", NAMESPACE)
    reloader = of_program("prometheus-config-reloader")
    container = {
        "image": of_program("operator"),
        "args": [f"--prometheus-config-reloader={reloader}"],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    deployment("operator", NAMESPACE, container, serviceAccountName="prometheus")


def binary():
    """That of the lab; else Debian's, which knows nothing of Kubernetes."""
    own = FOLDER / "bin/prometheus"
    return own if own.exists() else "/usr/bin/prometheus"


def program():
    return image("localhost/prometheus:1", "COPY prometheus /bin/prometheus", 'ENTRYPOINT ["/bin/prometheus"]', files=[binary()])


def server():
    made = program()
    everything = {"podMonitorSelector": {}, "podMonitorNamespaceSelector": {}, "ruleSelector": {}, "ruleNamespaceSelector": {}}
    version = inside(binary(), "--version").stdout.split()[2].split("+")[0]
    spec = {"image": made, "imagePullPolicy": "IfNotPresent", "version": f"v{version}", "serviceAccountName": "prometheus", "replicas": 1, **everything}
    applied(labelled("Prometheus", "lab", NAMESPACE, "monitoring.coreos.com/v1", spec=spec))
    until("Prometheus to be made", lambda: objects("pod", "app.kubernetes.io/name=prometheus", NAMESPACE), 60)
    kubectl("rollout", "status", "statefulset/prometheus-lab", "--timeout=180s", namespace=NAMESPACE)


def targets():
    """The pods of the PodMonitor's selector, with the labels that it gives them. Debian's Prometheus finds no pods by itself."""
    monitor = yaml.safe_load((ROOT / "deploy/kubernetes/components/pod-monitor/pod-monitor.yaml").read_text())["spec"]
    wanted = ",".join(f"{one['key']} in ({','.join(one['values'])})" for one in monitor["selector"]["matchExpressions"])
    [endpoint] = monitor["podMetricsEndpoints"]
    for pod in objects("pod", wanted):
        known = {label_of(key): value for key, value in pod["metadata"]["labels"].items()}
        known |= {"__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"], "__meta_kubernetes_pod_name": pod["metadata"]["name"]}
        labels = {one["targetLabel"]: known.get(one["sourceLabels"][0], "") for one in endpoint["relabelings"]}
        ports = {port["name"]: port["containerPort"] for container in pod["spec"]["containers"] for port in container["ports"]}
        yield {"targets": [f"{pod['status']['podIP']}:{ports[endpoint['port']]}"], "labels": {"namespace": "carillon", **labels}}


def label_of(key):
    return "__meta_kubernetes_pod_label_" + re.sub("[^a-zA-Z0-9]", "_", key)


def without_operator():
    """A Prometheus that scrapes the pods of the PodMonitor as they are now."""
    job = {"job_name": "carillon/carillon", "static_configs": list(targets())}
    timing = {"scrape_interval": "15s", "evaluation_interval": "15s"}
    config = {"global": timing, "rule_files": ["/config/rules.yaml", "/config/alerts.yaml"], "scrape_configs": [job]}
    files = {name: (ROOT / "deploy/prometheus" / name).read_text() for name in ("rules.yaml", "alerts.yaml")}
    namespace(NAMESPACE)
    administrator("prometheus", NAMESPACE)
    applied(labelled("ConfigMap", "prometheus", NAMESPACE, data={"prometheus.yaml": yaml.safe_dump(config), **files}))
    container = {
        "image": program(),
        "args": ["--config.file=/config/prometheus.yaml", "--storage.tsdb.path=/data"],
        "ports": [{"name": "web", "containerPort": 9090}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
    }
    volumes = [{"name": "config", "configMap": {"name": "prometheus"}}, {"name": "data", "emptyDir": {}}]
    labels = {"app.kubernetes.io/name": "prometheus"}
    deployment("prometheus-operated", NAMESPACE, container, labels, serviceAccountName="prometheus", volumes=volumes)


def ask(path, **parameters):
    [pod] = objects("pod", "app.kubernetes.io/name=prometheus", NAMESPACE)
    url = f"http://{pod['status']['podIP']}:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    done = inside("curl", "-s", url, check=False)
    return json.loads(done.stdout or "{}").get("data") or {}


def found(query):
    return ask("query", query=query).get("result", [])


def value(query):
    return sum(float(one["value"][1]) for one in found(query))


def prometheus(folder):
    """Some five minutes: all pods are scraped, a message from outside is seen in the dashboards, each of their queries finds something."""
    parts = ["load-balancer", "../../../grafana"]
    by_operator = all((FOLDER / "bin" / name).exists() for name in ("operator", "prometheus"))
    if by_operator:
        operator()
        server()
        parts += ["pod-monitor", "../../../prometheus"]
    apply(overlay(folder / "watched", "production", parts, SMALLER))
    all_ready(600)
    if not by_operator:
        report.say("     there is no Prometheus Operator in the lab: the pods are named to Prometheus, with the PodMonitor's labels")
        without_operator()
    address = load_balancer("carillon-clients")
    pods = {pod["metadata"]["name"] for name in ("storage", "router", "gateway", "canary") for pod in ready_pods(name)}
    up = lambda: {one["metric"]["instance"] for one in found("up{namespace='carillon'} == 1")}  # noqa: E731
    _, took = until("all pods to be scraped", lambda: up() == pods, 180)
    tiers = {one["metric"]["tier"]: int(one["value"][1]) for one in found("count by (tier) (up{namespace='carillon'})")}
    zones = sorted({one["metric"].get("zone", "") for one in found("up{namespace='carillon'}")})
    report.check("Prometheus scrapes all pods", len(tiers) == 4, f"{tiers}, zones {zones}, after {took:.0f} s")
    known = lambda: [rule for group in ask("rules").get("groups", []) for rule in group["rules"]]  # noqa: E731
    _, _ = until("the rules", lambda: len(known()) == len(rules.rules()), 120)
    bad = [rule["name"] for rule in known() if rule["health"] == "err"]
    report.check("Prometheus takes the rules", not bad, f"{len(known())} rules; {bad}")
    [dashboards] = [one for one in objects("configmap", "grafana_dashboard=1")]
    report.check("the dashboards are in a ConfigMap", set(dashboards["data"]) == set(rules.dashboards()), str(sorted(dashboards["data"])))
    message_from_outside(address)
    each_query()


def message_from_outside(address):
    """Sends and sign-ins of the gateways before and after one message; the canary sends, and stays signed in."""
    queries = [target["expr"] for name, panel in rules.panels() if name == "gateway.json" for target in panel["targets"]]
    panels = {metric: next(query for query in queries if metric in query) for metric in ("carillon_gateway_sends_total", "carillon_gateway_sign_ins_total")}
    token = carillon("token", "outsider", pod="deploy/carillon-gateway").stdout.strip()
    signed_in = "sum(carillon_gateway_sign_ins_total{namespace='carillon'})"
    before = value(signed_in)
    program = [os.environ["CARILLON_BIN"], "send", "outsider", "outsider", "from outside", f"--url=tcp://{address}:7410", "--token", token]
    said, _ = until("a message from outside to be accepted", lambda: sent(program), 60)
    began = time.monotonic()
    shown = lambda: {metric: value(rules.runnable(query)) for metric, query in panels.items()}  # noqa: E731
    until("the dashboard to show it", lambda: value(signed_in) > before and min(shown().values()) > 0, 90)
    figures = ", ".join(f"{metric} {rate:.3f} a second" for metric, rate in shown().items())
    report.check("a message from outside the cluster is in a dashboard", True, f"{said}; {figures}, after {time.monotonic() - began:.0f} s")


def sent(program):
    done = outside(*program, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def each_query():
    load = Load("watched")
    wanted = {}
    for name, panel in rules.panels():
        for target in panel["targets"]:
            if "mayBeEmpty" not in target:
                wanted[f"{name}: {panel['title']}"] = rules.runnable(target["expr"])
    count = len(wanted)

    def all_found():
        for where in [where for where, query in wanted.items() if found(query)]:
            del wanted[where]
        return not wanted

    try:
        until("each query of the dashboards to find something", all_found, 150)
    finally:
        report.check("each query of the dashboards finds something", not wanted, f"{count} queries; {sorted(wanted)}")
    load.end()
    of_levels = {alert["alert"] for alert in rules.rules_of("rules.yaml") if "alert" in alert}
    firing = {one["metric"]["alertname"] for one in found('ALERTS{alertstate="firing"}')} - of_levels
    report.check("no alert on a cause fires", not firing, str(firing))
