"""XMPP over plain TCP: as much of a client as chat and its load take, and the rows of a server that speaks it."""

import base64
import contextlib
import re
import socket

from . import machine
from .load import Load

PASSWORD = "secret"
# Acknowledgements are asked for in groups, as clients do.
GROUP = 16
ACKNOWLEDGED = re.compile(rb"<a [^>]*?\bh=['\"](\d+)")
OPEN = (
    "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>"
)


class Session:
    """Signed in. With `acknowledged`, it counts the messages that the server has taken, by XEP-0198."""

    def __init__(self, port, name, resource="load", register=False, present=True, acknowledged=False):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unsent, self.recipients, self.acknowledged = bytearray(), [], 0 if acknowledged else None
        self.rest = b""
        self.ask(OPEN, "</stream:features>")
        if register:
            fields = f"<username>{name}</username><password>{PASSWORD}</password>"
            self.ask(f"<iq type='set' id='r'><query xmlns='jabber:iq:register'>{fields}</query></iq>", "<iq[^>]*result")
        plain = base64.b64encode(f"\0{name}\0{PASSWORD}".encode()).decode()
        self.ask(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>", "<success[^>]*>")
        self.ask(OPEN, "</stream:features>")
        bind = f"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource></bind>"
        self.ask(f"<iq type='set' id='b'>{bind}</iq>", "<iq[^>]*result.*</iq>")
        if present:
            self.ask("<presence/>", "<presence.*(/>|</presence>)")
        if acknowledged:
            # Last, as it counts all that comes after it.
            self.ask("<enable xmlns='urn:xmpp:sm:3'/>", "<enabled[^>]*>")

    def ask(self, text, wanted):
        self.socket.sendall(text.encode())
        answer = b""
        while not re.search(wanted.encode(), answer, re.DOTALL):
            data = self.socket.recv(65536)
            answer += data
            if not data or b"<failure" in answer or re.search(rb"<iq[^>]*error", answer):
                found = answer.decode(errors="replace") or "the end of the connection"
                raise SystemExit(f"{text} was answered by {found}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def write_to(self, names, text):
        self.recipients = [
            (f"<message to='{name}@localhost' type='chat' id='".encode(), f"'><body>{text}</body></message>".encode())
            for name in names
        ]

    def messages(self, first, count):
        parts = []
        for number in range(first, first + count):
            before, after = self.recipients[number % len(self.recipients)]
            parts += before, b"%d" % number, after
            due = (number - first + 1) % GROUP == 0 or number == first + count - 1
            if due and self.acknowledged is not None:
                parts.append(b"<r xmlns='urn:xmpp:sm:3'/>")
        return b"".join(parts)

    def read(self, data):
        if self.acknowledged is None:
            return data.count(b"~"), 0
        data = self.rest + data
        self.rest = data[data.rfind(b"<") :] if data.rfind(b"<") > data.rfind(b">") else b""
        known = self.acknowledged
        for found in ACKNOWLEDGED.findall(data):
            self.acknowledged = int(found)
        return 0, self.acknowledged - known


def rows(name, version, service, stored, options):
    """Of a server: both users online; the recipient away. `stored` says what it does with a message then."""
    row = {"server": f"{name}, both online", "version": version, "disk": "nothing: handed on from memory"}
    if options.idle:
        row["idle_bytes"] = idle_bytes(service, options.idle)
    with machine.folder() as folder, service(folder) as (process, port), contextlib.ExitStack() as sessions:
        pids = machine.family([process.pid])

        def session(*arguments, **more):
            return sessions.enter_context(Session(port, *arguments, **more))

        names = [f"user-{number}" for number in range(options.users)]
        users = [session(name, register=True) for name in names]
        for number, user in enumerate(users):
            user.write_to([names[(number + 1) % len(names)]], options.text)
        online = lambda **loop: Load(users, ["delivered"], pids).run(options.warm_up, options.seconds, **loop)
        row["full"] = online(window=options.window)
        row["open"] = online(rate=options.rate)
        yield row

        def away(part, **loop):
            absent = [f"away-{part}-{number}" for number in range(options.absent)]
            for one in absent:
                Session(port, one, register=True, present=False).close()
            senders = [session(f"sender-{part}-{n}", register=True, acknowledged=True) for n in range(options.senders)]
            for number, sender in enumerate(senders):
                sender.write_to(absent[number :: len(senders)], options.text)
            return Load(senders, ["accepted"], pids).run(0, None, limit=options.messages, **loop)

        full = away("full", window=options.window)
        paced = away("open", rate=options.rate)
        yield {"server": f"{name}, recipient away", "version": version, "disk": stored, "full": full, "open": paced}


def idle_bytes(service, count):
    """Memory for each connection that is signed in and does nothing, of a server that has had some before."""
    with machine.folder() as folder, service(folder) as (process, port), contextlib.ExitStack() as sessions:
        pids = machine.family([process.pid])
        for number in range(32):
            sessions.enter_context(Session(port, f"user-{number}", register=True))
        before = machine.resident_bytes(pids)
        for number in range(count):
            sessions.enter_context(Session(port, f"user-{number % 32}", f"idle-{number}", present=False))
        return (machine.resident_bytes(pids) - before) / count
