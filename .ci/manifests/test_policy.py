"""What docs/kubernetes.md promises, point by point, on the rendered objects of both overlays."""

import ipaddress
import re
import tomllib

import pytest
import references
from conftest import COMPONENTS, DEPLOY, OVERLAYS, ROOT, called, containers, overlay, template, with_component, with_load_test

TIERS = ("storage", "router", "gateway")


@pytest.fixture(params=OVERLAYS)
def rendered(request):
    return overlay(request.param)


def container_of(rendered, tier):
    [container] = rendered.tier(tier)["spec"]["template"]["spec"]["containers"]
    return container


def environment(rendered, tier):
    return {one["name"]: one.get("value") for one in container_of(rendered, tier)["env"]}


def setting(rendered, tier, *path):
    """From the environment of the pod, or its file; deploy/carillon.toml has the defaults."""
    variable = "CARILLON_" + "__".join(path).upper()
    if variable in environment(rendered, tier):
        return int(environment(rendered, tier)[variable])
    for source in (rendered.settings(tier), tomllib.loads((DEPLOY / "carillon.toml").read_text())):
        for key in path:
            source = source.get(key) if isinstance(source, dict) else None
        if source is not None:
            return source
    raise AssertionError(path)


def mebibytes(text):
    number, unit = re.fullmatch(r"(\d+)([MG])i", text).groups()
    return int(number) * {"M": 1, "G": 1024}[unit]


# ---- Probes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_three_probes_have_three_meanings(rendered, tier):
    container = container_of(rendered, tier)
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/startedz", "liveness": "/healthz", "readiness": "/readyz"}
    for kind in paths:
        probe = container[f"{kind}Probe"]
        # The operator's port: no probe depends on a port for clients, which may be full.
        assert probe["httpGet"]["port"] == "admin" and "exec" not in probe
        assert "initialDelaySeconds" not in probe
        assert probe["timeoutSeconds"] >= 2


def test_a_start_may_take_as_long_as_a_replay(rendered):
    seconds = {}
    for tier in TIERS:
        probe = container_of(rendered, tier)["startupProbe"]
        seconds[tier] = probe["periodSeconds"] * probe["failureThreshold"]
    assert seconds["storage"] >= 1800 and seconds["router"] >= 60 and seconds["gateway"] >= 60


