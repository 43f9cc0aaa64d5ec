"""The processes that are compared: started in a folder of their own, measured, ended."""

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import time

TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Missing(Exception):
    """What has to be installed or built before a server can be compared."""


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        yield pathlib.Path(name)


@contextlib.contextmanager
def running(command, folder, stop=signal.SIGTERM, environment=None):
    """A process that writes to `log` in the folder. No Ctrl-C of a terminal reaches it: it is ended here, in order."""
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.log = folder / "log"
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def until(condition, what, *processes, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        logs = "\n".join(process.log.read_text()[-2000:] for process in processes)
        if any(process.poll() is not None for process in processes):
            raise SystemExit(f"{what}: a process has ended:\n{logs}")
        if time.monotonic() > end:
            raise SystemExit(f"{what}: waited {seconds} s in vain:\n{logs}")
        time.sleep(0.1)
    return found


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def free_ports(count):
    """Below those that the system gives to outgoing connections, which could take one before the server does."""
    ports = []
    # All are held until the last is chosen, so that none is chosen twice.
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", random.randrange(15_000, 32_000)))
                ports.append(one.getsockname()[1])
    return ports


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
