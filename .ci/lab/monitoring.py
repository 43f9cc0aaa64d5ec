"""Prometheus by its operator, with the PodMonitor, the rules and the dashboards of deploy/."""

import os
import time

from around import FOLDER, administrator, applied, deployment, image, labelled, of_program
from around import namespace as make_namespace
from bring_in import load_balancer, outside
from installation import SMALLER, all_ready, apply, overlay
from kube import carillon, inside, kubectl, objects, until
from load import Load
from queries import Prometheus, rules
from report import report

NAMESPACE = "monitoring"
ACCOUNT = "prometheus"
OPERATED = Prometheus(NAMESPACE)


def may_find_pods(namespace=NAMESPACE):
    """The rights that docs/kubernetes.md asks for, and no more."""
    rights = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    api = "rbac.authorization.k8s.io/v1"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": namespace}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    applied(
        labelled("ServiceAccount", ACCOUNT, namespace),
        labelled("Role", namespace, "carillon", api, rules=rights),
        labelled("RoleBinding", namespace, "carillon", api, roleRef=role, subjects=[subject]),
    )


def operator():
    inside("kubectl", "apply", "--server-side", "--force-conflicts", "-f", FOLDER / "definitions/prometheus")
    administrator("operator", NAMESPACE)
    reloader = of_program("prometheus-config-reloader")
    container = {
        "image": of_program("operator"),
        "args": [f"--prometheus-config-reloader={reloader}"],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    deployment("operator", NAMESPACE, container, serviceAccountName="operator")


def program():
    return image("localhost/prometheus:1", "COPY prometheus /bin/prometheus", 'ENTRYPOINT ["/bin/prometheus"]', files=[FOLDER / "bin/prometheus"])


def server():
    everything = {"podMonitorSelector": {}, "podMonitorNamespaceSelector": {}, "ruleSelector": {}, "ruleNamespaceSelector": {}}
    version = inside(FOLDER / "bin/prometheus", "--version").stdout.split()[2]
    spec = {"image": program(), "imagePullPolicy": "IfNotPresent", "version": f"v{version}", "serviceAccountName": ACCOUNT, "replicas": 1, **everything}
    applied(labelled("Prometheus", "lab", NAMESPACE, "monitoring.coreos.com/v1", spec=spec))
    until("Prometheus to be made", lambda: objects("pod", "app.kubernetes.io/name=prometheus", NAMESPACE), 60)
    kubectl("rollout", "status", "statefulset/prometheus-lab", "--timeout=180s", namespace=NAMESPACE)


def prometheus(folder):
    """Some five minutes: the operator's Prometheus scrapes all pods, a message from outside is in a dashboard, each of their queries finds something."""
    make_namespace(NAMESPACE)
    operator()
    may_find_pods()
    server()
    apply(overlay(folder / "watched", "production", ["load-balancer", "pod-monitor", "../../../prometheus", "../../../grafana"], SMALLER))
    all_ready(600)
    address = load_balancer("carillon-clients")
    OPERATED.scrapes_all("the operator's Prometheus")
    OPERATED.has_rules("the operator's Prometheus")
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
    before = OPERATED.value(signed_in)
    program = [os.environ["CARILLON_BIN"], "send", "outsider", "outsider", "from outside", f"--url=tcp://{address}:7410", "--token", token]
    said, _ = until("a message from outside to be accepted", lambda: sent(program), 60)
    began = time.monotonic()
    shown = lambda: {metric: OPERATED.value(rules.runnable(query)) for metric, query in panels.items()}  # noqa: E731
    until("the dashboard to show it", lambda: OPERATED.value(signed_in) > before and min(shown().values()) > 0, 90)
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
        for where in [where for where, query in wanted.items() if OPERATED.found(query)]:
            del wanted[where]
        return not wanted

    try:
        until("each query of the dashboards to find something", all_found, 150)
    finally:
        report.check("each query of the dashboards finds something", not wanted, f"{count} queries; {sorted(wanted)}")
    load.end()
    of_levels = {alert["alert"] for alert in rules.rules_of("rules.yaml") if "alert" in alert}
    firing = {one["metric"]["alertname"] for one in OPERATED.found('ALERTS{alertstate="firing"}')} - of_levels
    report.check("no alert on a cause fires", not firing, str(firing))
