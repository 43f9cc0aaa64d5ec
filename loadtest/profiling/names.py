"""Names of functions as people read them."""

import functools
import re

SUFFIX = re.compile(r"(::h[0-9a-f]{16}|\{\{vtable\.shim\}\}|\.(llvm|constprop|isra|part|cold)\b[.\w]*|@@?\w[\w.]*)+$")
# Of crates, and of closures in one function.
DISAMBIGUATOR = re.compile(r"\[[0-9a-f]{6,16}\]|#\d+")
CLOSURES = re.compile(r"(::\{\{?closure\}?\})+")
GENERATED = re.compile(r"\bcarillon_proto::pb::generated::carillon::")
DROP = "core::ptr::drop_in_place<"


@functools.cache
def short(symbol):
    """Without hashes and generics; a trait's method by the type that has it, `<A as B>::c` as `A::c`."""
    name = GENERATED.sub("pb::", DISAMBIGUATOR.sub("", SUFFIX.sub("", symbol)))
    if name.startswith(DROP) and name.endswith(">"):
        return "drop " + short(name[len(DROP) : -1])
    return CLOSURES.sub("::{closure}", without_generics(name)) or symbol


def without_generics(name):
    kept, at = [], 0
    while at < len(name):
        if name[at] == "<":
            end = closing(name, at)
            if not kept or kept[-1] == ":":
                kept.append(of_type(name[at + 1 : end], bool(kept)))
                # A turbofish leaves its colons.
                if kept[-1] == "" and kept[-2:-1] == [":"]:
                    del kept[-3:]
            at = end + 1
        else:
            kept.append(name[at])
            at += 1
    return "".join(kept)


def of_type(inside, after_path):
    """What remains of a bracket that begins a path or stands between two of its colons."""
    if inside.startswith("impl "):
        inside = inside.removeprefix("impl ")
        return last(without_generics(split(inside, " for ")[-1]))
    parts = split(inside, " as ")
    if len(parts) == 2:
        # What is a slice or a type parameter says less than the trait.
        return without_generics(parts["::" not in parts[0]])
    return "" if after_path else without_generics(inside)


def last(path):
    """The last part: of what stands behind a path, the path says where it is."""
    return without_generics(path).rpartition("::")[2]


def split(text, separator):
    """At the first separator that is in no brackets."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "<([") - (character in ")]" or character == ">" and text[at - 1 : at] != "-")
        if not depth and text.startswith(separator, at):
            return [text[:at], text[at + len(separator) :]]
    return [text]


def closing(text, opening):
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] == "<") - (text[at] == ">" and text[at - 1] != "-")
        if not depth:
            return at
    return len(text)