@pytest.mark.parametrize("tier", TIERS)
def test_a_busy_process_is_not_killed(rendered, tier):
    probe = container_of(rendered, tier)["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60


@pytest.mark.parametrize("tier", TIERS)
def test_what_is_not_ready_gets_nothing_new_within_seconds(rendered, tier):
    probe = container_of(rendered, tier)["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= 5


# ---- Stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_the_grace_period_is_longer_than_the_stop(rendered, tier):
    container = container_of(rendered, tier)
    assert "lifecycle" not in container, "SIGTERM does it all: a preStop would take its time from the grace period"
    pod = rendered.tier(tier)["spec"]["template"]["spec"]
    # Of the deadline it takes some hundred milliseconds more to end, and the kubelet counts from before the signal.
    assert pod["terminationGracePeriodSeconds"] * 1000 >= setting(rendered, tier, "shutdown_deadline_ms") + 5000


def test_the_stop_of_a_gateway_has_time_for_each_of_its_steps(rendered):
    delay, spread, deadline = (
        setting(rendered, "gateway", "gateway", key) for key in ("drain_delay_ms", "drain_spread_ms", "send_deadline_ms")
    )
    # The memory limit allows 16 KiB for each in half of it.
    memory = mebibytes(container_of(rendered, "gateway")["resources"]["limits"]["memory"]) * 64 // 2
    connections = min(setting(rendered, "gateway", "gateway", "max_connections"), memory)
    drain = max(spread, connections * 1000 // setting(rendered, "gateway", "gateway", "drain_per_second"))
    steps = [delay, drain, deadline]
    # A gateway takes "some seconds" for the last words.
    assert setting(rendered, "gateway", "shutdown_deadline_ms") >= sum(steps) + 5000


def test_a_gateway_waits_until_the_endpoints_have_spread(rendered):
    probe = container_of(rendered, "gateway")["readinessProbe"]
    # Kubernetes takes a deleted pod out at once; who was evicted by nothing but its readiness has to be noticed first.
    noticed = probe["periodSeconds"] * probe["failureThreshold"]
    assert setting(rendered, "gateway", "gateway", "drain_delay_ms") >= max(noticed * 1000, 5000)


def test_a_router_has_time_for_what_is_in_flight(rendered):
    assert setting(rendered, "router", "shutdown_deadline_ms") >= setting(rendered, "router", "router", "drain_ms") + 5000


def test_no_pod_leaves_the_cluster_when_it_stops(rendered):
    for one in rendered.workloads():
        for container in containers(one):
            words = [*container.get("command", []), *container.get("args", [])]
            assert not {"remove", "leave", "replace"} & set(words), called(one)


# ---- Storage --------------------------------------------------------------------------------------------------------


def test_storage_nodes_start_at_once_and_find_each_other_before_they_are_ready(rendered):
    spec = rendered.tier("storage")["spec"]
    assert rendered.tier("storage")["kind"] == "StatefulSet"
    assert spec["podManagementPolicy"] == "Parallel"
    service = rendered.kind("Service")[spec["serviceName"]]["spec"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"] is True
    assert spec["replicas"] % 2 == 1 and spec["replicas"] >= 3


def test_storage_nodes_are_updated_one_at_a_time(rendered):
    spec = rendered.tier("storage")["spec"]
    assert spec["updateStrategy"]["type"] == "RollingUpdate"
    assert "partition" not in spec["updateStrategy"].get("rollingUpdate", {})
    assert spec["updateStrategy"].get("rollingUpdate", {}).get("maxUnavailable", 1) == 1
    assert spec["minReadySeconds"] >= 5


def test_volumes_outlive_pods(rendered):
    spec = rendered.tier("storage")["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["data"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(rendered, "storage")["volumeMounts"]}
    assert mounts["data"] == rendered.settings("storage")["data_dir"]


def test_production_keeps_volumes_when_the_set_is_deleted():
    policy = overlay("production").tier("storage")["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_the_log_fits_the_volume(rendered):
    [claim] = rendered.tier("storage")["spec"]["volumeClaimTemplates"]
    size = mebibytes(claim["spec"]["resources"]["requests"]["storage"])
    log = setting(rendered, "storage", "storage", "log_bytes") >> 20
    reserve = min(setting(rendered, "storage", "storage", "disk_reserve_bytes") >> 20, size // 5)
    assert log + reserve + 64 <= size / 2, "half of the volume is for what users send"


def test_the_nodes_are_known_by_the_same_names_everywhere(rendered):
    spec = rendered.tier("storage")["spec"]
    name, service = rendered.tier("storage")["metadata"]["name"], spec["serviceName"]
    members = [f"{name}-{number}.{service}:7401" for number in range(3)]
    assert rendered.settings("storage")["storage"]["members"] == members
    assert rendered.settings("router")["router"]["storage"] == members
    assert rendered.settings("router")["storage"]["members"] == members
    assert environment(rendered, "storage")["CARILLON_STORAGE__ADVERTISE"] == f"$(POD_NAME).{service}:7401"
    [init] = rendered.kind("Job")["carillon-init"]["spec"]["template"]["spec"]["containers"]
    assert [arg.split("=", 1)[1] for arg in init["args"] if arg.startswith("--member=")] == members


def test_the_cluster_is_made_once_by_a_job_that_may_run_again(rendered):
    job = rendered.kind("Job")["carillon-init"]["spec"]
    [init] = job["template"]["spec"]["containers"]
    assert init["args"][:3] == ["cluster", "init", "--if-not-exists"]
    # A Job can't be changed: so it goes soon, and nothing in it has the hash of a configuration.
    assert job["ttlSecondsAfterFinished"] <= 300
    assert not [volume for volume in job["template"]["spec"]["volumes"] if "configMap" in volume]
    # It waits as long as the operator takes to give the secrets.
    assert "activeDeadlineSeconds" not in job


def test_zones_come_from_the_node(rendered):
    variables = {one["name"]: one for one in container_of(rendered, "storage")["env"]}
    field = variables["CARILLON_STORAGE__ZONE"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.labels['topology.kubernetes.io/zone']"


# ---- Budgets and spread ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_each_tier_has_a_budget_that_lets_a_drain_go_on(tier):
    rendered = overlay("production")
    [budget] = [
        budget
        for budget in rendered.kind("PodDisruptionBudget").values()
        if references.fits(budget["spec"]["selector"], rendered.tier(tier)["spec"]["template"]["metadata"]["labels"])
    ]
    assert budget["spec"]["maxUnavailable"] == 1 and "minAvailable" not in budget["spec"]
    stateless = budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
    assert stateless == (tier != "storage"), "a storage node that catches up is not to be evicted when another is away"


def test_the_trial_has_no_budget_because_it_would_hold_up_the_drain_of_its_only_node():
    assert overlay("trial").kind("PodDisruptionBudget") == {}


def test_storage_nodes_are_never_two_on_one_machine_and_spread_over_zones():
    rendered = overlay("production")
    pod = rendered.tier("storage")["spec"]["template"]
    [term] = pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert references.fits(term["labelSelector"], pod["metadata"]["labels"])
    [zone] = pod["spec"]["topologySpreadConstraints"]
    assert (zone["topologyKey"], zone["whenUnsatisfiable"], zone["maxSkew"]) == ("topology.kubernetes.io/zone", "DoNotSchedule", 1)
    assert references.fits(zone["labelSelector"], pod["metadata"]["labels"])


@pytest.mark.parametrize("tier", ["router", "gateway"])
def test_routers_and_gateways_spread_over_zones_and_machines(tier):
    pod = overlay("production").tier(tier)["spec"]["template"]
    spread = pod["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for one in spread:
        assert one["whenUnsatisfiable"] == "ScheduleAnyway" and one["matchLabelKeys"] == ["pod-template-hash"]
        assert references.fits(one["labelSelector"], pod["metadata"]["labels"])


@pytest.mark.parametrize("tier", ["router", "gateway"])
def test_another_one_is_there_before_one_goes(rendered, tier):
    deployment = rendered.tier(tier)["spec"]
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert deployment["minReadySeconds"] >= 5


@pytest.mark.parametrize("tier", ["router", "gateway"])
def test_what_holds_nothing_moves_soon_from_a_dead_machine(rendered, tier):
    tolerations = rendered.tier(tier)["spec"]["template"]["spec"]["tolerations"]
    assert {(one["key"], one["effect"]) for one in tolerations} == {
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    }
    assert all(one["tolerationSeconds"] <= 30 for one in tolerations)


def test_gateways_scale_on_connections_and_cpu_with_a_slow_way_down():
    rendered = overlay("production")
    [scaler] = rendered.kind("HorizontalPodAutoscaler").values()
    spec = scaler["spec"]
    assert spec["scaleTargetRef"]["name"] == "carillon-gateway" and spec["minReplicas"] >= 2
    assert "replicas" not in rendered.tier("gateway")["spec"], "each apply would set the number anew"
    kinds = {metric["type"]: metric for metric in spec["metrics"]}
    assert kinds["Resource"]["resource"]["name"] == "cpu"
    assert kinds["Pods"]["pods"]["metric"]["name"] == "carillon_gateway_connections"
    connections = int(kinds["Pods"]["pods"]["target"]["averageValue"])
    assert connections * 3 / 2 <= setting(rendered, "gateway", "gateway", "max_connections"), "one of three may be gone"
    down, up = spec["behavior"]["scaleDown"], spec["behavior"]["scaleUp"]
    assert down["stabilizationWindowSeconds"] >= 900 and up["stabilizationWindowSeconds"] == 0
    [slowest] = down["policies"]
    grace = rendered.tier("gateway")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert (slowest["type"], slowest["value"]) == ("Pods", 1) and slowest["periodSeconds"] > 2 * grace


def test_a_tier_can_be_applied_alone(rendered):
    for tier in TIERS:
        pod = rendered.tier(tier)["spec"]["template"]["spec"]
        [config] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        needed = [rendered.tier(tier), rendered.kind("ConfigMap")[config], rendered.kind("ServiceAccount")[pod["serviceAccountName"]]]
        for one in needed:
            assert one["metadata"]["labels"]["app.kubernetes.io/component"] == tier, called(one)


# ---- The canary ------------------------------------------------------------------------------------------------------


def test_a_canary_sends_through_the_gateways_service_and_may_do_no_more(rendered):
    canary = rendered.kind("Deployment")["carillon-canary"]
    pod = template(canary)["spec"]
    [container] = pod["containers"]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/startedz", "liveness": "/healthz", "readiness": "/readyz"}
    [name] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    settings = tomllib.loads(rendered.kind("ConfigMap")[name]["data"]["canary.toml"])
    assert pod["terminationGracePeriodSeconds"] * 1000 >= settings["shutdown_deadline_ms"] + 5000
    gateways = rendered.kind("Service")["carillon-gateway"]["spec"]["ports"]
    for url, port in zip(settings["canary"]["gateways"], gateways):
        assert re.fullmatch(rf"\w+://carillon-gateway:{port['port']}(/ws)?", url)
    assert settings["cluster"]["tokens"] == {"operator_file": "/etc/carillon/tokens/operator"}
    source = {"labels": template(canary)["metadata"]["labels"], "ours": True}
    ports = {"storage": 7401, "router": 7402, "gateway": 7410}
    assert {target for target, port in ports.items() if allowed(rendered, source, target, port)} == {"router", "gateway"}
    # Nobody else gets to the routers by its policy.
    assert not allowed(rendered, {"labels": {"carillon-client": "true"}, "ours": True}, "router", 7402)


# ---- Security -------------------------------------------------------------------------------------------------------


def every_workload():
    for name in OVERLAYS:
        for one in overlay(name).workloads():
            yield pytest.param(one, id=f"{name}-{one['metadata']['name']}")


@pytest.fixture(params=COMPONENTS)
def component(request, tmp_path):
    return with_component(request.param, tmp_path)


@pytest.fixture
def load_test(tmp_path):
    return with_load_test(tmp_path)


def check_security(workload):
    pod = template(workload)["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "CARILLON_ROUTER_PORT is no setting"
    assert pod["serviceAccountName"] != "default"
    assert "hostNetwork" not in pod and "hostPID" not in pod and "hostIPC" not in pod
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        # There is no shell in the image, and one other program.
        assert container.get("command", ["/usr/bin/carillon-loadtest"]) == ["/usr/bin/carillon-loadtest"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert set(requests) == {"cpu", "memory"} and set(limits) == {"memory"}, "a limit of CPU would delay leases"
        assert not container["image"].endswith(":latest") and ":" in container["image"]
        assert container["imagePullPolicy"] == "IfNotPresent"
        for mount in container["volumeMounts"]:
            assert mount.get("readOnly") or mount["name"] == "data"
    for volume in pod["volumes"]:
        assert set(volume) - {"name"} <= {"configMap", "secret", "persistentVolumeClaim"}
        if "secret" in volume:
            # A backup is of an installation with TLS between nodes, or without.
            may_be_missing = (called(workload), volume["name"]) == ("CronJob carillon-backup", "node-tls")
            assert volume["secret"]["defaultMode"] == 0o440 and volume["secret"].get("optional", False) == may_be_missing


@pytest.mark.parametrize("workload", every_workload())
def test_pods_pass_the_restricted_policy_with_a_read_only_root_and_no_token(workload):
    check_security(workload)


def test_so_do_the_pods_of_components(component):
    for workload in component.workloads():
        check_security(workload)


def test_so_do_the_pods_of_the_load_test(load_test):
    for workload in load_test.workloads():
        check_security(workload)


def test_the_namespace_enforces_the_restricted_policy(rendered):
    [namespace] = rendered.kind("Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all(one["metadata"].get("namespace") == "carillon" for one in rendered.objects if one["kind"] != "Namespace")


def test_nothing_has_rights_in_kubernetes(rendered):
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} & set(rendered.by_kind)
    assert all(one["automountServiceAccountToken"] is False for one in rendered.kind("ServiceAccount").values())


def test_secrets_are_given_and_never_made(rendered):
    assert "Secret" not in rendered.by_kind
    for one in rendered.kind("ConfigMap").values():
        assert not re.search(r"(?m)^\s*(secret|token)\s*=", "\n".join(one["data"].values()))
    for tier in TIERS:
        for variable in container_of(rendered, tier)["env"]:
            assert "secretKeyRef" not in variable.get("valueFrom", {}), "the environment can't be changed without a restart"


def test_each_tier_has_its_own_token_and_those_of_its_callers(rendered):
    for tier, tokens in {
        "storage": {"storage", "router", "operator"},
        "router": {"router", "gateway", "operator"},
        "gateway": {"gateway"},
    }.items():
        files = rendered.settings(tier)["cluster"]["tokens"]
        assert files == {f"{token}_file": f"/etc/carillon/tokens/{token}" for token in tokens}
        assert "secret" not in rendered.settings(tier)["cluster"] and "secret_file" not in rendered.settings(tier)["cluster"]
        pod = rendered.tier(tier)["spec"]["template"]["spec"]
        secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        assert f"carillon-{tier}-tokens" in secrets
        others = {f"carillon-{other}-tokens" for other in ("storage", "router", "gateway", "operator") if other != tier}
        assert not secrets & others
        assert references.GIVEN[f"carillon-{tier}-tokens"] == tokens


def test_only_gateways_have_the_key_of_users_tokens(rendered):
    for tier in TIERS:
        pod = rendered.tier(tier)["spec"]["template"]["spec"]
        names = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        assert ("carillon-token-key" in names) == (tier == "gateway")


def test_production_has_mutual_tls_between_all_nodes():
    rendered = overlay("production")
    for one in rendered.workloads():
        [container] = template(one)["spec"]["containers"]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert variables["CARILLON_CLUSTER__TLS__SERVER_NAME"] == "carillon.internal", called(one)
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        for key, file in {"CA": "ca.crt", "CERTIFICATE": "tls.crt", "KEY": "tls.key"}.items():
            assert variables[f"CARILLON_CLUSTER__TLS__{key}"] == f"{mounts['node-tls']}/{file}"


def test_a_backup_reaches_nodes_with_mutual_tls_wherever_its_component_stands(tmp_path):
    """A patch of node-tls sees only what stands above it, so the backup takes the settings from a ConfigMap, if it is there."""
    with_tls = overlay("production").kind("ConfigMap")["carillon-node-tls"]["data"]
    [variables] = [
        {variable["name"]: variable["value"] for variable in container["env"] if variable["name"].startswith("CARILLON_CLUSTER__TLS__")}
        for container in template(overlay("production").kind("Deployment")["carillon-router"])["spec"]["containers"]
    ]
    assert with_tls == variables
    pod = template(with_component("backup", tmp_path).kind("CronJob")["carillon-backup"])["spec"]
    for container in pod["initContainers"] + pod["containers"]:
        assert {"configMapRef": {"name": "carillon-node-tls", "optional": True}} in container["envFrom"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert with_tls["CARILLON_CLUSTER__TLS__CA"] == f"{mounts['node-tls']}/ca.crt"
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "node-tls"]
    assert volume["secret"]["optional"] is True


def test_a_changed_configuration_rolls_its_tier_and_a_changed_secret_nothing(rendered):
    for tier in TIERS:
        pod = rendered.tier(tier)["spec"]["template"]["spec"]
        [name] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        assert re.fullmatch(rf"carillon-{tier}-[a-z0-9]{{10}}", name)
        annotations = rendered.tier(tier)["spec"]["template"]["metadata"].get("annotations", {})
        assert not [key for key in annotations if "checksum" in key]


# ---- Network --------------------------------------------------------------------------------------------------------


def allowed(rendered, source, target, port):
    """Whether the policies let a pod of ours, or one with given labels elsewhere, reach this port of a tier."""
    pod = rendered.tier(target)["spec"]["template"]
    numbers = references.ports(pod["spec"])
    for policy in rendered.kind("NetworkPolicy").values():
        if not references.fits(policy["spec"]["podSelector"], pod["metadata"]["labels"]):
            continue
        for rule in policy["spec"].get("ingress", []):
            ports = {numbers[one["port"]] for one in rule["ports"]}
            for peer in rule["from"]:
                if "ipBlock" in peer:
                    continue
                everywhere = "namespaceSelector" in peer
                if (everywhere or source.get("ours")) and references.fits(peer.get("podSelector", {}), source["labels"]):
                    if port in ports:
                        return True
    return False


def test_everything_is_refused_that_no_policy_allows(rendered):
    first = rendered.kind("NetworkPolicy")["carillon-default"]["spec"]
    assert first["podSelector"] == {} and set(first["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in first
    [names] = first["egress"]
    assert {(one["protocol"], one["port"]) for one in names["ports"]} == {("UDP", 53), ("TCP", 53)}


def test_each_tier_is_reached_by_its_callers_alone(rendered):
    def ours(tier):
        if tier == "operator":
            labels = template(rendered.kind("Job")["carillon-init"])["metadata"]["labels"]
        else:
            labels = rendered.tier(tier)["spec"]["template"]["metadata"]["labels"]
        return {"labels": labels, "ours": True}

    def reaches(source):
        ports = {"storage": 7401, "router": 7402, "gateway": 7410}
        return {target for target, port in ports.items() if allowed(rendered, source, target, port)}

    assert reaches(ours("storage")) == {"storage"}
    assert reaches(ours("router")) == {"storage", "router"}
    assert reaches(ours("gateway")) == {"router"}
    assert reaches(ours("operator")) == {"storage", "router"}
    assert reaches({"labels": {"app": "anything"}}) == set()
    assert reaches({"labels": {"carillon-client": "true"}}) == {"gateway"}
    prometheus = {"labels": {"app.kubernetes.io/name": "prometheus"}}
    assert reaches(prometheus) == set()
    assert all(allowed(rendered, prometheus, tier, 7400) for tier in TIERS)
    assert not any(allowed(rendered, {"labels": {"carillon-client": "true"}}, tier, 7400) for tier in TIERS)


# ---- The load test ------------------------------------------------------------------------------------------------------


def jobs_of(load_test):
    return load_test.kind("Job")["carillon-loadtest"], load_test.kind("Job")["carillon-loadtest-worker"]


def test_a_load_test_reaches_the_gateways_as_a_client_does_and_nothing_else(load_test):
    coordinator, worker = (template(job)["metadata"]["labels"] for job in jobs_of(load_test))
    ports = {"storage": 7401, "router": 7402, "gateway": 7410}
    for labels, reaches in ((coordinator, set()), (worker, {"gateway"})):
        source = {"labels": labels, "ours": True}
        assert {tier for tier, port in ports.items() if allowed(load_test, source, tier, port)} == reaches
        assert not any(allowed(load_test, source, tier, 7400) for tier in TIERS)
    policies = [one["spec"] for one in load_test.kind("NetworkPolicy").values()]

    def egress(labels):
        rules = [rule for one in policies if references.fits(one["podSelector"], labels) for rule in one.get("egress", [])]
        return {port["port"] for rule in rules for port in rule["ports"]}

    assert egress(coordinator) == {53}
    assert egress(worker) == {53, 7410, 7499}
    # Nobody but the workers comes to the coordinator.
    [own] = [one for one in policies if references.fits(one["podSelector"], coordinator) and "ingress" in one]
    [rule] = own["ingress"]
    [peer] = rule["from"]
    assert set(peer) == {"podSelector"} and references.fits(peer["podSelector"], worker)
    assert not references.fits(peer["podSelector"], {"carillon-client": "true"})


def test_as_many_workers_come_as_the_coordinator_waits_for(load_test):
    coordinator, worker = jobs_of(load_test)
    [told] = template(coordinator)["spec"]["containers"]
    [count] = [int(word.split("=")[1]) for word in told["args"] if word.startswith("--workers=")]
    spec = worker["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == count
    # A worker that is lost is not replaced: the run is not passed without it.
    assert spec["backoffLimit"] == coordinator["spec"]["backoffLimit"] == 0
    assert all(template(job)["spec"]["restartPolicy"] == "Never" for job in (coordinator, worker))
    [service] = [one for one in load_test.kind("Service").values() if one["metadata"]["name"] == "carillon-loadtest"]
    [port] = service["spec"]["ports"]
    [at] = [word for word in template(worker)["spec"]["containers"][0]["args"] if word.startswith("--coordinator=")]
    assert at == f"--coordinator=carillon-loadtest:{port['port']}"


def test_only_workers_have_the_key_of_users_tokens_and_both_a_secret_of_their_own(load_test):
    for job, names in zip(jobs_of(load_test), ({"carillon-loadtest"}, {"carillon-loadtest", "carillon-token-key"})):
        volumes = template(job)["spec"]["volumes"]
        assert {volume["secret"]["secretName"] for volume in volumes if "secret" in volume} == names


def test_the_report_goes_to_the_log_and_to_a_volume(load_test):
    [coordinator] = template(jobs_of(load_test)[0])["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in coordinator["volumeMounts"]}
    args = coordinator["args"]
    assert [word for word in args if word.startswith("--print=")] == ["--print=text", "--print=json", "--print=html", "--print=junit"]
    for kind in ("json", "html", "junit"):
        [file] = [word.split("=")[1] for word in args if word.startswith(f"--{kind}=")]
        assert file.startswith(mounts["data"] + "/")
    [claim] = load_test.kind("PersistentVolumeClaim").values()
    volumes = {volume["name"]: volume for volume in template(jobs_of(load_test)[0])["spec"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


# ---- In front of the gateways -----------------------------------------------------------------------------------------


def test_websockets_outlive_the_time_outs_of_an_ingress(tmp_path):
    rendered = with_component("ingress", tmp_path)
    heartbeat = setting(rendered, "gateway", "gateway", "heartbeat_ms") / 1000 * 1.25
    [ingress] = rendered.kind("Ingress").values()
    annotations = ingress["metadata"]["annotations"]
    for key in ("nginx.ingress.kubernetes.io/proxy-read-timeout", "nginx.ingress.kubernetes.io/proxy-send-timeout"):
        assert int(annotations[key]) > heartbeat
    assert annotations["haproxy.org/timeout-tunnel"] == "1h"


def test_websockets_have_no_time_out_in_the_gateway_api(tmp_path):
    [route] = with_component("gateway-api", tmp_path).kind("HTTPRoute").values()
    [rule] = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


@pytest.mark.parametrize("name", ["ingress", "gateway-api", "proxy-protocol"])
def test_addresses_of_clients_come_from_named_proxies_only(name, tmp_path):
    rendered = with_component(name, tmp_path)
    trusted = environment(rendered, "gateway")["CARILLON_GATEWAY__PROXIES__TRUSTED"]
    networks = [ipaddress.ip_network(one) for one in re.findall(r'"([^"]+)"', trusted)]
    assert networks and all(network.is_private and network.prefixlen >= 8 for network in networks)


def test_the_load_balancer_keeps_the_addresses_of_clients(tmp_path):
    service = with_component("load-balancer", tmp_path).kind("Service")["carillon-clients"]["spec"]
    assert (service["type"], service["externalTrafficPolicy"]) == ("LoadBalancer", "Local")


def test_all_pods_are_scraped_with_their_tier_and_zone(tmp_path):
    rendered = with_component("pod-monitor", tmp_path)
    spec = rendered.kind("PodMonitor")["carillon"]["spec"]
    for tier in TIERS:
        pod = rendered.tier(tier)["spec"]["template"]
        assert references.fits(spec["selector"], pod["metadata"]["labels"])
        assert spec["podMetricsEndpoints"][0]["port"] in references.ports(pod["spec"])
    targets = {one["targetLabel"] for one in spec["podMetricsEndpoints"][0]["relabelings"]}
    assert {"tier", "zone", "node", "pod"} <= targets


# ---- The page -------------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_manifests_have():
    page = (ROOT / "docs/kubernetes.md").read_text()
    rendered = overlay("production")

    def row(name):
        [found] = re.findall(rf"(?m)^\| {re.escape(name)} \| (.*) \|$", page)
        return [cell.strip() for cell in found.split("|")]

    for number, tier in enumerate(TIERS):
        pod = rendered.tier(tier)["spec"]["template"]["spec"]
        assert row("`terminationGracePeriodSeconds`")[number] == str(pod["terminationGracePeriodSeconds"])
        assert row("`shutdown_deadline_ms`")[number] == str(setting(rendered, tier, "shutdown_deadline_ms"))
        resources = container_of(rendered, tier)["resources"]
        assert row("memory limit")[number] == resources["limits"]["memory"].replace("Gi", " GiB")
        cpu = int(resources["requests"]["cpu"].removesuffix("m")) / 1000
        assert row("requests")[number] == f"{cpu:g} CPU, {resources['requests']['memory'].replace('Gi', ' GiB')}"
    scaler = rendered.kind("HorizontalPodAutoscaler")["carillon-gateway"]["spec"]
    replicas = [str(rendered.tier(tier)["spec"]["replicas"]) for tier in ("storage", "router")]
    assert row("replicas") == [*replicas, f"{scaler['minReplicas']} to {scaler['maxReplicas']}"]
    for key, text in {"drain_delay_ms": "{} s", "drain_spread_ms": "{} s", "send_deadline_ms": "{} s"}.items():
        seconds = setting(rendered, "gateway", "gateway", key) // 1000
        assert re.search(rf"`gateway\.{key}`,? \(?{text.format(seconds)}\)", page.replace("\n", " ")), key


def test_each_component_is_on_the_page_and_each_named_test_is_there():
    page = (ROOT / "docs/kubernetes.md").read_text()
    for name in COMPONENTS:
        assert f"`{name}`" in page, name
    tests = "\n".join(file.read_text() for file in (ROOT / ".ci/manifests").glob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+)`", page)):
        assert f"def {name}(" in tests, name
    assert len(re.findall(r"(?m)^\| \d+(?:, \d+)? \| ", page)) == 32, "33 points, of which two share a line"


def test_each_apply_on_the_pages_is_server_side():
    """One without it, after one with it, keeps what a release has dropped."""
    for page in ("docs/kubernetes.md", "docs/loadtest.md", "docs/operations.md", "docs/runbook.md"):
        for line in (ROOT / page).read_text().splitlines():
            assert not re.search(r"kubectl (?:-n \S+ )?apply -(?!-server-side)", line), f"{page}: {line}"
