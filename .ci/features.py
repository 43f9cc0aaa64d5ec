#!/usr/bin/env python3
"""Whether third-party crates have the same features whichever member of the workspace is built.

Otherwise `cargo build -p` of another member compiles the world again. What is told here belongs into features/Cargo.toml.
"""
import collections
import json
import subprocess
import sys


def features(*selection, edges):
    command = ["cargo", "tree", "--locked", "--prefix", "none", "--format", "{p}\t{f}", "--edges", edges, *selection]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    found = collections.defaultdict(set)
    for line in lines:
        package, _, names = line.removesuffix(" (*)").partition("\t")
        if "carillon" not in package:
            found[package.removesuffix(" (proc-macro)")].add(names)
    return found


def main():
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]))
    everywhere = features("--workspace", edges="normal,build,dev")
    missing = {}
    for member in metadata["packages"]:
        # Nobody builds that one alone.
        if member["name"] == "carillon-features":
            continue
        for edges in ("normal,build", "normal,build,dev"):
            for package, variants in features("--package", member["name"], edges=edges).items():
                # Some crates have one set of features in the program and another in what runs while compiling.
                if others := variants - everywhere[package]:
                    missing.setdefault(package, set()).add((member["name"], *others))
    for package, where in sorted(missing.items()):
        print(f"{package} has the features {' or '.join(sorted(everywhere[package]))} in the workspace, but:")
        for member, *others in sorted(where):
            print(f"    {' or '.join(others)} if {member} is built alone")
    return 1 if missing else 0


sys.exit(main())
