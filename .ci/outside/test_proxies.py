"""nginx and haproxy, as Debian has them, in front of the service, configured as docs/operations.md says."""

import pathlib
import re
import shutil
import subprocess

import native
import pytest
from conftest import ROOT, http, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PORTS = {"nginx": 7480, "haproxy": 7481}
STATS = 7482


def samples():
    """The configurations that the page shows."""
    page = (ROOT / "docs/operations.md").read_text()
    return {name: re.search(rf"```{name}\n(.*?)```", page, re.S).group(1) for name in PORTS}


def started(name, folder):
    program = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert program, f"{name} is not installed: apt-get install {name}"
    sample = samples()[name].replace("listen 443 ssl;", f"listen 127.0.0.1:{PORTS['nginx']};")
    sample = re.sub(r"\n *ssl_[^\n]*", "", sample)
    sample = re.sub(r"bind :443 [^\n]*", f"bind 127.0.0.1:{PORTS['haproxy']}", sample)
    config = folder / f"{name}.conf"
    if name == "nginx":
        config.write_text(
            f"pid {folder}/nginx.pid; error_log stderr; daemon off; master_process off;\n"
            f"events {{}}\nhttp {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};\n"
            f"fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n{sample} }}\n"
        )
        command = [program, "-c", config, "-e", "stderr"]
    else:
        stats = f"\nfrontend stats\n    bind 127.0.0.1:{STATS}\n    stats enable\n    stats uri /stats\n"
        timeouts = "defaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n"
        config.write_text(timeouts + sample + stats)
        command = [program, "-db", "-f", config]
    log = open(folder / f"{name}.log", "wb")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log), log.name


@pytest.fixture(scope="module", params=PORTS)
def proxy(request, service, tmp_path_factory):
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


def test_a_conversation_through_a_proxy(service, proxy):
    name, address = proxy
    token = service.ok("token", f"through-{name}").splitlines()[-1].strip()
    me = native.WebSocketJson(address)
    assert native.sign_in_with_token(me, "d", token)["signedIn"]["user"] == f"through-{name}"
    me.send(native.text("1", f"through-{name}", "hello"))
    assert me.receive()["accepted"]["clientId"] == "1"
    me.send({"signOut": {}})
    assert me.receive()["bye"]["code"] == "CODE_SIGNED_OUT"
    with pytest.raises(ConnectionClosed) as closed:
        me.receive()
    assert closed.value.rcvd.code == 1000


def test_refusals_come_through_a_proxy(proxy):
    _, address = proxy
    status, text = http(f"http://{address}/ws")
    # nginx asks for the upgrade only where the client did.
    assert status in (400, 426) and "WebSocket" in text
    assert http(f"http://{address}/elsewhere")[0] == 404
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{address}/ws", subprotocols=["chat"])
    assert refused.value.response.status_code == 400
    assert b"carillon.v1.json" in refused.value.response.body


def test_haproxy_sees_a_healthy_server(proxy):
    name, _ = proxy
    if name != "haproxy":
        pytest.skip("nginx (the free one) makes no health checks")
    until("checked", lambda: row()["check_status"] == "L7OK")
    assert row()["status"] == "UP" and row()["check_code"] == "200"


def row():
    table = http(f"http://127.0.0.1:{STATS}/stats;csv")[1].lstrip("# ").splitlines()
    keys = table[0].split(",")
    rows = (dict(zip(keys, line.split(","))) for line in table[1:])
    return next(row for row in rows if row["svname"] == "gateway1")

