"""Functions that the compiler has put into others, found again by the line tables.

`perf script` finds them, too, but takes minutes: it asks for each address of each sample.
"""

import re
import struct
import subprocess

from . import names

REGISTRY = re.compile(r"/registry/src/[^/]+/(?P<crate>[^/]+)-\d+\.\d+[^/]*/src/(?P<module>.*)\.rs$")
CARILLON = re.compile(r"(?:^|/)(?P<crate>client|gateway|node|proto|router|storage)/src/(?P<module>.*)\.rs$")
GENERATED = re.compile(r"/carillon-proto-\w+/out/")
EXECUTABLE, LOADED = 1, 1


def functions(program, offsets):
    """For each offset in the file the functions that were put into the one that is there, the innermost first.

    Those of the standard library, and those without line tables, are left out.
    """
    addresses = addresses_of(program, offsets)
    command = ["addr2line", "--exe", program, "--functions", "--inlines", "--demangle", "--addresses"]
    asked = "".join(f"{address:#x}\n" for address in addresses)
    done = subprocess.run(command, input=asked, capture_output=True, text=True, errors="replace", timeout=600)
    if done.returncode:
        raise SystemExit(f"addr2line ended with {done.returncode}:\n{done.stderr[-2000:]}")
    chains = {}
    for line in done.stdout.splitlines():
        if line.startswith("0x") and "<" not in line:
            chains[int(line, 16)] = chain = []
        else:
            chain.append(line)
    # Pairs of function and place; the last is the function that is there.
    return {
        offset: [name for name in map(name_of, chains[address][:-2:2], chains[address][1:-2:2]) if name]
        for address, offset in addresses.items()
        if address in chains
    }


def addresses_of(program, offsets):
    """Where the parts of the file are in memory, before it is moved to a place of its own."""
    with open(program, "rb") as file:
        head = file.read(64)
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(table)
        parts = [struct.unpack("<IIQQQQ", file.read(size)[:40]) for _ in range(count)]
    found = {}
    for kind, flags, begin, address, _, length in parts:
        if kind == LOADED and flags & EXECUTABLE:
            found |= {offset - begin + address: offset for offset in offsets if begin <= offset < begin + length}
    return found


def name_of(function, place):
    path = place.rpartition(":")[0]
    if GENERATED.search(path):
        module = "carillon_proto::pb"
    elif found := REGISTRY.search(path):
        module = module_of(found["crate"].replace("-", "_"), found["module"])
    elif (found := CARILLON.search(path)) and "/rustc/" not in path:
        module = module_of("carillon_" + found["crate"] if found["crate"] != "node" else "carillon", found["module"])
    else:
        return None
    return f"{module}::{names.short(function).rpartition('::')[2]}"


def module_of(crate, path):
    parts = [part for part in path.split("/") if part not in ("lib", "mod", "main")]
    return "::".join([crate, *parts])
