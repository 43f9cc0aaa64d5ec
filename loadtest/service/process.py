"""Processes that the tools here start: in a folder of their own, watched, ended."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time


@contextlib.contextmanager
def running(command, folder, stop=signal.SIGTERM, environment=None, log="log"):
    """A process that writes to `log` in the folder. No Ctrl-C of a terminal reaches it: it is ended here, in order."""
    path = folder / log
    with open(path, "ab") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.log = path
    try:
        yield process
    finally:
        end(process, stop)


def end(process, stop):
    if process.poll() is None:
        process.send_signal(stop)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
    finally:
        # Also when a second Ctrl-C came meanwhile.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(condition, what, *processes, seconds=60):
    """What the condition gave in the end."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        logs = "\n".join(process.log.read_text()[-2000:] for process in processes)
        if any(process.poll() is not None for process in processes):
            raise SystemExit(f"{what}: a process has ended:\n{logs}")
        if time.monotonic() > give_up:
            raise SystemExit(f"{what}: waited {seconds} s in vain:\n{logs}")
        time.sleep(0.05)
    return found


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
