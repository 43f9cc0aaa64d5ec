"""The built program, started as the README says, in a folder of its own."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Another build may be tried. Taken out of the environment, in which the program looks for settings.
CARILLON = pathlib.Path(os.environ.pop("CARILLON_BIN", ROOT / "target/release/carillon")).resolve()


class Service:
    def __init__(self, folder, *arguments):
        self.folder = folder
        self.log = open(folder / "carillon.log", "wb")
        self.process = subprocess.Popen([CARILLON, *arguments], cwd=folder, stdout=self.log, stderr=self.log)

    def output(self):
        return (self.folder / "carillon.log").read_text()

    def run(self, *arguments, **options):
        """A command of the same program, in the same folder."""
        done = subprocess.run(
            [CARILLON, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=60, **options
        )
        return done

    def start(self, *arguments):
        return subprocess.Popen(
            [CARILLON, *arguments], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ok(self, *arguments, **options):
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)
        self.log.close()
        return self.process.returncode


def until(what, condition, deadline=60):
    """Waits for a condition; fails with what was waited for."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {deadline} s for: {what}"
        time.sleep(0.05)


def http(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture(scope="session")
def messages(tmp_path_factory):
    """The protocol's messages and services, generated from the repository's .proto file."""
    from grpc_tools import protoc

    out = tmp_path_factory.mktemp("generated")
    source = ROOT / "proto/proto"
    assert 0 == protoc.main(
        ["protoc", f"-I{source}", f"--python_out={out}", f"--grpc_python_out={out}",
         str(source / "carillon/client/v1/client.proto")]
    )  # fmt: skip
    for folder in ("carillon", "carillon/client", "carillon/client/v1"):
        (out / folder / "__init__.py").touch()
    sys.path.insert(0, str(out))
    from carillon.client.v1 import client_pb2, client_pb2_grpc

    return client_pb2, client_pb2_grpc


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    assert os.access(CARILLON, os.X_OK), "cargo build --release comes first"
    service = Service(tmp_path_factory.mktemp("service"))
    until("ready", lambda: http("http://127.0.0.1:7400/readyz")[0] == 200 or service.process.poll() is not None)
    assert service.process.poll() is None, service.output()
    yield service
    assert service.stop() == 0, service.output()
