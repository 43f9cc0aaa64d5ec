"""Folded stacks, and a picture of them: an SVG that shows names on hover and widens what is clicked."""

import collections
import html
import zlib

WIDTH, ROW, TOP, CHARACTER = 1600, 17, 46, 6.3
SMALLEST = 0.001

STYLE = """
text { font: 11px ui-monospace, "DejaVu Sans Mono", monospace; fill: #1a1a1a; }
.title { font: bold 15px sans-serif; }
.legend { font: 12px sans-serif; }
g.f { cursor: pointer; }
g.f:hover rect { stroke: #000; }
g.f text { pointer-events: none; }
"""

# Data of a frame: left edge and width as shares of all, and its height in the stack.
SCRIPT = """
const frames = [...document.querySelectorAll("g.f")].map(g => ({
  g, rect: g.querySelector("rect"), text: g.querySelector("text"), name: g.dataset.n,
  x: +g.dataset.x, w: +g.dataset.w, depth: +g.dataset.d }));
function show(to) {
  for (const f of frames) {
    const below = f.depth < to.depth;
    const left = Math.max(below ? 0 : (f.x - to.x) / to.w, 0) * WIDTH;
    const right = Math.min(below ? 1 : (f.x + f.w - to.x) / to.w, 1) * WIDTH;
    const out = f.x + f.w <= to.x + 1e-9 || f.x >= to.x + to.w - 1e-9 || right - left < 0.3;
    f.g.style.display = out ? "none" : "";
    if (out) continue;
    f.g.style.opacity = below ? 0.5 : 1;
    f.rect.setAttribute("x", left);
    f.rect.setAttribute("width", right - left);
    f.text.setAttribute("x", left + 3);
    const room = Math.floor((right - left - 5) / CHARACTER);
    f.text.textContent = room < 3 ? "" : f.name.length > room ? f.name.slice(0, room - 1) + "…" : f.name;
  }
}
for (const f of frames) f.g.addEventListener("click", () => show(f));
"""


def folded(stacks):
    """Weights by stack, as other tools read them: a line each, frames from the outermost on."""
    names = {stack: ";".join(name.replace(";", ",") for name, _ in stack) for stack in stacks}
    return "".join(f"{names[stack]} {weight}\n" for stack, weight in stacks.items())


class Frame:
    def __init__(self, name, area):
        self.name, self.area, self.weight, self.above = name, area, 0, {}


def tree(stacks):
    root = Frame("all", None)
    for stack, weight in stacks.items():
        at = root
        at.weight += weight
        for name, area in stack:
            at = at.above.setdefault(name, Frame(name, area))
            at.weight += weight
    return root


def svg(stacks, title, shares):
    """Stacks are tuples of name and area, or None; `shares` are the areas in the order of the legend."""
    root = tree(stacks)
    placed = list(places(root, root.weight))
    height = TOP + (max(depth for *_, depth in placed) + 1) * ROW + 6 + 22
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fffdf7"/>',
        f'<text class="title" x="6" y="20">{html.escape(title)}</text>',
        *legend(shares),
        *(box(frame, left, root.weight, depth, height) for frame, left, depth in placed),
        f"<script><![CDATA[const WIDTH = {WIDTH}, CHARACTER = {CHARACTER};{SCRIPT}]]></script>",
        "</svg>\n",
    ]
    return "\n".join(parts)


def places(root, all_weight):
    """Frames that are wide enough, with their left edges and depths."""
    waiting = collections.deque([(root, 0, 0)])
    while waiting:
        frame, left, depth = waiting.popleft()
        yield frame, left, depth
        for above in sorted(frame.above.values(), key=lambda frame: frame.name):
            if above.weight >= all_weight * SMALLEST:
                waiting.append((above, left, depth + 1))
            left += above.weight


def box(frame, left, all_weight, depth, height):
    share, x = frame.weight / all_weight, left / all_weight
    y = height - 28 - (depth + 1) * ROW
    room = int((share * WIDTH - 5) / CHARACTER)
    name = html.escape(frame.name)
    text = "" if room < 3 else name if len(frame.name) <= room else html.escape(frame.name[: room - 1]) + "…"
    area = f", {html.escape(frame.area)}" if frame.area else ""
    return (
        f'<g class="f" data-n="{name}" data-x="{x:.6f}" data-w="{share:.6f}" data-d="{depth}">'
        f"<title>{name}: {share:.1%}{area}</title>"
        f'<rect x="{x * WIDTH:.2f}" y="{y}" width="{max(share * WIDTH - 0.3, 0.2):.2f}" height="{ROW - 1}" rx="1.5"'
        f' fill="{color(frame)}"/><text x="{x * WIDTH + 3:.2f}" y="{y + 12}">{text}</text></g>'
    )


def legend(areas):
    x = 6
    for area in areas:
        text = html.escape(area)
        yield f'<rect x="{x}" y="29" width="11" height="11" fill="{area_color(area)}"/>'
        yield f'<text class="legend" x="{x + 15}" y="39">{text}</text>'
        x += 30 + 6.6 * len(area)
        if x > WIDTH - 150:
            return


def color(frame):
    return area_color(frame.area) if frame.area else "#e4e0d8"


HUES = {
    **{"gateway": 95, "router": 135, "storage": 165, "proto: ids, keys, ring": 75, "node": 110},
    **{"timeline engine": 30, "raft log": 48, "openraft": 300, "protobuf": 265, "HTTP/2": 200, "tokio": 220},
    "allocator": 340,
}
OF_KERNEL = {"disk": "#e8836b", "network": "#f2b54f", "memory": "#d9766f", "scheduling": "#c9a38f"}


def area_color(area):
    if area.startswith("kernel"):
        return OF_KERNEL.get(area.partition(": ")[2], "#ddc4bc")
    return f"hsl({HUES.get(area, zlib.crc32(area.encode()) % 360)} 62% 74%)"
