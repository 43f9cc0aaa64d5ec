"""Checks the licence of each crate that is built against deny.toml, without a network."""

import json
import re
import subprocess
import sys
import tomllib

allowed = set(tomllib.load(open("deny.toml", "rb"))["licenses"]["allow"])
metadata = json.loads(
    subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked"], check=True, capture_output=True
    ).stdout
)


def permitted(expression: str) -> bool:
    """SPDX expressions as crates use them: OR of ANDs, with parentheses and the old slash."""
    words = re.sub(r"/", " OR ", expression)
    words = re.sub(r"([\w.\-+]+) WITH ([\w.\-]+)", r"\1_WITH_\2", words)
    tokens = re.findall(r"[()]|[\w.\-+]+", words)
    python = []
    for token in tokens:
        if token in "()":
            python.append(token)
        elif token in ("OR", "AND"):
            python.append(token.lower())
        else:
            python.append(str(token.replace("_WITH_", " WITH ") in allowed))
    return eval(" ".join(python))  # noqa: S307 - only True, False, and, or, parentheses


bad = [
    f"{package['name']} {package['version']}: {package['license']}"
    for package in metadata["packages"]
    if not (package["license"] and permitted(package["license"]))
]
print("\n".join(bad) or f"{len(metadata['packages'])} crates, licences all permitted")
sys.exit(bool(bad))
