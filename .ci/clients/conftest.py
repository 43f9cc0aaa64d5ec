"""The built program with XMPP, for clients that others wrote. `.ci/clients/requirements.txt` has them."""

import importlib.util
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("outside", HERE.parent / "outside/conftest.py")
outside = importlib.util.module_from_spec(spec)
spec.loader.exec_module(outside)

DOMAIN = "im.example.com"
STARTTLS = 7852
TLS = 7853
LISTEN = {"admin": 7800, "storage": 7801, "router": 7802, "gateway.tcp": 7810, "gateway.ws": 7811, "gateway.grpc": 7812}
USERS = {"juliet": "pencil", "romeo": "pa ss"}


class Place:
    """The service, and what clients need to reach it."""

    def __init__(self, service, certificate):
        self.service = service
        self.certificate = certificate


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    settings = {f"{name}.listen": f"127.0.0.1:{port}" for name, port in LISTEN.items()} | {
        "router.storage": f'["127.0.0.1:{LISTEN["storage"]}"]',
        "gateway.routers": f'["127.0.0.1:{LISTEN["router"]}"]',
        "gateway.tls.certificate": certificate,
        "gateway.tls.key": key,
        "gateway.xmpp.enabled": "true",
        "gateway.xmpp.domain": DOMAIN,
        "gateway.xmpp.listen": f"127.0.0.1:{STARTTLS}",
        "gateway.xmpp.tls_listen": f"127.0.0.1:{TLS}",
    }
    service = outside.Service(folder, *[f"--set={name}={value}" for name, value in settings.items()])
    address = f"http://127.0.0.1:{LISTEN['admin']}/readyz"
    outside.until("ready", lambda: outside.http(address)[0] == 200 or service.process.poll() is not None)
    assert service.process.poll() is None, service.output()
    for name, password in USERS.items():
        router = f"--router=127.0.0.1:{LISTEN['router']}"
        service.ok("user", "add", name, "--password-stdin", router, input=password + "\n")
    yield Place(service, certificate)
    assert service.stop() == 0, service.output()
