"""One message through a cluster is one trace: gateway, router, storage, router, gateway."""

import concurrent.futures
import threading

import grpc
import pytest
from conftest import Service, until
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that keeps every span."""

    def __init__(self):
        self.spans = []
        self.lock = threading.Lock()

    def Export(self, request, context):
        with self.lock:
            for resource in request.resource_spans:
                service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                for scope in resource.scope_spans:
                    self.spans.extend((service, span) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def traces(self):
        with self.lock:
            by_trace = {}
            for service, span in self.spans:
                by_trace.setdefault(span.trace_id, []).append((service, span))
            return by_trace.values()


@pytest.fixture
def receiver():
    receiver = Receiver()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, port
    server.stop(0)


def path_of(trace):
    """Role and span name, each with its depth below the root."""
    parents = {span.span_id: span.parent_span_id for _, span in trace}

    def depth(span_id):
        deep = 0
        while span_id := parents.get(span_id):
            deep += 1
        return deep

    ordered = sorted(trace, key=lambda item: item[1].start_time_unix_nano)
    return [(depth(span.span_id), service, span.name) for service, span in ordered]


def test_one_message_is_one_trace_across_the_tiers(receiver, tmp_path, capsys):
    spans, port = receiver
    cluster = Service(
        tmp_path, "cluster", "--dir", "local", "--base-port", "17500",
        "--set", f"trace.otlp_endpoint=http://127.0.0.1:{port}", "--set", "trace.sample_ratio=1.0",
    )  # fmt: skip
    try:
        import json

        until("the cluster to be ready", lambda: "ready" in cluster.output() and (tmp_path / "local/cluster.json").exists())
        nodes = json.loads((tmp_path / "local/cluster.json").read_text())
        urls = [address for address in find(nodes, "tcp")]
        assert len(urls) == 2, nodes
        config = ["--config", str(next(iter((tmp_path / "local").glob("router-*.toml"))))]
        for user in ("tina", "tom"):
            until(f"{user} to be made", lambda: cluster.run("user", "add", user, "--no-password", *config).returncode == 0)
        # What is pushed is part of the trace of its message; what somebody finds when they sign in is not.
        listening = cluster.start("listen", "tom", "--url", f"tcp://{urls[1]}", *config)
        cluster.ok("send", "tina", "tom", "are you there?", "--url", f"tcp://{urls[0]}", *config)
        until("tom to have read all that was there", lambda: "are you there?" in listening.stdout.readline())
        cluster.ok("send", "tina", "tom", "traced", "--url", f"tcp://{urls[0]}", *config)
        until("tom to read it", lambda: "traced" in listening.stdout.readline())
        listening.terminate()
        listening.wait(timeout=20)

        def whole():
            for trace in spans.traces():
                roles = {service for service, _ in trace}
                names = [span.name for _, span in trace]
                if len(roles) >= 3 and any("deliver" in name for name in names):
                    return trace
            return None

        trace = until("one trace over all tiers", whole)
        with capsys.disabled():
            print()
            for deep, service, name in path_of(trace):
                print(f"    {'  ' * deep}{service}: {name}")
        services = [service for _, service, _ in path_of(trace)]
        for role in ("carillon-gateway", "carillon-router", "carillon-storage"):
            assert role in services, services
    finally:
        cluster.stop()


def find(value, key):
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key and isinstance(inner, str):
                yield inner
            else:
                yield from find(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from find(inner, key)
