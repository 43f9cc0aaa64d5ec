"""The autoscaler adds gateways when clients come: by CPU from metrics-server, by connections from prometheus-adapter."""

import json
import time

import monitoring
from around import FOLDER, administrator, applied, deployment, labelled, of_program
from installation import SMALLER, all_ready, apply, overlay
from kube import inside, kubectl, lab, objects, until
from load import Load
from report import report

# What docs/kubernetes.md says for prometheus-adapter.
RULE = {
    "seriesQuery": 'carillon_gateway_connections{namespace!="",pod!=""}',
    "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
    "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
}


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
    config = {"rules": [RULE]}
    applied(labelled("ConfigMap", "adapter", monitoring.NAMESPACE, data={"config.yaml": json.dumps(config)}))
    container = {
        "image": of_program("prometheus-adapter"),
        "args": ["--prometheus-url=http://prometheus-operated.monitoring:9090", "--config=/config/config.yaml", "--secure-port=6443", "--cert-dir=/tmp", "--metrics-relist-interval=30s"],
        "ports": [{"name": "https", "containerPort": 6443}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "config", "configMap": {"name": "adapter"}}, {"name": "tmp", "emptyDir": {}}]
    deployment("prometheus-adapter", monitoring.NAMESPACE, container, serviceAccountName="prometheus", volumes=volumes)
    service = {"name": "prometheus-adapter", "namespace": monitoring.NAMESPACE, "port": 6443}
    spec = {"service": service, "group": "custom.metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": True, "groupPriorityMinimum": 100, "versionPriority": 100}
    api = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.custom.metrics.k8s.io"}, "spec": spec}
    applied(api)


def autoscaling(folder):
    """Some three minutes, after the step prometheus: the autoscaler has figures, and adds gateways."""
    lab("metrics")
    _, took = until("the autoscaler to know the CPU", lambda: metric("cpu") is not None, 180)
    report.check("the autoscaler knows the CPU from metrics-server", True, f"{metric('cpu')} % after {took:.0f} s")
    if not (FOLDER / "bin/prometheus-adapter").exists():
        report.say("     connections: there is no prometheus-adapter in the lab, which is no Go module of the proxy")
        return
    adapter()
    _, took = until("the autoscaler to know the connections", lambda: metric("carillon_gateway_connections") is not None, 240)
    report.check("the autoscaler knows the connections from prometheus-adapter", True, f"{metric('carillon_gateway_connections')} after {took:.0f} s")
    # A tenth of what a lab's load has, in place of 25,000.
    value = [{"op": "replace", "path": "/spec/metrics/1/pods/target/averageValue", "value": "20"}]
    lower = {"target": {"kind": "HorizontalPodAutoscaler", "name": "carillon-gateway"}, "patch": json.dumps(value)}
    cpu = {"target": {"kind": "HorizontalPodAutoscaler", "name": "carillon-gateway"}, "patch": json.dumps([{"op": "replace", "path": "/spec/metrics/0/resource/target/averageUtilization", "value": 10000}])}
    parts = ["load-balancer", "pod-monitor", "../../../prometheus", "../../../grafana"]
    apply(overlay(folder / "scaled", "production", parts, [*SMALLER, lower, cpu]))
    all_ready(600)
    before = scaler()["status"]["currentReplicas"]
    load = Load("herd")
    began = time.monotonic()
    _, took = until("gateways to be added", lambda: scaler()["status"]["desiredReplicas"] > before, 240)
    kubectl("rollout", "status", "deployment/carillon-gateway", "--timeout=180s")
    now = scaler()["status"]
    report.check("the autoscaler adds gateways when clients come", True, f"{before} to {now['desiredReplicas']} after {took:.0f} s, ready after {time.monotonic() - began:.0f} s, {metric('carillon_gateway_connections')} each")
    report.load("gateways are added", load.end())
