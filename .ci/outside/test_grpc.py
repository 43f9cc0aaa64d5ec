"""What tools and load balancers expect of any gRPC server, with the libraries that they use."""

import grpc
import native
import pytest
from conftest import Service, http, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ADDRESS = "127.0.0.1:7412"


@pytest.fixture
def channel(service):
    with grpc.insecure_channel(ADDRESS) as channel:
        yield channel


@pytest.mark.parametrize("name", ["", "carillon.client.v1.ClientService"])
def test_health(channel, name):
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_what_is_not_there(channel):
    with pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=10)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_tells_of_the_clients_service_and_of_no_internal_one(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"carillon.client.v1.ClientService", "grpc.health.v1.Health"} <= services
    assert not any(name.startswith("carillon.") and not name.startswith("carillon.client.") for name in services)
    file = database.FindFileContainingSymbol("carillon.client.v1.ClientService")
    assert [method.name for method in file.service[0].method] == ["Connect"]
    for internal in ("carillon.store.v1.Store", "carillon.link.v1.Router"):
        with pytest.raises((KeyError, grpc.RpcError)):
            database.FindFileContainingSymbol(internal)


def test_a_conversation_in_gzip(service, messages):
    token = service.ok("token", "py-gzip").splitlines()[-1].strip()
    me = native.Grpc(ADDRESS, *messages, compression=grpc.Compression.Gzip)
    assert native.sign_in_with_token(me, "python", token)["signedIn"]["user"] == "py-gzip"
    body = "again and again " * 3000
    me.send(native.text("1", "py-gzip", body))
    assert me.receive()["accepted"]["clientId"] == "1"
    me.send({"fetch": {"request": 1, "timeline": {"inbox": "py-gzip"}}})
    assert me.receive()["page"]["entries"][0]["envelope"]["content"]["text"]["body"] == body
    me.close()


def test_no_more_than_8_kib_is_taken_before_the_sign_in(service, messages):
    """Neither as sent nor decompressed."""
    large = {"signIn": {"device": "d", "token": "x" * 9000}}
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        connection = native.Grpc(ADDRESS, *messages, compression=compression)
        connection.send(large)
        assert connection.receive()["bye"]["code"] == "CODE_TOO_LARGE"
        connection.close()


def test_a_stopping_gateway_says_so_to_who_watches_its_health(tmp_path):
    """A process of its own, which the other tests do not need any more."""
    ports = {"admin.listen": 7500, "storage.listen": 7501, "router.listen": 7502, "gateway.tcp.listen": 7510,
             "gateway.ws.listen": 7511, "gateway.grpc.listen": 7512}  # fmt: skip
    addresses = {key: f"127.0.0.1:{port}" for key, port in ports.items()}
    settings = [f"--set={key}={address}" for key, address in addresses.items()]
    more = ['--set=router.storage=["127.0.0.1:7501"]', '--set=gateway.routers=["127.0.0.1:7502"]']
    service = Service(tmp_path, *settings, *more)
    until("ready", lambda: http("http://127.0.0.1:7500/readyz")[0] == 200 or service.process.poll() is not None)
    assert service.process.poll() is None, service.output()
    with grpc.insecure_channel("127.0.0.1:7512") as channel:
        statuses = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING
        service.process.terminate()
        assert next(statuses).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Who watches does not keep it from ending.
        assert service.process.wait(timeout=30) == 0, service.output()
