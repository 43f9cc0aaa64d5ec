"""The tables that are printed, and the files that are written."""

import collections

from . import areas, flame

FUNCTIONS = 25


def profile(samples, nodes, load, out, title):
    all_weight = sum(sample.weight for sample in samples)
    cost = next(figure["value"] for figure in load["figures"] if figure["name"] == "server CPU")
    rate = next(figure["value"] for figure in load["figures"] if figure["name"] == "accepted")
    cut_off = sum(sample.weight for sample in samples if sample.cut_off()) / all_weight
    title = f"{title}: {rate:,.0f} accepted a second, {cost:.0f} µs of CPU a message"
    print(f"{title}; {len(samples):,} samples, of {cut_off:.0%} the outer end of the stack is missing")
    if not any(frame.in_kernel() for sample in samples for frame in sample.frames):
        print("the kernel's part is missing, as this user may not see it: shares are of the rest")
    print_functions(samples, all_weight)
    print_areas(samples, all_weight, nodes, cost)

    of_area = weights((sample.area, sample.weight) for sample in samples)
    stacks = weights((stack(sample, nodes), sample.weight) for sample in samples)
    out.mkdir(parents=True, exist_ok=True)
    path = out / title.partition(":")[0].replace(" ", "-")
    path.with_suffix(".folded").write_text(flame.folded(stacks))
    path.with_suffix(".svg").write_text(flame.svg(stacks, title, [area for area, _ in of_area.most_common()]))
    print(f"\n{path}.folded\n{path}.svg")


def weights(pairs):
    sums = collections.Counter()
    for key, weight in pairs:
        sums[key] += weight
    return sums


def stack(sample, nodes):
    """Names with their areas, which give the colours."""
    node = [(name_of(sample, nodes), None)] if len(nodes) > 1 else []
    return (*node, *sample.stack())


def name_of(sample, nodes):
    return next((node.name for node in nodes if node.pid == sample.pid), "?")


def print_functions(samples, all_weight):
    selves = weights((sample.stack()[-1][0], sample.weight) for sample in samples)
    of_area = weights(((sample.stack()[-1][0], sample.area), sample.weight) for sample in samples)
    print("\n| function itself | area, the largest first | share |\n| --- | --- | --- |")
    for name, weight in selves.most_common(FUNCTIONS):
        # Such as memmove, which everyone calls.
        of = [area for (function, area), part in of_area.most_common() if function == name and part > weight / 20]
        print(f"| `{name}` | {', '.join(of)} | {weight / all_weight:.1%} |")


def print_areas(samples, all_weight, nodes, cost):
    """In a cluster also by the kind of node, as shares of the whole."""
    kinds = list(dict.fromkeys(kind(node.name) for node in nodes)) if len(nodes) > 1 else []
    itself = weights((sample.area, sample.weight) for sample in samples)
    behalf = weights((sample.caller, sample.weight) for sample in samples)
    of_kind = weights(((sample.area, kind(name_of(sample, nodes))), sample.weight) for sample in samples)
    columns = ["area", *kinds, "share", "CPU a message", "with kernel and allocator"]
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for area in sorted(itself | behalf, key=lambda area: (-itself[area], area)):
        cells = [f"{of_kind[area, kind] / all_weight:.1%}" for kind in kinds]
        share = itself[area] / all_weight
        own = area.partition(":")[0] in (areas.KERNEL, areas.ALLOCATOR)
        cells += [f"{share:.1%}", f"{share * cost:.1f} µs", "" if own else f"{behalf[area] / all_weight:.1%}"]
        print(f"| {area} | {' | '.join(cells)} |")


def kind(name):
    return name.partition("-")[0]


def allocations(before, after):
    messages = after.accepted - before.accepted
    if not messages:
        raise SystemExit("no message was accepted in the measured part")
    print(f"{messages:,.0f} messages accepted in the measured part\n")
    print("| process | allocations a message | bytes a message |\n| --- | --- | --- |")
    rows = [(name, {name}) for name in before.allocations]
    for name, of in rows if len(rows) == 1 else [*rows, ("all", set(before.allocations))]:
        counted, size = (
            sum(later[name] - earlier[name] for name in of) / messages
            for earlier, later in ((before.allocations, after.allocations), (before.bytes, after.bytes))
        )
        print(f"| {name} | {counted:.1f} | {size:,.0f} |")
