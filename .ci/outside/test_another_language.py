"""Clients in Python, written from docs/protocol.md, on each carrier, in one conversation."""

import socket

import native
import pytest


@pytest.fixture(params=["ws-json", "tcp", "grpc"])
def carrier(request, service, messages):
    return request.param


def open_connection(carrier, messages):
    if carrier == "ws-json":
        return native.WebSocketJson("127.0.0.1:7411")
    if carrier == "tcp":
        return native.Tcp("127.0.0.1:7410", messages[0])
    return native.Grpc("127.0.0.1:7412", *messages)


def token_for(service, user):
    return service.ok("token", user).splitlines()[-1].strip()


def test_a_conversation_across_carriers(service, messages, carrier):
    ours = f"py-{carrier}"
    me = open_connection(carrier, messages)
    signed_in = native.sign_in_with_token(me, "python", token_for(service, ours))["signedIn"]
    assert signed_in["user"] == ours and signed_in["handle"]
    peers = {}
    for other in ("ws-json", "tcp", "grpc"):
        peer = open_connection(other, messages)
        native.sign_in_with_token(peer, f"peer-{other}", token_for(service, f"{ours}-peer"))
        peers[other] = peer
    me.send(native.text("1", f"{ours}-peer", "to all your devices"))
    accepted = me.receive()["accepted"]
    assert accepted["clientId"] == "1" and accepted["position"]["seq"] == "1"
    for peer in peers.values():
        deliver = peer.receive()["deliver"]
        assert deliver["envelope"]["content"]["text"]["body"] == "to all your devices"
        assert deliver["envelope"]["sender"] == ours
        assert deliver["envelope"]["id"] == accepted["messageId"]
    me.send({"signOut": {}})
    assert me.receive()["bye"]["code"] == "CODE_SIGNED_OUT"
    for peer in peers.values():
        peer.close()


def test_sign_in_with_a_password(service, messages, carrier):
    user = f"pw-{carrier}"
    service.ok("user", "add", user, "--password-stdin", input="correct horse\n")
    right = open_connection(carrier, messages)
    assert native.sign_in_with_password(right, user, "d", "correct horse")["signedIn"]["user"] == user
    right.close()
    for wrong_user, password in ((user, "wrong horse"), ("no-such-user", "correct horse")):
        wrong = open_connection(carrier, messages)
        assert native.sign_in_with_password(wrong, wrong_user, "d", password)["bye"]["code"] == "CODE_UNAUTHENTICATED"
        wrong.close()


def test_raw_rubbish_is_answered_and_harms_nobody(service, messages):
    witness = open_connection("tcp", messages)
    native.sign_in_with_token(witness, "w", token_for(service, "witness"))
    for rubbish in (b"\xff" * 64, b"GET / HTTP/1.1\r\n" + b"x" * 80, native.varint(1 << 30), native.varint(9000) + b"x" * 9000):
        other = native.Tcp("127.0.0.1:7410", messages[0])
        other.socket.sendall(rubbish)
        bye = other.receive()["bye"]
        assert bye["code"] in ("CODE_INVALID", "CODE_TOO_LARGE"), bye
        with pytest.raises((ConnectionError, socket.timeout)):
            other.receive()
        other.close()
    witness.send({"ping": {"nonce": "7"}})
    assert witness.receive()["pong"]["nonce"] == "7"
    witness.close()
