"""Prosody, in the foreground on a configuration of its own."""

import contextlib
import pathlib
import shutil

from service.process import free_ports, running, until

from . import machine, xmpp

# No more modules than the load takes. Passwords are plain, as ejabberd's are: sign-in is not compared.
CONFIGURATION = """
run_as_root = true
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
log = {{ error = "{folder}/prosody.log" }}
modules_enabled = {{ "saslauth", "register_ibr", "smacks" }}
modules_disabled = {{ "s2s" }}
authentication = "internal_plain"
storage = "internal"
allow_registration = true
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
c2s_interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
VirtualHost "localhost"
"""


def version():
    if not shutil.which("prosody"):
        raise machine.Missing("apt-get install --no-install-recommends prosody")
    # `prosody --version` starts the server.
    known = pathlib.Path("/usr/lib/prosody/prosody.version")
    return known.read_text().strip() if known.exists() else "of unknown version"


@contextlib.contextmanager
def service(folder):
    [port] = free_ports(1)
    (folder / "data").mkdir()
    (folder / "prosody.cfg.lua").write_text(CONFIGURATION.format(folder=folder, port=port))
    with running(["prosody", "--config", folder / "prosody.cfg.lua", "-F"], folder) as process:
        until(lambda: machine.listens(port), "prosody", process)
        yield process, port


def rows(options):
    yield from xmpp.rows("Prosody", version(), service, "one copy, written to a file, not synced", options)
