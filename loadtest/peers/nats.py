"""NATS JetStream: three nodes, one stream with three replicas in files, publishes that wait for its answer."""

import contextlib
import json
import re
import shutil
import socket
import subprocess

from service.process import free_ports, running, until

from . import machine
from .load import Load

CONFIGURATION = """
server_name: {name}
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}", {sync} }}
cluster {{ name: peers, listen: "127.0.0.1:{route}", routes: {routes} }}
"""
STREAM = {"name": "texts", "subjects": ["to.*"], "num_replicas": 3, "storage": "file"}


class Client:
    """A user who writes to the subject of the next one, and is told at once what is published on its own."""

    def __init__(self, port, number=0, following=0, text=""):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unsent, self.answers = bytearray(), f"answers.{number}"
        self.message = f"PUB to.{following} {self.answers} {len(text)}\r\n{text}\r\n".encode()
        hello = 'CONNECT {"verbose":false,"pedantic":false}\r\n'
        self.ask(f"{hello}SUB to.{number} 1\r\nSUB {self.answers} 2\r\nPING\r\n", r"PONG\r\n")

    def ask(self, text, wanted):
        self.socket.sendall(text.encode())
        answer = b""
        while not (found := re.search(wanted.encode(), answer)):
            data = self.socket.recv(65536)
            answer += data
            if not data or b"-ERR" in answer:
                raise ConnectionError(answer.decode(errors="replace"))
        return found

    def messages(self, first, count):
        return self.message * count

    def read(self, data):
        if b"PING\r\n" in data:
            self.unsent += b"PONG\r\n"
        if b'"error"' in data or b"-ERR" in data:
            raise SystemExit(f"nats-server refused: {data.decode(errors='replace')}")
        # An answer is JSON with one closing brace, and no text has one.
        return data.count(b"~"), data.count(b"}")


def version():
    if not shutil.which("nats-server"):
        raise machine.Missing("apt-get install --no-install-recommends nats-server")
    found = subprocess.run(["nats-server", "--version"], capture_output=True, text=True, timeout=10)
    return found.stdout.rpartition("v")[2].strip()


@contextlib.contextmanager
def service(folder, sync):
    found = free_ports(6)
    ports, routes = found[:3], found[3:]
    with contextlib.ExitStack() as nodes:
        processes = []
        for number, (port, route) in enumerate(zip(ports, routes)):
            home = folder / f"node-{number}"
            home.mkdir()
            known = [f"nats://127.0.0.1:{other}" for other in routes]
            configuration = CONFIGURATION.format(
                name=home.name, port=port, route=route, routes=json.dumps(known), folder=home, sync=sync
            )
            (home / "nats.conf").write_text(configuration)
            processes.append(nodes.enter_context(running(["nats-server", "-c", home / "nats.conf"], home)))
        for port, process in zip(ports, processes):
            until(lambda: machine.listens(port), "nats-server", process)
        until(lambda: created(ports[0]), "the stream", *processes)
        yield ports, [process.pid for process in processes]


def created(port):
    body = json.dumps(STREAM)
    with contextlib.suppress(OSError):
        client = Client(port)
        with client.socket:
            client.socket.settimeout(5)
            request = f"PUB $JS.API.STREAM.CREATE.texts {client.answers} {len(body)}\r\n{body}\r\n"
            answer = client.ask(request, r"MSG answers\S* 2 (\d+)\r\n(.*)\r\n")[2]
            return b'"error"' not in answer


def rows(name, sync, disk, options):
    found = version()
    if sync and tuple(map(int, found.split(".")[:2])) < (2, 10):
        newer = "GOBIN=FOLDER go install github.com/nats-io/nats-server/v2@v2.10.29, and FOLDER in the PATH"
        raise machine.Missing(f"nats-server 2.10 or later ({found} can't sync each write): {newer}")
    row = {"server": name, "version": found, "disk": disk}
    if options.idle:
        row["idle_bytes"] = idle_bytes(sync, options.idle)
    with machine.folder() as folder, service(folder, sync) as (ports, pids), contextlib.ExitStack() as clients:
        count = options.users
        users = [Client(ports[n % 3], n, (n + 1) % count, options.text) for n in range(count)]
        for one in users:
            clients.callback(one.socket.close)
        run = lambda **loop: Load(users, ["accepted", "delivered"], pids).run(options.warm_up, options.seconds, **loop)
        row["full"] = run(window=options.window)
        row["open"] = run(rate=options.rate)
        yield row


def idle_bytes(sync, count):
    """Memory of all nodes for each connection that does nothing, after some others."""
    with machine.folder() as folder, service(folder, sync) as (ports, pids), contextlib.ExitStack() as clients:
        for number in range(32 + count):
            if number == 32:
                before = machine.resident_bytes(pids)
            clients.callback(Client(ports[number % 3], number).socket.close)
        return (machine.resident_bytes(pids) - before) / count
