"""The autoscaler adds gateways when clients come: by CPU from metrics-server, by connections from prometheus-adapter."""

import json
import time

import monitoring
from around import administrator, applied, deployment, labelled, of_program
from installation import SMALLER, all_ready, apply, block_of_the_page, overlay
from kube import kubectl, lab, objects, tier, until
from load import Load
from report import report


def scaler():
    [found] = objects("hpa")
    return found


def metric(name):
    """What the autoscaler has seen of a metric last."""
    for one in scaler()["status"].get("currentMetrics") or []:
        if one["type"] == "Resource" and one["resource"]["name"] == name:
            return one["resource"]["current"].get("averageUtilization")
        if one["type"] == "Pods" and one["pods"]["metric"]["name"] == name:
            return one["pods"]["current"].get("averageValue")
    return None


def adapter():
    administrator("prometheus-adapter", monitoring.NAMESPACE)
    applied(labelled("ConfigMap", "adapter", monitoring.NAMESPACE, data={"config.yaml": block_of_the_page("rules")}))
    container = {
        "image": of_program("prometheus-adapter"),
        "args": ["--prometheus-url=http://prometheus-operated.monitoring:9090", "--config=/config/config.yaml", "--secure-port=6443", "--cert-dir=/tmp", "--metrics-relist-interval=30s"],
        "ports": [{"name": "https", "containerPort": 6443}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "config", "configMap": {"name": "adapter"}}, {"name": "tmp", "emptyDir": {}}]
    deployment("prometheus-adapter", monitoring.NAMESPACE, container, serviceAccountName="prometheus-adapter", volumes=volumes)
    service = {"name": "prometheus-adapter", "namespace": monitoring.NAMESPACE, "port": 6443}
    spec = {"service": service, "group": "custom.metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": True, "groupPriorityMinimum": 100, "versionPriority": 100}
    applied({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.custom.metrics.k8s.io"}, "spec": spec})


def scaled(folder, name, **behavior):
    """Production with a thousandth of the connections for each gateway, and CPU out of the way."""
    changes = [
        {"op": "replace", "path": "/spec/metrics/1/pods/target/averageValue", "value": "20"},
        {"op": "replace", "path": "/spec/metrics/0/resource/target/averageUtilization", "value": 10000},
        *({"op": "replace", "path": f"/spec/behavior/scaleDown/{key}", "value": value} for key, value in behavior.items()),
    ]
    patch = {"target": {"kind": "HorizontalPodAutoscaler", "name": "carillon-gateway"}, "patch": json.dumps(changes)}
    return overlay(folder / name, "production", ["load-balancer", "pod-monitor", "../../../prometheus", "../../../grafana"], [*SMALLER, patch])


def autoscaling(folder):
    """Some eight minutes, after the step prometheus: gateways are added for connections, and go one by one when the connections are gone."""
    lab("metrics")
    _, took = until("the autoscaler to know the CPU", lambda: metric("cpu") is not None, 180)
    report.check("the autoscaler knows the CPU from metrics-server", True, f"{metric('cpu')} % after {took:.0f} s")
    adapter()
    _, took = until("the autoscaler to know the connections", lambda: metric("carillon_gateway_connections") is not None, 240)
    report.check("the autoscaler knows the connections from prometheus-adapter", True, f"{metric('carillon_gateway_connections')} after {took:.0f} s")
    apply(scaled(folder, "scaled"))
    all_ready(600)
    up()
    down(folder)


def up():
    before = scaler()["status"]["currentReplicas"]
    load = Load("herd")
    began = time.monotonic()
    _, took = until("gateways to be added", lambda: scaler()["status"]["desiredReplicas"] > before, 240)
    seen = metric("carillon_gateway_connections")
    kubectl("rollout", "status", "deployment/carillon-gateway", "--timeout=180s")
    now = scaler()["status"]["desiredReplicas"]
    report.check("the autoscaler adds gateways when clients come", True, f"{before} to {now} after {took:.0f} s, ready after {time.monotonic() - began:.0f} s, {seen} connections each")
    report.load("gateways are added", load.end())


def down(folder):
    """None goes before the window is over; with windows of half a minute in place of half an hour they go one by one, and nobody is refused."""
    many = scaler()["status"]["desiredReplicas"]
    until("the autoscaler to see that the clients are gone", lambda: quantity(metric("carillon_gateway_connections")) < 5, 120)
    time.sleep(60)
    report.check("no gateway goes within the window", scaler()["status"]["desiredReplicas"] == many, str(many))
    apply(scaled(folder, "scaled-down", stabilizationWindowSeconds=30, policies=[{"type": "Pods", "value": 1, "periodSeconds": 30}]))
    load = Load("few", users=10)
    numbers = [many]

    def least():
        now = scaler()["status"]["desiredReplicas"]
        if now != numbers[-1]:
            numbers.append(now)
        return now == 3

    _, took = until("the autoscaler to be at its least number", least, 400)
    until("the gateways to be gone", lambda: len(objects("pod", tier("gateway"))) == 3, 120)
    one_by_one = all(before - after == 1 for before, after in zip(numbers, numbers[1:]))
    report.check("gateways go one at a time", one_by_one and len(numbers) > 1, f"{numbers} in {took:.0f} s")
    report.load("gateways are removed", load.end())


def quantity(text):
    """Of Kubernetes: 28, or 27667m."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
