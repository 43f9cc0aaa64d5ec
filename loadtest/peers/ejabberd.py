"""ejabberd, without the package's service: Erlang is started on a configuration of its own."""

import contextlib
import pathlib
import shutil

from service.process import free_ports, running, until

from . import machine, xmpp

# No more modules than the load takes; nothing is slowed down on purpose.
CONFIGURATION = """
hosts: [localhost]
loglevel: error
listen:
  - {{port: {port}, ip: "127.0.0.1", module: ejabberd_c2s, access: all, shaper: none, max_stanza_size: 262144}}
auth_method: mnesia
auth_password_format: plain
registration_timeout: infinity
shaper_rules: {{max_user_sessions: infinity, max_user_offline_messages: infinity}}
modules:
  mod_offline: {{access_max_user_messages: max_user_offline_messages}}
  mod_register: {{access: all, ip_access: all}}
  mod_stream_mgmt: {{}}
"""


def installed():
    found = sorted(pathlib.Path("/usr/lib").glob("*/ejabberd-*/ebin/ejabberd.app"))
    if not found or not shutil.which("erl"):
        raise machine.Missing("apt-get install --no-install-recommends ejabberd")
    return found[-1].parents[1]


@contextlib.contextmanager
def service(folder):
    [port] = free_ports(1)
    (folder / "ejabberd.yml").write_text(CONFIGURATION.format(port=port))
    environment = {
        "ERL_LIBS": str(installed().parent),
        "EJABBERD_CONFIG_PATH": str(folder / "ejabberd.yml"),
        "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
        "ERL_CRASH_DUMP_BYTES": "0",
        "HOME": str(folder),
    }
    # The options of the package's ejabberdctl.
    command = ["erl", "+K", "true", "+P", 250_000, "-noinput", "-mnesia", "dir", f'"{folder}/mnesia"', "-s", "ejabberd"]
    with running(command, folder, environment=environment) as process:
        until(lambda: machine.listens(port), "ejabberd", process)
        yield process, port


def rows(options):
    version = installed().name.removeprefix("ejabberd-")
    yield from xmpp.rows("ejabberd", version, service, "one copy, written by Mnesia, not synced", options)
