"""Prometheus without its operator: with the scrape job of docs/kubernetes.md and the rules as files."""

import yaml
from around import applied, deployment, labelled
from around import namespace as make_namespace
from installation import block_of_the_page
from kube import ROOT, inside
from monitoring import ACCOUNT, may_find_pods, program
from queries import Prometheus

NAMESPACE = "prometheus-alone"


def scrape_job(folder):
    """One minute: each pod is found, those of the canary, too."""
    make_namespace(NAMESPACE)
    may_find_pods(NAMESPACE)
    timing = {"scrape_interval": "15s", "evaluation_interval": "15s"}
    config = {"global": timing, "rule_files": ["/config/rules.yaml", "/config/alerts.yaml"], **yaml.safe_load(block_of_the_page("scrape_configs"))}
    files = {name: (ROOT / "deploy/prometheus" / name).read_text() for name in ("rules.yaml", "alerts.yaml")}
    applied(labelled("ConfigMap", "prometheus", NAMESPACE, data={"prometheus.yaml": yaml.safe_dump(config), **files}))
    container = {
        "image": program(),
        "args": ["--config.file=/config/prometheus.yaml", "--storage.tsdb.path=/data"],
        "ports": [{"name": "web", "containerPort": 9090}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
    }
    volumes = [{"name": "config", "configMap": {"name": "prometheus"}}, {"name": "data", "emptyDir": {}}]
    deployment("prometheus", NAMESPACE, container, {"app.kubernetes.io/name": "prometheus"}, serviceAccountName=ACCOUNT, volumes=volumes)
    alone = Prometheus(NAMESPACE)
    alone.scrapes_all("Prometheus with the job of the page")
    alone.has_rules("Prometheus with the job of the page")
    inside("kubectl", "delete", "namespace", NAMESPACE, "--wait=true")
