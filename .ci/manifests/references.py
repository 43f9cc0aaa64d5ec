"""What refers to what in rendered manifests, which no schema sees: selectors, named ports, volumes, secrets, accounts."""

from conftest import called, containers, template

# Made by `deploy/secrets`, by cert-manager or by the operator's own hands (docs/kubernetes.md).
GIVEN = {
    "carillon-storage-tokens": {"storage", "router", "operator"},
    "carillon-router-tokens": {"router", "gateway", "operator"},
    "carillon-gateway-tokens": {"gateway"},
    "carillon-operator-tokens": {"operator"},
    "carillon-token-key": {"key"},
    "carillon-node-tls": {"ca.crt", "tls.crt", "tls.key"},
    "carillon-client-tls": {"tls.crt", "tls.key"},
    "carillon-backup": {"PLACE"},
    "carillon-loadtest": {"secret"},
}


def fits(selector, labels):
    """Whether a label selector of Kubernetes takes a pod with these labels."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for one in selector.get("matchExpressions", []):
        assert one["operator"] == "In", one
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


def ports(pod):
    found = {}
    for container in pod["containers"]:
        for port in container.get("ports", []):
            found[port["name"]] = port["containerPort"]
    return found


def wrong(rendered):
    """The references that lead nowhere, for people."""
    found = []
    for workload in rendered.workloads():
        found += [f"{called(workload)}: {why}" for why in _of_workload(rendered, workload)]
    pods = [(one, template(one)) for one in rendered.workloads()]
    for service in rendered.kind("Service").values():
        found += [f"{called(service)}: {why}" for why in _of_service(service, pods)]
    for policy in rendered.kind("NetworkPolicy").values():
        found += [f"{called(policy)}: {why}" for why in _of_policy(policy, pods)]
    for budget in rendered.kind("PodDisruptionBudget").values():
        if not any(fits(budget["spec"]["selector"], pod["metadata"]["labels"]) for _, pod in pods):
            found.append(f"{called(budget)}: takes no pod")
    for scaler in rendered.kind("HorizontalPodAutoscaler").values():
        target = scaler["spec"]["scaleTargetRef"]
        if target["name"] not in rendered.kind(target["kind"]):
            found.append(f"{called(scaler)}: there is no {target['kind']} {target['name']}")
    services = rendered.kind("Service")
    for ingress in rendered.kind("Ingress").values():
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                names = [port["name"] for port in services.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]]
                if backend["port"]["name"] not in names:
                    found.append(f"{called(ingress)}: no port {backend['port']['name']} of Service {backend['name']}")
    for route in [*rendered.kind("HTTPRoute").values(), *rendered.kind("GRPCRoute").values()]:
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                numbers = [port["port"] for port in services[backend["name"]]["spec"]["ports"]]
                if backend["port"] not in numbers:
                    found.append(f"{called(route)}: no port {backend['port']} of Service {backend['name']}")
    return found


def _of_workload(rendered, workload):
    pod = template(workload)
    spec, labels = pod["spec"], pod["metadata"]["labels"]
    if workload["kind"] in ("Deployment", "StatefulSet") and not fits(workload["spec"]["selector"], labels):
        yield "its selector does not take its own pods"
    if spec["serviceAccountName"] not in rendered.kind("ServiceAccount"):
        yield f"there is no ServiceAccount {spec['serviceAccountName']}"
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    for volume in spec.get("volumes", []):
        if "configMap" in volume and volume["configMap"]["name"] not in rendered.kind("ConfigMap"):
            yield f"there is no ConfigMap {volume['configMap']['name']}"
        if "secret" in volume and volume["secret"]["secretName"] not in GIVEN:
            yield f"nobody makes the Secret {volume['secret']['secretName']}"
    mounted = set()
    for container in containers(workload):
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        mounted |= mounts
        if mounts - volumes:
            yield f"container {container['name']} mounts {mounts - volumes}, which are no volumes"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if port is not None and port not in ports(spec):
                yield f"{probe}: {port} is no port of the container"
        yield from _of_environment(container)
    if volumes - mounted:
        yield f"nobody mounts {volumes - mounted}"
    if workload["kind"] == "StatefulSet":
        service = rendered.kind("Service").get(workload["spec"]["serviceName"])
        if not service or service["spec"].get("clusterIP") != "None":
            yield "its serviceName is no headless Service"
        elif not fits({"matchLabels": service["spec"]["selector"]}, labels):
            yield "its Service takes other pods"


def _of_environment(container):
    known = set()
    for variable in container.get("env", []):
        value = variable.get("value", "")
        # Kubernetes leaves what it does not know as it is.
        for name in [part.split(")")[0] for part in value.split("$(")[1:]]:
            if name not in known:
                yield f"variable {variable['name']} needs {name}, which does not stand before it"
        known.add(variable["name"])
        secret = variable.get("valueFrom", {}).get("secretKeyRef")
        if secret and secret["key"] not in GIVEN.get(secret["name"], set()):
            yield f"nobody makes the key {secret['key']} of Secret {secret['name']}"


def _of_service(service, pods):
    selector = {"matchLabels": service["spec"]["selector"]}
    taken = [pod for _, pod in pods if fits(selector, pod["metadata"]["labels"])]
    if not taken:
        yield "its selector takes no pod"
    for port in service["spec"]["ports"]:
        for pod in taken:
            if port["targetPort"] not in ports(pod["spec"]):
                yield f"targetPort {port['targetPort']} is no port of its pods"


def _of_policy(policy, pods):
    spec = policy["spec"]
    taken = [pod for _, pod in pods if fits(spec["podSelector"], pod["metadata"]["labels"])]
    if not taken:
        yield "its podSelector takes no pod"
    for rule in spec.get("ingress", []):
        for port in rule["ports"]:
            for pod in taken:
                if port["port"] not in ports(pod["spec"]):
                    yield f"port {port['port']} is no port of its pods"
    for rule in spec.get("egress", []):
        for to in rule.get("to", []):
            theirs = [pod for _, pod in pods if fits(to["podSelector"], pod["metadata"]["labels"])]
            if not theirs:
                yield f"egress to {to}, which takes no pod"
            for port in rule["ports"]:
                if any(port["port"] not in ports(pod["spec"]).values() for pod in theirs):
                    yield f"egress to port {port['port']}, which is no port of those pods"
