"""Samples of where processes spend CPU time, taken by `perf`."""

import re
import shutil
import signal
import subprocess
import time
import typing

from service.process import running

from . import areas, inlined, names

CUT_OFF = "[stack cut off]"
UNKNOWN = "[unknown]"
HEAD = re.compile(r"(?P<thread>.*?)\s+(?P<pid>\d+)/\d+\s+(?P<period>\d+)\s*$")
FRAME = re.compile(r"\s+([0-9a-f]+) (.*) \((.*?)\)$")
# Hands on to what is polled or called, and would tear apart what belongs together.
GLUE = re.compile(
    r"<core::pin::Pin<|<core::future::poll_fn::PollFn<|<core::panic::unwind_safe::AssertUnwindSafe<"
    r"|core::ops::function::(FnOnce|FnMut|Fn)::call|std::sys::backtrace::__rust_begin_short_backtrace|std::panicking::"
    r"|std::panic::|<std::sys::thread|<tracing::instrument::Instrumented<|<tokio_util::task::task_tracker::Tracked"
    r"|tokio::runtime::(context::|task::core::|scheduler::multi_thread::worker::Context::run\b)|start_thread$|clone3?$"
)


class Frame(typing.NamedTuple):
    symbol: str
    file: str
    offset: int
    inlined: bool = False

    def in_kernel(self):
        return self.file.startswith("[kernel")

    def area(self):
        area = areas.of_frame(self.symbol, self.file)
        return f"{areas.KERNEL}: other" if not area and self.in_kernel() else area

    def shown(self):
        """What is inlined is shown if it is ours: there is too much of the other."""
        return "carillon" in self.symbol if self.inlined else not GLUE.match(self.symbol)

    def name(self):
        if self.symbol == UNKNOWN:
            return CUT_OFF if self.file == UNKNOWN else self.file.rpartition("/")[2]
        return names.short(self.symbol)


class Sample:
    def __init__(self, pid, thread, weight, frames):
        """Frames from the innermost on."""
        self.pid, self.thread, self.weight, self.frames = pid, thread, weight, frames
        self.area = areas.of(frames)
        self.caller = areas.of_caller(frames)

    def stack(self):
        """From the outermost on, as it is shown: names and areas."""
        shown = [(frame.name(), frame.area()) for frame in reversed(self.frames) if frame.shown()]
        # A function and its own closure have one name.
        return [(self.thread, None), *(pair for before, pair in zip([None, *shown], shown) if pair != before)]

    def cut_off(self):
        return self.frames[-1].symbol == UNKNOWN


def missing():
    """What has to be installed."""
    packages = {"perf": "linux-perf", "addr2line": "binutils"}
    lacking = [package for program, package in packages.items() if not shutil.which(program)]
    return [f"apt-get install {' '.join(lacking)}"] if lacking else []


def samples(program, pids, seconds, frequency, stack_bytes, folder):
    data = folder / "perf.data"
    command = ["perf", "record", "--output", data, "--freq", frequency, "--call-graph", f"dwarf,{stack_bytes}"]
    with running([*command, "--pid", ",".join(map(str, pids))], folder, stop=signal.SIGINT, log="perf.log") as process:
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if process.poll() is not None:
            raise SystemExit(f"perf record ended with {process.returncode}:\n{process.log.read_text()[-2000:]}")
    fields = ["--fields", "comm,pid,tid,period,ip,sym,dso"]
    script = ["perf", "script", "--input", data, *fields, *without_inlined()]
    done = subprocess.run(script, cwd=folder, capture_output=True, text=True, errors="replace", timeout=600)
    if done.returncode:
        raise SystemExit(f"perf script ended with {done.returncode}:\n{done.stderr[-2000:]}")
    if not (found := list(parsed(done.stdout))):
        raise SystemExit(f"perf took no samples:\n{process.log.read_text()[-2000:]}")
    of_program = {frame.offset for *_, frames in found for frame in frames if frame.file == str(program)}
    functions = inlined.functions(program, of_program)
    return [Sample(*head, list(with_inlined(frames, str(program), functions))) for *head, frames in found]


def with_inlined(frames, program, functions):
    for frame in frames:
        if frame.file == program:
            yield from (frame._replace(symbol=name, inlined=True) for name in functions.get(frame.offset, ()))
        yield frame


def without_inlined():
    """See `inlined`."""
    known = subprocess.run(["perf", "script", "-h"], capture_output=True, text=True, timeout=60)
    return ["--no-inline"] if "inline" in known.stdout + known.stderr else []


def parsed(text):
    """Process, thread, weight and frames of each sample."""
    for block in text.split("\n\n"):
        head, *lines = block.strip("\n").splitlines() or [""]
        frames = [Frame(found[2], found[3], int(found[1], 16)) for found in map(FRAME.match, lines) if found]
        if (found := HEAD.match(head)) and frames:
            thread = re.sub(r"[\d-]+$", "", found["thread"].strip()).replace(":", "") or "[thread without a name]"
            yield int(found["pid"]), thread, int(found["period"]), frames
