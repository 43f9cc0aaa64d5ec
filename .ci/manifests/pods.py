"""Pods of the rendered manifests as processes: the same arguments, environment, configuration, secrets and probes. Each has an
address of its own on loopback, which stands for the pod's."""

import base64
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import yaml
from conftest import DEPLOY, ROOT, template
from references import ports

CARILLON = os.path.realpath(os.environ.get("CARILLON_BIN", ROOT / "target/release/carillon"))


def until(what, condition, deadline=60):
    """Waits for a condition; fails with what was waited for."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {deadline} s for: {what}"
        time.sleep(0.05)
    return value


class World:
    """What all pods share: the names of the cluster's DNS, and the Secrets."""

    def __init__(self, folder, rendered):
        self.folder, self.rendered = folder, rendered
        self.names = {f"carillon-storage-{number}.carillon-storage": f"127.77.1.{number + 1}" for number in range(3)}
        # A Service leads to a router that is ready; one is enough.
        self.names["carillon-router"] = "127.77.2.1"
        self.names["carillon-gateway"] = "127.77.3.1"
        made = folder / "secrets"
        subprocess.run([DEPLOY / "secrets", "make", made], check=True)
        subprocess.run([DEPLOY / "secrets", "node-tls", made], check=True)
        printed = subprocess.run([DEPLOY / "secrets", "kubernetes", made], check=True, capture_output=True, text=True).stdout
        self.secrets = {
            one["metadata"]["name"]: {key: base64.b64decode(value) for key, value in one["data"].items()}
            for one in yaml.safe_load_all(printed)
            if one["kind"] == "Secret"
        }


class Pod:
    def __init__(self, world, workload, name, ip):
        self.world, self.name, self.ip = world, name, ip
        self.spec = template(workload)["spec"]
        [self.container] = self.spec["containers"]
        self.folder = world.folder / name
        self.paths = {}
        self.mount()
        self.process = None
        self.log = self.folder / "log"

    def mount(self):
        for number, mount in enumerate(self.container["volumeMounts"]):
            self.paths[mount["mountPath"]] = str(self.folder / f"mount-{number}")
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        for mount in self.container["volumeMounts"]:
            place = pathlib.Path(self.paths[mount["mountPath"]])
            place.mkdir(parents=True)
            for file, content in self.files_of(volumes.get(mount["name"], {})).items():
                (place / file).write_bytes(content)

    def files_of(self, volume):
        if "configMap" in volume:
            files = self.world.rendered.kind("ConfigMap")[volume["configMap"]["name"]]["data"]
            return {file: self.here(content).encode() for file, content in files.items()}
        return self.world.secrets[volume["secret"]["secretName"]] if "secret" in volume else {}

    def here(self, text):
        """Paths, names and addresses of the pod as they are on this machine."""
        for inside in ("/var/lib/carillon", "/etc/carillon"):
            text = re.sub(rf'{inside}[^",\s]*', lambda found: self.place_of(found.group()), text)
        for name, ip in self.world.names.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?=:)", ip, text)
        return text.replace("0.0.0.0", self.ip)

    def place_of(self, path):
        for inside, place in sorted(self.paths.items(), key=lambda one: -len(one[0])):
            if path == inside or path.startswith(inside + "/"):
                return place + path.removeprefix(inside)
        # Mounted later, or of no volume: the root is read-only.
        return str(self.folder / "absent") + path

    def environment(self):
        values = {}
        for variable in self.container.get("env", []):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            known = {"metadata.name": self.name, "status.podIP": self.ip}
            value = variable.get("value", known.get(field, "zone-a")) if field is None or field in known else "zone-a"
            values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: values[found.group(1)], value)
        return {name: self.here(value) for name, value in values.items()}

    def command(self, *arguments):
        env = {**{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}, **self.environment()}
        return {"args": [CARILLON, *map(self.here, arguments)], "env": env, "cwd": self.folder}

    def start(self):
        assert self.process is None
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(**self.command(*self.container["args"]), stdout=log, stderr=log)
        return self

    def run(self, *arguments, deadline=120):
        """A command in this pod; of the pod's own arguments if none are given."""
        command = self.command(*(arguments or self.container["args"]))
        return subprocess.run(**command, capture_output=True, text=True, timeout=deadline)

    def probe(self, kind):
        """As the kubelet does it: any answer from 200 to 399 in time is a success."""
        probe = self.container[f"{kind}Probe"]
        address = f"http://{self.ip}:{ports(self.spec)[probe['httpGet']['port']]}{probe['httpGet']['path']}"
        try:
            with urllib.request.urlopen(address, timeout=probe["timeoutSeconds"]) as answer:
                return 200 <= answer.status < 400
        except urllib.error.HTTPError:
            return False
        except OSError:
            return None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def ended(self):
        """The exit code; the pod must end within its grace period, or it would be killed."""
        code = self.process.wait(timeout=self.spec["terminationGracePeriodSeconds"])
        self.process = None
        return code

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def said(self):
        return self.log.read_text(errors="replace")
