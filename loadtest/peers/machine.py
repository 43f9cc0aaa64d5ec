"""What the processes that are compared use of the machine."""

import contextlib
import os
import pathlib
import socket
import tempfile

TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Missing(Exception):
    """What has to be installed or built before a server can be compared."""


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        yield pathlib.Path(name)


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def family(roots):
    """These processes and all that descend from them."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int(fields(path.name)[1])
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def fields(pid):
    """Those of proc(5) after the name, which may have spaces in it: the first is the third there."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_us(pids):
    """User and system time, with that of children that have ended."""
    return sum(sum(map(int, fields(pid)[11:15])) for pid in pids) * TICK_US


def resident_bytes(pids):
    return sum(int(fields(pid)[21]) for pid in pids) * PAGE


def machine_us():
    """What all cores have worked, for anyone."""
    user, nice, system, _, _, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK_US


def file_system(path):
    mounts = [line.split()[1:3] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    holding = [(point, kind) for point, kind in mounts if pathlib.Path(path).resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1]
