"""What the program counts with the feature `count-allocations`, and building it so."""

import subprocess

from service import carillon

ALLOCATIONS = "carillon_process_allocations_total"
BYTES = "carillon_process_allocated_bytes_total"


def build(repository):
    """The program with the feature, in a folder of its own, so that the ordinary one is left alone."""
    folder = repository / "target/counting"
    command = ["cargo", "build", "--release", "--package", "carillon", "--features", "count-allocations"]
    if code := subprocess.run([*command, "--target-dir", folder], cwd=repository).returncode:
        raise SystemExit(f"cargo build ended with {code}")
    return folder / "release/carillon"


class Counts:
    """Of each node, with the messages that all of them have accepted."""

    def __init__(self, nodes):
        metrics = {node.name: node.metrics() for node in nodes}
        if any(ALLOCATIONS not in of_node for of_node in metrics.values()):
            raise SystemExit("this program does not count allocations: build it with --features count-allocations")
        self.allocations = {name: of_node[ALLOCATIONS] for name, of_node in metrics.items()}
        self.bytes = {name: of_node[BYTES] for name, of_node in metrics.items()}
        self.accepted = sum(of_node.get(carillon.ACCEPTED, 0) for of_node in metrics.values())
