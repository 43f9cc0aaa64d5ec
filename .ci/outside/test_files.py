"""Files of a cluster whose place for them speaks S3: uploads that break, and a place that is away."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import urllib.request

import native
import pytest
from conftest import Service, until

CHUNK = 4 << 20
SIZE = 2 * CHUNK + 1000
BYTES = bytes(at * 7 // 5 & 0xFF for at in range(251)) * (SIZE // 251 + 1)
BYTES = BYTES[:SIZE]


class Relay:
    """Between the gateways and the storage: the storage is away while it is closed."""

    def __init__(self, to):
        self.to = to
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = True
        self.sockets = set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            if not self.open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.to))
            self.sockets |= {client, server}
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self.pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def pass_on(one, other):
        try:
            while data := one.recv(1 << 16):
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.open = False
        for end in self.sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sockets.clear()


@pytest.fixture
def storage(tmp_path):
    """A server that speaks S3, behind a relay; the bucket is there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with open(tmp_path / "s3.log", "wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    relay = Relay(port)

    def made():
        request = urllib.request.Request(f"http://127.0.0.1:{port}/files", method="PUT")
        try:
            return urllib.request.urlopen(request, timeout=5).status == 200
        except OSError:
            return False

    until("the storage to have a bucket", made)
    yield relay
    server.kill()
    server.wait()


@pytest.fixture
def cluster(tmp_path, storage, monkeypatch):
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    (tmp_path / "key").write_text("an-id\na-secret\n")
    cluster = Service(
        tmp_path, "cluster", "--dir", "local", "--base-port", "17600",
        "--set", "media.place=s3://files/of/messages", "--set", f"media.endpoint=http://127.0.0.1:{storage.port}",
        "--set", "media.region=eu-central-1", "--set", f"media.credentials_file={tmp_path / 'key'}",
    )  # fmt: skip
    nodes = tmp_path / "local/cluster.json"
    until("the cluster to be ready", lambda: "ready" in cluster.output() and nodes.exists())
    cluster.config = ["--config", str(next(iter((tmp_path / "local").glob("router-*.toml"))))]
    cluster.ws = list(found(json.loads(nodes.read_text()), "ws"))
    assert len(cluster.ws) == 2
    yield cluster
    cluster.stop()


def found(value, key):
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key and isinstance(inner, str):
                yield inner.removeprefix("ws://").removesuffix("/ws")
            yield from found(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from found(inner, key)


def signed_in(cluster, user, at):
    until(f"{user} to be made", lambda: cluster.run("user", "add", user, "--no-password", *cluster.config).returncode == 0)
    me = native.WebSocketJson(cluster.ws[at])
    assert "media" in native.sign_in_with_token(me, "python", cluster.ok("token", user, *cluster.config))["signedIn"]["features"]
    return me


def answer(connection, name):
    while name not in (frame := connection.receive()):
        assert "refused" not in frame, frame
    return frame[name]


def slot(me, size):
    me.send({"requestMediaSlot": {"request": 1, "sizeBytes": size, "mediaType": "x/y", "name": "data.bin"}})
    return answer(me, "mediaSlot")


def ask(cluster, at, method, path, body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(cluster.ws[at], timeout=90)
    try:
        try:
            connection.request(method, path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            # It was answered before everything was sent.
            pass
        got = connection.getresponse()
        return got.status, got.headers, got.read()
    finally:
        connection.close()


def broken_off(cluster, at, path, sent):
    """An upload whose client goes away after these bytes."""
    host, port = cluster.ws[at].rsplit(":", 1)
    with socket.create_connection((host, int(port))) as stream:
        stream.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n".encode() + BYTES[:sent])


def test_an_upload_goes_on_at_the_other_gateway_and_the_place_may_be_away(cluster, storage):
    alice, bob = signed_in(cluster, "alice", 0), signed_in(cluster, "bob", 1)
    place = slot(alice, SIZE)
    url = place["url"]
    broken_off(cluster, 0, url, CHUNK + 5000)
    kept = until("the first chunk to be kept", lambda: int(ask(cluster, 1, "HEAD", url)[1]["Upload-Offset"]))
    assert kept == CHUNK

    storage.close()
    rest = {"Content_Range": f"bytes {kept}-{SIZE - 1}/{SIZE}"}
    status, headers, why = ask(cluster, 1, "PUT", url, BYTES[kept:], **rest)
    assert status == 503 and int(headers["Retry-After"]) > 0 and why.startswith(b"files can't be kept now"), (status, why)
    assert ask(cluster, 0, "HEAD", url)[0] == 503
    # Messages do not wait for the place of files.
    alice.send({"send": {"clientId": "m0", "to": {"user": "bob"}, "content": {"text": {"body": "still there"}}}})
    assert answer(bob, "deliver")["position"]["seq"] == "1"

    storage.open = True
    status, headers, told = until("the storage to be back", lambda: whole(ask(cluster, 1, "PUT", url, BYTES[kept:], **rest)))
    assert json.loads(told)["sizeBytes"] == str(SIZE)

    image = {"file": {"id": place["id"], "name": "data.bin", "sizeBytes": str(SIZE)}}
    alice.send({"send": {"clientId": "m1", "to": {"user": "bob"}, "content": image}})
    seq = answer(bob, "deliver")["position"]["seq"]
    bob.send({"requestMediaUrl": {"request": 2, "id": place["id"], "timeline": {"inbox": "bob"}, "seq": seq}})
    url = answer(bob, "mediaUrl")["url"]
    # Whatever gateway it is.
    for at in (0, 1):
        status, _, got = ask(cluster, at, "GET", url)
        assert status == 200 and got == BYTES
    status, headers, got = ask(cluster, 0, "GET", url, Range=f"bytes={CHUNK - 3}-{CHUNK + 2}")
    assert (status, got) == (206, BYTES[CHUNK - 3 : CHUNK + 3]), headers

    storage.close()
    status, headers, why = ask(cluster, 0, "GET", url)
    assert status == 503 and int(headers["Retry-After"]) > 0 and why.startswith(b"files can't be read now"), (status, why)
    storage.open = True
    until("what was accepted to be there again", lambda: again(cluster, url))


class Uploads(threading.Thread):
    """Files that go up at a gateway, one after another. Each goes on where it was when it breaks."""

    def __init__(self, cluster, me, at):
        super().__init__()
        self.cluster, self.me, self.at = cluster, me, at
        self.goes_on, self.whole, self.statuses, self.failed = True, [], set(), None

    def run(self):
        try:
            while self.goes_on:
                self.upload(slot(self.me, SIZE))
        except Exception as why:
            self.failed = why

    def upload(self, place):
        kept = 0
        while True:
            range_of = {"Content_Range": f"bytes {kept}-{SIZE - 1}/{SIZE}"} if kept < SIZE else {"Content_Range": f"bytes */{SIZE}"}
            try:
                status, _, _ = ask(self.cluster, self.at, "PUT", place["url"], BYTES[kept:], **range_of)
                self.statuses.add(status)
                if status == 201:
                    self.whole.append(place["id"])
                    return
                status, headers, _ = ask(self.cluster, self.at, "HEAD", place["url"])
                self.statuses.add(status)
            except (http.client.HTTPException, OSError):
                continue
            if status == 200:
                now = int(headers["Upload-Offset"])
                assert now >= kept, f"{kept} bytes were kept, and now {now}"
                kept = now


def test_under_load_the_place_may_be_away(cluster, storage):
    alice, bob = signed_in(cluster, "alice", 0), signed_in(cluster, "bob", 1)
    uploads = [Uploads(cluster, signed_in(cluster, name, at), at) for at, name in enumerate(("carol", "dave"))]
    sent = 0

    def message():
        nonlocal sent
        sent += 1
        alice.send({"send": {"clientId": f"m{sent}", "to": {"user": "bob"}, "content": {"text": {"body": str(sent)}}}})
        answer(alice, "accepted")
        assert answer(bob, "deliver")["position"]["seq"] == str(sent)

    for one in uploads:
        one.start()
    try:
        until("files to be uploaded", lambda: message() or all(len(one.whole) >= 2 for one in uploads))
        storage.close()
        until("uploads to be told so", lambda: message() or all(503 in one.statuses for one in uploads))
        assert all(not {500, 502, 504} & one.statuses for one in uploads), [one.statuses for one in uploads]
        before = [len(one.whole) for one in uploads]
        storage.open = True
        until(
            "uploads to go on", lambda: message() or all(len(one.whole) >= was + 2 for one, was in zip(uploads, before))
        )
    finally:
        storage.open = True
        for one in uploads:
            one.goes_on = False
        for one in uploads:
            one.join()
    for one in uploads:
        assert one.failed is None, one.failed
        for number, file in enumerate(one.whole):
            one.me.send({"requestMediaUrl": {"request": 2, "id": file}})
            url = answer(one.me, "mediaUrl")["url"]
            assert ask(cluster, 1 - one.at, "GET", url)[2] == BYTES, f"file {number}"


def whole(answered):
    return answered if answered[0] == 201 else None


def again(cluster, url):
    try:
        return ask(cluster, 0, "GET", url)[2] == BYTES
    except (http.client.HTTPException, OSError):
        return False
