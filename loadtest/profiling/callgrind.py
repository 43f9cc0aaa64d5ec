"""Instructions of a program that runs under valgrind's callgrind: counted between two moments, and for whom."""

import collections
import re
import shutil
import subprocess
import time

from . import areas

CALLGRIND = ["valgrind", "--tool=callgrind", "--callgrind-out-file=callgrind"]
# How often what has no area is handed on to its callers: such functions call each other some levels deep.
LEVELS = 12
NAME = re.compile(r"\((\d+)\)(?: (.*))?")


def missing():
    if not shutil.which("valgrind"):
        yield "apt-get install valgrind"


class Program:
    """A process under callgrind, which writes its counts into its folder."""

    def __init__(self, pid, folder):
        self.pid, self.folder = pid, folder

    def zero(self):
        """Begins to count anew; returns roughly when."""
        return self.control("--zero")

    def dump(self):
        """What was counted since, and about when it was written."""
        before = set(self.folder.glob("callgrind.*"))
        at = self.control("--dump")
        give_up = time.monotonic() + 60
        while not (new := set(self.folder.glob("callgrind.*")) - before):
            if time.monotonic() > give_up:
                raise SystemExit("callgrind wrote no counts in 60 s")
            time.sleep(0.1)
        return Counts(min(new).read_text().splitlines()), at

    def control(self, what):
        began = time.monotonic()
        command = ["callgrind_control", what, str(self.pid)]
        if subprocess.run(command, capture_output=True, timeout=120).returncode:
            raise SystemExit(f"{' '.join(command)} failed")
        return (began + time.monotonic()) / 2


class Counts:
    """Instructions of each function itself, and of what each called."""

    def __init__(self, lines):
        self.itself = collections.Counter()
        self.calls = collections.defaultdict(collections.Counter)
        names, function, callee = {}, None, None
        is_call = False
        for line in lines:
            if line.startswith(("fn=", "cfn=")):
                number, name = NAME.match(line.partition("=")[2]).groups()
                if name:
                    names[number] = name
                if line.startswith("fn="):
                    function = names[number]
                else:
                    callee = names[number]
            elif line.startswith("calls="):
                is_call = True
            elif line[:1] in "0123456789+-*" and line:
                parts = line.split()
                if is_call:
                    self.calls[callee][function] += int(parts[1])
                elif len(parts) > 1:
                    self.itself[function] += int(parts[1])
                is_call = False

    def all(self):
        return sum(self.itself.values())

    def by_area(self):
        """What has no area of its own, such as copying, the allocator and the standard library, counts for its callers."""
        found, rest = collections.Counter(), self.itself
        for _ in range(LEVELS):
            rest = self.handed_on(rest, found)
        found[areas.OTHER] += sum(rest.values())
        return found

    def handed_on(self, costs, found):
        rest = collections.Counter()
        for function, cost in costs.items():
            area = areas.of_function(function)
            callers = self.calls.get(function)
            if area or not callers or not (called := sum(callers.values())):
                found[area or areas.OTHER] += cost
                continue
            for caller, part in callers.items():
                rest[caller] += cost * part / called
        return rest
