"""Sign-ins that are bound to the certificate of the TLS connection, by a client of a few lines: the ssl of Python 3.11 has no `tls-exporter`, so
that clients in Python bind nothing with TLS 1.3."""

import base64
import hashlib
import hmac
import re
import socket
import ssl

import pytest
from conftest import DOMAIN, STARTTLS, TLS, USERS

HEADER = (
    f"<?xml version='1.0'?><stream:stream to='{DOMAIN}' version='1.0' xmlns='jabber:client' "
    "xmlns:stream='http://etherx.jabber.org/streams'>"
)
SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"


class Stream:
    def __init__(self, port):
        self.io = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.got = ""

    def secure(self, place):
        context = ssl.create_default_context(cafile=place.certificate)
        self.io = context.wrap_socket(self.io, server_hostname=DOMAIN)

    def says(self, text):
        self.io.sendall(text.encode())

    def hears(self, pattern):
        while not (found := re.search(pattern, self.got, re.S)):
            more = self.io.recv(4096)
            assert more, f"{pattern} was not heard, but {self.got}"
            self.got += more.decode()
        self.got = self.got[found.end() :]
        return found


def scram(stream, password, binding):
    gs2, bare, nonce = "p=tls-server-end-point,,", "n=juliet,r=abcdefgh", "abcdefgh"
    first = base64.b64encode((gs2 + bare).encode()).decode()
    stream.says(f"<auth {SASL} mechanism='SCRAM-SHA-256-PLUS'>{first}</auth>")
    challenge = base64.b64decode(stream.hears("<challenge [^>]*>([^<]*)</challenge>")[1]).decode()
    fields = dict(field.split("=", 1) for field in challenge.split(","))
    assert fields["r"].startswith(nonce)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = f"c={base64.b64encode(gs2.encode() + binding).decode()},r={fields['r']}"
    message = f"{bare},{challenge},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
    response = base64.b64encode(f"{without_proof},p={proof}".encode()).decode()
    stream.says(f"<response {SASL}>{response}</response>")
    told = stream.hears("<(success|failure) [^>]*>(.*?)</(success|failure)>")
    if told[1] == "failure":
        return told[2]
    verifier = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
    assert base64.b64decode(told[2]) == b"v=" + base64.b64encode(verifier), "the server knows the password, too"
    return "success"


def opened(place, is_direct):
    stream = Stream(TLS if is_direct else STARTTLS)
    if not is_direct:
        stream.says(HEADER)
        stream.hears("<required/>.*</stream:features>")
        stream.says("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        stream.hears("<proceed [^>]*/>")
    stream.secure(place)
    stream.says(HEADER)
    features = stream.hears("<stream:features>.*</stream:features>")[0]
    assert "<mechanism>SCRAM-SHA-256-PLUS</mechanism>" in features and "tls-server-end-point" in features
    return stream


@pytest.mark.parametrize("is_direct", [False, True], ids=["starttls", "direct"])
def test_a_sign_in_is_bound_to_the_certificate(place, is_direct):
    stream = opened(place, is_direct)
    certificate = hashlib.sha256(stream.io.getpeercert(binary_form=True)).digest()
    assert scram(stream, "wrong", certificate) == "<not-authorized/>"
    assert scram(stream, USERS["juliet"], certificate) == "success"
    # As through somebody between, who has another certificate.
    stream = opened(place, is_direct)
    assert scram(stream, USERS["juliet"], bytes(32)) == "<not-authorized/>"
