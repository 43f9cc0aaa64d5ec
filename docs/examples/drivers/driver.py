#!/usr/bin/env python3
"""A client of the native protocol, and its driver for `carillon conformance`: JSON on a WebSocket, with nothing but Python's
standard library. Written from docs/protocol.md and docs/examples/README.md.

    carillon conformance --client 'python3 docs/examples/drivers/driver.py'
"""

import base64
import hashlib
import hmac
import json
import os
import random
import secrets
import select
import socket
import struct
import sys
import time
import urllib.parse
import urllib.request

CAN = [
    "pipelining", "restart", "outbox", "tickets", "password", "renewal", "history", "edits", "expiring", "typing",
    "presence", "contacts", "conversations", "privacy", "scheduled", "files",
]  # fmt: skip


class Lost(Exception):
    """The connection is of no more use."""


class WebSocket:
    """RFC 6455, as far as a client needs it: text messages without extensions."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        head = [
            f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: carillon.v1.json",
        ]  # fmt: skip
        self.socket.sendall("\r\n".join([*head, "", ""]).encode())
        self.bytes = b""
        while b"\r\n\r\n" not in self.bytes:
            self.fill()
        answer, self.bytes = self.bytes.split(b"\r\n\r\n", 1)
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise Lost(answer.split(b"\r\n")[0].decode())

    def fill(self):
        try:
            more = self.socket.recv(65536)
        except OSError as error:
            raise Lost(str(error)) from error
        if not more:
            raise Lost("the gateway has closed the connection")
        self.bytes += more

    def send(self, payload, opcode=1):
        mask = secrets.token_bytes(4)
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        try:
            self.socket.sendall(head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))
        except OSError as error:
            raise Lost(str(error)) from error

    def messages(self):
        """The text messages that have come whole. Call it when the socket can be read."""
        self.fill()
        while len(self.bytes) >= 2:
            opcode, length = self.bytes[0] & 0x0F, self.bytes[1] & 0x7F
            start = 2
            if length == 126:
                start, length = 4, int.from_bytes(self.bytes[2:4], "big")
            elif length == 127:
                start, length = 10, int.from_bytes(self.bytes[2:10], "big")
            if len(self.bytes) < start + length:
                return
            payload, self.bytes = self.bytes[start : start + length], self.bytes[start + length :]
            if opcode == 1:
                yield payload.decode()
            elif opcode == 8:
                raise Lost("the gateway has closed the WebSocket")
            elif opcode == 9:
                self.send(payload, opcode=10)


class Driver:
    """One user on one device. Everything happens in `run`, one thing after the other."""

    def __init__(self):
        self.socket = None
        self.signed_in = False
        # What the user does waits for the first connection.
        self.waiting = []
        self.was_signed_in = False
        self.ended = False
        self.features = []
        self.window = 1
        self.heartbeat = None
        # By the numbers of requests: who takes the answer.
        self.requests = {}
        self.next_request = 1
        self.instance, self.attempt = str(secrets.randbits(63) + 1), 0
        self.ticket = None
        self.ticket_given = False
        self.connect_at = 0
        self.failures = 0
        self.last_sent = 0
        self.typing = {}
        self.shows = None
        self.conversations = None
        self.contacts = None
        self.privacy = None
        self.presences = {}
        self.scheduled = {}
        self.new_token = None
        self.start = None
        self.stopped = False

    # ---- The user -------------------------------------------------------------------------------------------

    def show(self, **line):
        print(json.dumps(line), flush=True)

    def do(self, line):
        what = line["do"]
        if what == "start":
            self.start = line
            self.file = os.path.join(line["folder"], "kept.json")
            self.kept = {"epoch": "0", "seq": 0, "messages": [], "outbox": [], "written": 0}
            if os.path.exists(self.file):
                self.kept = json.load(open(self.file))
            for message in self.kept["outbox"]:
                message.update(sent=False, at=0)
            self.show(shown="ready", driver="python", can=CAN)
        elif what == "send":
            self.kept["written"] += 1
            message = {"id": self.new_id(), "to": line["to"], "text": line["text"], "as": line["as"], "sent": False, "at": 0}
            self.kept["outbox"].append(message)
            self.save()
        elif what == "messages":
            self.show(shown="messages", texts=[m["text"] for m in self.kept["messages"] if not m["recalled"]])
        elif what == "history":
            fetch = {"timeline": self.inbox(), "direction": "DIRECTION_BACKWARD", "limit": 50}
            self.ask("fetch", fetch, self.on_page)
        elif what == "conversations":
            self.read_conversations()
        elif what == "contacts":
            self.ask("readContacts", {}, self.on_contacts)
        elif what == "privacy":
            self.ask("readPrivacy", {}, self.on_privacy)
        elif what == "presence":
            self.shows = line["show"]
            self.ask("setPresence", {"show": self.shows})
        elif what == "typing":
            if "chat-states" in self.features:
                self.ask("setChatState", {"to": line["to"], "state": "CHAT_STATE_COMPOSING"})
        elif what == "schedule":
            self.kept["written"] += 1
            content = {"text": {"body": line["text"]}}
            schedule = {"clientId": self.new_id(), "to": {"user": line["to"]}, "content": content, "atMs": str(line["at_ms"])}
            self.scheduled[line["as"]] = schedule
            self.save()
            self.schedule(line["as"])
        elif what == "renew":
            self.new_token = line["token"]
            self.ask("renew", {"token": self.new_token}, self.on_renewed)
        elif what == "download":
            message = next(m for m in self.kept["messages"] if m["id"] == line["id"])
            ask = {"id": message["file"], "timeline": self.inbox(), "seq": str(message["seq"])}
            self.ask("requestMediaUrl", ask, lambda answer: self.download(message["id"], answer["mediaUrl"]["url"]))
        elif what == "echo":
            self.show(shown="echo", number=line["number"])
        elif what == "stop":
            self.send({"signOut": {}})
            self.ended = self.stopped = True

    def new_id(self):
        return f"{self.start['device']}-{self.kept['written']}"

    def save(self):
        """Returns when it is on the disk."""
        with open(self.file + ".new", "w") as file:
            json.dump(self.kept, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(self.file + ".new", self.file)

    def inbox(self):
        return {"inbox": self.start["user"]}

    # ---- Connections ----------------------------------------------------------------------------------------

    def connect(self):
        try:
            self.socket = WebSocket(self.start["ws"])
            self.attempt += 1
            self.sign_in()
        except (Lost, OSError):
            self.lost()

    def sign_in(self):
        request = {"device": self.start["device"], "instance": self.instance, "attempt": self.attempt, "client": "python-driver"}
        if self.kept["epoch"] != "0":
            position = {"epoch": self.kept["epoch"], "seq": str(self.kept["seq"])}
            request["positions"] = [{"timeline": self.inbox(), "position": position}]
        self.ticket_given = self.ticket is not None
        if self.ticket_given:
            request["ticket"] = self.ticket
        elif "token" in self.start:
            request["token"] = self.start["token"]
        else:
            self.scram_first = f"n={self.start['user']},r={secrets.token_hex(12)}"
            request["user"] = self.start["user"]
            request["scramFirst"] = base64.b64encode(f"n,,{self.scram_first}".encode()).decode()
        self.send({"signIn": request})

    def on_challenge(self, challenge):
        """SCRAM-SHA-256, RFC 5802 and RFC 7677."""
        server_first = base64.b64decode(challenge["scramServerFirst"]).decode()
        fields = dict(part.split("=", 1) for part in server_first.split(","))
        salt, password = base64.b64decode(fields["s"]), self.start["password"].encode()
        salted = hashlib.pbkdf2_hmac("sha256", password, salt, int(fields["i"]))
        client_key = digest(salted, b"Client Key")
        without_proof = f"c=biws,r={fields['r']}"
        message = f"{self.scram_first},{server_first},{without_proof}".encode()
        signature = digest(hashlib.sha256(client_key).digest(), message)
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
        self.scram_signature = base64.b64encode(digest(digest(salted, b"Server Key"), message)).decode()
        self.send({"scramFinal": {"message": base64.b64encode(f"{without_proof},p={proof}".encode()).decode()}})

    def on_signed_in(self, signed_in):
        if "token" not in self.start and not self.ticket_given:
            final = base64.b64decode(signed_in.get("scramServerFinal", "")).decode()
            if not self.trusts(final):
                return self.end("the service does not know the password")
        self.signed_in = self.was_signed_in = True
        self.failures = 0
        self.ticket = signed_in.get("ticket")
        self.features = signed_in.get("features", [])
        self.window = signed_in.get("limits", {}).get("maxPendingSends", 1)
        self.heartbeat = signed_in.get("heartbeatMs", 45000) / 1000 * 0.8
        for state in signed_in.get("timelines", []):
            if state.get("timeline") == self.inbox():
                self.begins(state.get("epoch", "0"), int(state.get("deliveredFrom", "0")))
        if self.conversations is not None:
            self.read_conversations()
        if self.contacts is not None:
            self.ask("readContacts", {"version": self.contacts}, self.on_contacts)
        if self.privacy is not None:
            self.ask("readPrivacy", {}, self.on_privacy)
        if self.shows is not None:
            self.ask("setPresence", {"show": self.shows})
        for label in self.scheduled:
            self.schedule(label)

    def trusts(self, final):
        return hmac.compare_digest(final, f"v={self.scram_signature}")

    def begins(self, epoch, seq):
        """The gateway says where delivery of the inbox begins."""
        known = self.kept["epoch"]
        if epoch == known and self.kept["seq"] >= seq:
            return
        self.kept.update(epoch=epoch, seq=seq)
        if known not in ("0", epoch):
            self.kept["messages"] = []
            self.show(shown="emptied")
        self.save()

    def send(self, frame):
        if self.socket is not None:
            self.socket.send(json.dumps(frame).encode())
            self.last_sent = time.monotonic()

    def lost(self, after=None):
        if self.socket is not None:
            self.socket.socket.close()
        self.socket, self.signed_in, self.requests = None, False, {}
        for message in self.kept["outbox"]:
            message.update(sent=False, at=0)
        pause = random.uniform(0.5, 1) * min(0.05 * 2**self.failures, 30)
        self.failures += 1
        self.connect_at = time.monotonic() + (pause if after is None else after)

    def end(self, why):
        self.show(shown="ended", why=why)
        self.lost()
        self.ended = True

    def on_bye(self, bye):
        if self.ticket_given and not self.signed_in and not bye.get("reconnect"):
            # Not the credential was refused.
            self.ticket = None
            self.lost(after=0)
        elif bye.get("reconnect"):
            self.lost(after=bye.get("reconnectAfterMs", 0) / 1000)
        else:
            self.end(bye.get("code", "CODE_UNSPECIFIED"))

    # ---- Sending --------------------------------------------------------------------------------------------

    def pump(self):
        """Sends what may go, in order."""
        if not self.signed_in or self.ended:
            return
        now, flying = time.monotonic(), [m for m in self.kept["outbox"] if m["sent"]]
        for message in self.kept["outbox"]:
            if message["sent"]:
                continue
            if message["at"] > now or len(flying) >= self.window:
                return
            before = [m["id"] for m in flying if m["to"] == message["to"]]
            message["sent"] = True
            self.send_message(message, before[-1] if before else "")
            flying.append(message)

    def send_message(self, message, after):
        frame = {"clientId": message["id"], "to": {"user": message["to"]}, "content": {"text": {"body": message["text"]}}}
        if after:
            frame["after"] = after
        self.send({"send": frame})

    def outgoing(self, client_id):
        return next((m for m in self.kept["outbox"] if m["id"] == client_id), None)

    def on_accepted(self, accepted):
        message = self.outgoing(accepted["clientId"])
        position = accepted["position"]
        if message is not None:
            self.kept["outbox"].remove(message)
        if self.is_next(position):
            content = {"text": {"body": message["text"] if message is not None else ""}}
            self.keep(int(position["seq"]), {"id": accepted["messageId"], "content": content})
            self.has(position)
        else:
            self.save()
        if message is not None:
            self.show(**{"shown": "sent", "as": message["as"], "id": accepted["messageId"]})

    def on_refused(self, refused):
        if "clientId" in refused:
            message = self.outgoing(refused["clientId"])
            if message is None:
                return
            if refused.get("retry"):
                message.update(sent=False, at=time.monotonic() + refused.get("retryAfterMs", 0) / 1000)
            else:
                self.kept["outbox"].remove(message)
                self.save()
                self.show(**{"shown": "failed", "as": message["as"], "code": refused.get("code")})
        elif "request" in refused:
            self.requests.pop(refused["request"], None)
        else:
            # The ticket was not taken. The credential goes on the same connection.
            self.ticket = None
            self.sign_in()

    # ---- Timelines ------------------------------------------------------------------------------------------

    def is_next(self, position):
        created = self.kept["epoch"] == "0"
        return int(position["seq"]) == self.kept["seq"] + 1 and (created or position["epoch"] == self.kept["epoch"])

    def has(self, position):
        """The device has everything up to this position; it says so when that is on its disk."""
        self.kept.update(epoch=position["epoch"], seq=int(position["seq"]))
        self.save()
        acknowledged = {"epoch": position["epoch"], "seq": position["seq"]}
        self.send({"ack": {"timeline": self.inbox(), "position": acknowledged}})

    def keep(self, seq, envelope):
        content = envelope.get("content", {})
        file = next((content[kind] for kind in ("image", "audio", "video", "file") if kind in content), {})
        message = {
            "seq": seq, "id": envelope["id"], "text": content.get("text", {}).get("body", ""), "edit": None, "recalled": False,
            "expires": 0 if envelope.get("erased") else int(envelope.get("expiresAtMs", "0")), "file": file.get("id"),
        }  # fmt: skip
        self.kept["messages"].append(message)
        self.kept["messages"].sort(key=lambda message: message["seq"])
        return message

    def on_deliver(self, deliver):
        position, envelope = deliver["position"], deliver["envelope"]
        if not self.is_next(position):
            known = position["epoch"] == self.kept["epoch"] and int(position["seq"]) <= self.kept["seq"]
            if not known:
                raise Lost("positions are missing")
            return
        content = envelope.get("content", {})
        line = None
        if "edit" in content:
            line = self.edit(envelope, content["edit"])
        elif "recall" in content:
            message = self.about(content["recall"])
            if message is not None:
                message.update(recalled=True, text="")
                line = {"shown": "recalled", "id": message["id"]}
        elif "change" not in envelope and not {"reaction", "pin", "vote"} & content.keys():
            message = self.keep(int(position["seq"]), envelope)
            erased = envelope.get("erased", False)
            line = {"shown": "message", "id": message["id"], "from": envelope["sender"], "text": message["text"], "erased": erased}
        self.has(position)
        if line is not None:
            self.show(**line)
        self.typed(envelope["sender"])

    def about(self, content):
        target = content.get("target", {}).get("id")
        return next((m for m in self.kept["messages"] if m["id"] == target), None)

    def edit(self, envelope, edit):
        """Of two edits the later one counts, and none after a recall."""
        message, this = self.about(edit), [int(envelope["timeMs"]), envelope["id"]]
        if message is None or message["recalled"] or (message["edit"] is not None and message["edit"] >= this):
            return None
        message.update(edit=this, text=edit["content"].get("text", {}).get("body", ""))
        return {"shown": "changed", "id": message["id"], "text": message["text"]}

    def on_trimmed(self, trimmed):
        first = trimmed["first"]
        self.begins(first["epoch"], int(first["seq"]) - 1)

    def on_page(self, answer):
        texts, known = [], {message["seq"] for message in self.kept["messages"]}
        for entry in sorted(answer["page"].get("entries", []), key=lambda entry: int(entry["seq"])):
            if int(entry["seq"]) not in known:
                texts.append(self.keep(int(entry["seq"]), entry["envelope"])["text"])
        self.save()
        self.show(shown="history", texts=texts)

    # ---- Requests -------------------------------------------------------------------------------------------

    def ask(self, kind, request, answered=None):
        number, self.next_request = self.next_request, self.next_request + 1
        self.requests[number] = answered
        self.send({kind: {"request": number, **request}})

    def schedule(self, label):
        def answered(_):
            del self.scheduled[label]
            self.show(**{"shown": "scheduled", "as": label})

        self.ask("schedule", self.scheduled[label], answered)

    def read_conversations(self):
        epoch, version = self.conversations or ("0", "0")
        self.conversations = (epoch, version)
        self.ask("readConversations", {"epoch": epoch, "since": version}, self.on_conversations_read)

    def on_conversations_read(self, answer):
        read = answer["conversations"]
        self.conversations = (read.get("epoch", "0"), read.get("version", "0"))

    def on_conversations(self, news):
        if self.conversations is None:
            return
        epoch, version = self.conversations
        if news.get("epoch") == epoch and int(news.get("before", "0")) <= int(version):
            self.conversations = (epoch, news["version"])
        else:
            self.read_conversations()

    def on_contacts(self, answer):
        self.contacts = answer["contacts"].get("version", "0")

    def on_contact_news(self, news):
        if self.contacts is None or int(news["version"]) <= int(self.contacts):
            return
        if news.get("before", "0") == self.contacts:
            self.contacts = news["version"]
        else:
            self.ask("readContacts", {}, self.on_contacts)

    def on_privacy(self, answer):
        self.privacy = answer["privacy"].get("version", "0")

    def on_privacy_news(self, news):
        if self.privacy is None or int(news["version"]) <= int(self.privacy):
            return
        if news.get("before", "0") == self.privacy:
            self.privacy = news["version"]
        else:
            self.ask("readPrivacy", {}, self.on_privacy)

    def on_presences(self, told):
        for presence in told["presences"]:
            who, this = presence["user"], (int(presence.get("era", "0")), int(presence.get("number", "0")))
            if this >= self.presences.get(who, (0, 0)):
                self.presences[who] = this
                self.show(shown="presence", who=who, show=presence.get("show", "SHOW_UNSPECIFIED"))

    def on_chat_state(self, notice):
        if notice.get("state") == "CHAT_STATE_COMPOSING":
            self.typing[notice["from"]] = time.monotonic() + 10
            self.show(shown="typing", who=notice["from"], state=notice["state"])
        else:
            self.typed(notice["from"])

    def typed(self, who):
        if self.typing.pop(who, None) is not None:
            self.show(shown="typing", who=who, state="")

    def on_renewed(self, answer):
        self.start["token"] = self.new_token
        self.ticket = answer["renewed"].get("ticket")

    def download(self, message, url):
        whole = urllib.parse.urljoin(self.start["ws"].replace("ws", "http", 1), url)
        with urllib.request.urlopen(whole, timeout=5) as answer:
            self.show(shown="file", id=message, bytes=len(answer.read()))

    # ---- The loop -------------------------------------------------------------------------------------------

    def take(self, frame):
        if self.ended:
            # After SignOut, and after the end.
            if "bye" in frame:
                self.lost()
            return
        handlers = {
            "challenge": self.on_challenge, "signedIn": self.on_signed_in, "accepted": self.on_accepted,
            "refused": self.on_refused, "deliver": self.on_deliver, "trimmed": self.on_trimmed, "bye": self.on_bye,
            "chatState": self.on_chat_state, "presences": self.on_presences, "contactNews": self.on_contact_news,
            "privacyNews": self.on_privacy_news,
        }  # fmt: skip
        # A kind that is not known is of a later release.
        for kind, body in frame.items():
            if kind in handlers:
                handlers[kind](body)
            elif isinstance(body, dict) and body.get("request", 0) in self.requests:
                answered = self.requests.pop(body["request"])
                if answered is not None:
                    answered(frame)
            elif kind == "conversations":
                self.on_conversations(body)

    def time_passes(self):
        now, now_ms = time.monotonic(), time.time() * 1000
        for who in [who for who, until in self.typing.items() if until <= now]:
            self.typed(who)
        for message in [m for m in self.kept["messages"] if 0 < m["expires"] <= now_ms]:
            self.kept["messages"].remove(message)
            self.save()
            self.show(shown="gone", id=message["id"])
        if self.signed_in and not self.ended and now - self.last_sent >= self.heartbeat:
            self.send({"ping": {"nonce": "1"}})
        self.pump()

    def run(self):
        lines = b""
        while True:
            if self.stopped and self.socket is None:
                return
            if self.start is not None and self.socket is None and not self.ended and time.monotonic() >= self.connect_at:
                self.connect()
            readable = [sys.stdin] + ([self.socket.socket] if self.socket is not None else [])
            readable, _, _ = select.select(readable, [], [], 0.02)
            try:
                if sys.stdin in readable:
                    more = os.read(sys.stdin.fileno(), 65536)
                    if not more:
                        return
                    *whole, lines = (lines + more).split(b"\n")
                    self.waiting += [json.loads(line) for line in whole]
                if self.socket is not None and self.socket.socket in readable:
                    for message in self.socket.messages():
                        self.take(json.loads(message))
                        if self.socket is None:
                            break
                while self.waiting and (self.was_signed_in or self.ended or self.waiting[0]["do"] == "start"):
                    self.do(self.waiting.pop(0))
                if self.start is not None:
                    self.time_passes()
            except Lost:
                self.lost()


def digest(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


if __name__ == "__main__":
    Driver().run()
