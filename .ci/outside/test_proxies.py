"""nginx and haproxy, as Debian has them, in front of the service, configured as docs/operations.md says."""

import pathlib
import re
import shutil
import socket
import subprocess

import native
import pytest
from conftest import ROOT, Service, http, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PORTS = {"nginx": 7680, "haproxy": 7681}
NATIVE = 7682
STATS = 7683
# The service behind them has ports of its own.
LISTEN = {"admin": 7600, "storage": 7601, "router": 7602, "gateway.tcp": 7610, "gateway.ws": 7611, "gateway.grpc": 7612}
SETTINGS = {
    "router.storage": '["127.0.0.1:7601"]',
    "gateway.routers": '["127.0.0.1:7602"]',
    "gateway.tcp.proxy_protocol": "true",
    "gateway.proxies.trusted": '["127.0.0.1"]',
    "gateway.failed_sign_ins_burst": "3",
    "gateway.failed_sign_ins_per_minute": "1",
}


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    settings = [f"--set={key}.listen=127.0.0.1:{port}" for key, port in LISTEN.items()]
    settings += [f"--set={key}={value}" for key, value in SETTINGS.items()]
    service = Service(tmp_path_factory.mktemp("behind"), *settings)
    until("ready", lambda: http("http://127.0.0.1:7600/readyz")[0] == 200 or service.process.poll() is not None)
    assert service.process.poll() is None, service.output()
    yield service
    assert service.stop() == 0, service.output()


def sample(name):
    """The configuration that the page shows, with this test's ports and without certificates."""
    page = (ROOT / "docs/operations.md").read_text()
    text = re.search(rf"```{name}\n(.*?)```", page, re.S).group(1)
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{PORTS['nginx']};")
    text = re.sub(r"\n *ssl_[^\n]*", "", text)
    text = re.sub(r"bind :443 [^\n]*", f"bind 127.0.0.1:{PORTS['haproxy']}", text)
    text = text.replace("bind :7410", f"bind 127.0.0.1:{NATIVE}")
    return text.replace("127.0.0.1:7411", "127.0.0.1:7611").replace("127.0.0.1:7410", "127.0.0.1:7610")


def started(name, folder):
    program = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert program, f"{name} is not installed: apt-get install {name}"
    config = folder / f"{name}.conf"
    if name == "nginx":
        folders = "".join(f"{kind}_temp_path {folder};" for kind in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi"))
        config.write_text(
            f"pid {folder}/nginx.pid; error_log stderr; daemon off; master_process off;\n"
            f"events {{}}\nhttp {{ access_log off; {folders}\n{sample(name)} }}\n"
        )
        command = [program, "-c", config, "-e", "stderr"]
    else:
        stats = f"\nfrontend stats\n    bind 127.0.0.1:{STATS}\n    stats enable\n    stats uri /stats\n"
        timeouts = "defaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n"
        config.write_text(timeouts + sample(name) + stats)
        command = [program, "-db", "-f", config]
    log = open(folder / f"{name}.log", "wb")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log), log.name


@pytest.fixture(scope="module", params=PORTS)
def proxy(request, behind, tmp_path_factory):
    process, log = started(request.param, tmp_path_factory.mktemp(request.param))
    address = f"127.0.0.1:{PORTS[request.param]}"
    answers = lambda: http(f"http://{address}/healthz")[0] == 200 or process.poll() is not None  # noqa: E731
    try:
        until(f"{request.param} passes the health check on", answers)
        assert process.poll() is None, pathlib.Path(log).read_text()
        yield request.param, address
    finally:
        process.terminate()
        process.wait(timeout=30)


def token_for(behind, user):
    return behind.ok("token", user).splitlines()[-1].strip()


def test_a_conversation_through_a_proxy(behind, proxy):
    name, address = proxy
    user = f"through-{name}"
    me = native.WebSocketJson(address)
    assert native.sign_in_with_token(me, "d", token_for(behind, user))["signedIn"]["user"] == user
    me.send(native.text("1", user, "hello"))
    assert me.receive()["accepted"]["clientId"] == "1"
    me.send({"signOut": {}})
    assert me.receive()["bye"]["code"] == "CODE_SIGNED_OUT"
    with pytest.raises(ConnectionClosed) as closed:
        me.receive()
    assert closed.value.rcvd.code == 1000


def test_refusals_come_through_a_proxy(proxy):
    _, address = proxy
    status, text = http(f"http://{address}/ws")
    assert status == 426 and "WebSocket" in text
    assert http(f"http://{address}/elsewhere")[0] == 404
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{address}/ws", subprotocols=["chat"])
    assert refused.value.response.status_code == 400
    assert b"carillon.v1.json" in refused.value.response.body


def test_the_real_address_is_seen_through_a_proxy(behind, proxy):
    """Failures are counted by address: one client's do not lock out another one behind the same proxy."""
    name, address = proxy
    bad, good = ("127.0.1.1", "127.0.1.2") if name == "nginx" else ("127.0.1.3", "127.0.1.4")

    def tried(source, token, **headers):
        raw = socket.create_connection(address.split(":"), source_address=(source, 0))
        with connect(f"ws://{address}/ws", sock=raw, subprotocols=["carillon.v1.json"], **headers) as ws:
            me = native.WebSocketJson.__new__(native.WebSocketJson)
            me.socket = ws
            answer = native.sign_in_with_token(me, "d", token)
            return answer["bye"]["code"] if "bye" in answer else next(iter(answer))

    # What the client itself says of its address is not believed.
    lies = {"additional_headers": {"X-Forwarded-For": "203.0.113.77"}}
    heard = [tried(bad, "x.y.z", **lies) for _ in range(5)]
    assert heard[0] == "CODE_UNAUTHENTICATED" and heard[-1] == "CODE_RATE_LIMITED", heard
    assert tried(good, "x.y.z") == "CODE_UNAUTHENTICATED"
    assert tried(good, token_for(behind, f"seen-{name}")) == "signedIn"


def test_the_real_address_is_seen_over_tcp(behind, proxy, messages):
    name, _ = proxy
    if name != "haproxy":
        pytest.skip("only haproxy is set up for TCP")

    def tried(source, token):
        me = native.Tcp(f"127.0.0.1:{NATIVE}", messages[0])
        me.socket.close()
        me.socket = socket.create_connection(("127.0.0.1", NATIVE), timeout=10, source_address=(source, 0))
        answer = native.sign_in_with_token(me, "d", token)
        me.close()
        return answer["bye"]["code"] if "bye" in answer else next(iter(answer))

    heard = [tried("127.0.1.5", "x.y.z") for _ in range(5)]
    assert heard[0] == "CODE_UNAUTHENTICATED" and heard[-1] == "CODE_RATE_LIMITED", heard
    assert tried("127.0.1.6", token_for(behind, "seen-tcp")) == "signedIn"


def test_haproxy_sees_a_healthy_server(proxy):
    name, _ = proxy
    if name != "haproxy":
        pytest.skip("nginx (the free one) makes no health checks")
    for backend, status in (("gateways", "L7OK"), ("native_gateways", "L4OK")):
        until(f"{backend} is checked", lambda: row(backend)["check_status"] == status)
        assert row(backend)["status"] == "UP"


def row(backend):
    table = http(f"http://127.0.0.1:{STATS}/stats;csv")[1].lstrip("# ").splitlines()
    keys = table[0].split(",")
    rows = (dict(zip(keys, line.split(","))) for line in table[1:])
    return next(row for row in rows if (row["pxname"], row["svname"]) == (backend, "gateway1"))
