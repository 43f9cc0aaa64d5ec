"""A client in another language, written from docs/protocol.md: frames as JSON over WebSocket, as protobuf over TCP and
as messages on a gRPC stream. It shows that the page is enough, and it is what the outside tests talk with."""

import base64
import hashlib
import hmac
import json
import queue
import secrets
import socket
import threading

import grpc
from google.protobuf import json_format
from websockets.sync.client import connect


class WebSocketJson:
    def __init__(self, address):
        self.socket = connect(f"ws://{address}/ws", subprotocols=["carillon.v1.json"])

    def send(self, frame):
        self.socket.send(json.dumps(frame))

    def receive(self, timeout=10):
        return json.loads(self.socket.recv(timeout=timeout))

    def close(self):
        self.socket.close()


class Tcp:
    """Each frame is preceded by its length as a varint."""

    def __init__(self, address, messages):
        host, port = address.rsplit(":", 1)
        self.messages = messages
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def send(self, frame):
        body = json_format.ParseDict(frame, self.messages.ClientFrame()).SerializeToString()
        self.socket.sendall(varint(len(body)) + body)

    def receive(self, timeout=10):
        self.socket.settimeout(timeout)
        length = shift = 0
        while True:
            (byte,) = self.exactly(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        return json_format.MessageToDict(self.messages.ServerFrame.FromString(self.exactly(length)))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data

    def close(self):
        self.socket.close()


class Grpc:
    def __init__(self, address, messages, services, compression=None):
        self.messages = messages
        self.channel = grpc.insecure_channel(address, compression=compression)
        self.outgoing = queue.Queue()
        self.incoming = queue.Queue()
        stream = services.ClientServiceStub(self.channel).Connect(iter(self.outgoing.get, None))

        def read():
            try:
                for frame in stream:
                    self.incoming.put(json_format.MessageToDict(frame))
            except grpc.RpcError as error:
                self.incoming.put(error)

        threading.Thread(target=read, daemon=True).start()

    def send(self, frame):
        self.outgoing.put(json_format.ParseDict(frame, self.messages.ClientFrame()))

    def receive(self, timeout=10):
        frame = self.incoming.get(timeout=timeout)
        if isinstance(frame, Exception):
            raise frame
        return frame

    def close(self):
        self.outgoing.put(None)
        self.channel.close()


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def sign_in_with_token(connection, device, token):
    connection.send({"signIn": {"device": device, "token": token}})
    return connection.receive()


def sign_in_with_password(connection, user, device, password):
    """SCRAM-SHA-256, RFC 5802 and RFC 7677."""
    first_bare = f"n={user},r={secrets.token_hex(12)}"
    connection.send({"signIn": {"user": user, "device": device, "scramFirst": b64("n,," + first_bare)}})
    answer = connection.receive()
    if "challenge" not in answer:
        return answer
    server_first = base64.b64decode(answer["challenge"]["scramServerFirst"]).decode()
    fields = dict(part.split("=", 1) for part in server_first.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    client_key = digest(salted, b"Client Key")
    without_proof = f"c=biws,r={fields['r']}"
    message = f"{first_bare},{server_first},{without_proof}".encode()
    signature = digest(hashlib.sha256(client_key).digest(), message)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
    connection.send({"scramFinal": {"message": b64(f"{without_proof},p={proof}")}})
    answer = connection.receive()
    if "signedIn" in answer:
        server_signature = base64.b64encode(digest(digest(salted, b"Server Key"), message)).decode()
        assert base64.b64decode(answer["signedIn"]["scramServerFinal"]).decode() == f"v={server_signature}"
    return answer


def digest(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def b64(text):
    return base64.b64encode(text.encode()).decode()


def text(client_id, user, body):
    return {"send": {"clientId": client_id, "to": {"user": user}, "content": {"text": {"body": body}}}}
