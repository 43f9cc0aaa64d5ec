#!/usr/bin/env python3
"""Writes the dashboards in this folder; with --check it only says whether they are up to date.

In an expression, $of stands for the variables of the dashboard. `empty` says why a query may find nothing in a healthy
cluster; it stands in the dashboard as mayBeEmpty, which Grafana ignores, and where no query of a panel need find anything,
in the place of "No data". Where a value becomes bad, there is a line in a graph, and a number turns red.
"""

import json
import pathlib
import sys

import panels

HERE = pathlib.Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF = 'namespace=~"$namespace",instance=~"$instance"'
WIDTH, HEIGHT, HEIGHT_OF_NUMBERS = 24, 8, 4


def variable(name, label, query, where):
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
        "query": {"query": f"label_values(carillon_node_build_info{where}, {query})", "refId": name},
    }  # fmt: skip


def target(number, query):
    made = {
        "refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query["expr"].replace("$of", OF),
        "legendFormat": query["legend"],
    }  # fmt: skip
    if "empty" in query:
        made["mayBeEmpty"] = query["empty"]
    return made


def thresholds(described):
    """Without steps of their own, numbers would turn red at 80."""
    colours = [("green", None)]
    if described["limit"] is not None:
        colours.append(("red", described["limit"]))
    if described["least"] is not None:
        colours = [("red", None), ("green", described["least"])]
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for colour, value in colours]}


def nothing(queries):
    """Why a panel may be empty; None if it should not be."""
    reasons = dict.fromkeys(query.get("empty") for query in queries)
    return None if None in reasons else ", ".join(reasons).capitalize()


def panel(number, described, x, y, width, height):
    kind = described.get("kind", "timeseries")
    made = {
        "id": number, "type": kind, "title": described["title"], "description": described["description"],
        "datasource": SOURCE, "gridPos": {"h": height, "w": width, "x": x, "y": y},
        "targets": [target(at, query) for at, query in enumerate(described["queries"])],
        "fieldConfig": {"defaults": {"unit": described["unit"], "min": 0}, "overrides": []},
    }  # fmt: skip
    defaults = made["fieldConfig"]["defaults"]
    if kind == "stat" or described["limit"] is not None:
        defaults["thresholds"] = thresholds(described)
    if reasons := nothing(described["queries"]):
        defaults["noValue"] = reasons
    if kind == "timeseries":
        made["options"] = {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list", "placement": "bottom"}}
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
        if described["top"] is not None:
            defaults["custom"]["axisSoftMax"] = described["top"]
        if described["limit"] is not None:
            defaults["custom"]["thresholdsStyle"] = {"mode": "dashed"}
    else:
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "textMode": "value_and_name"}
    return made


def dashboard(name, title, rows):
    made, number, y = [], 0, 0
    for heading, described in rows:
        number += 1
        made.append({"id": number, "type": "row", "title": heading, "collapsed": False, "panels": [],
                     "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y}})  # fmt: skip
        y += 1
        columns = 3 if len(described) % 3 == 0 else 2
        height = HEIGHT_OF_NUMBERS if all(one["kind"] == "stat" for one in described) else HEIGHT
        for at, one in enumerate(described):
            number += 1
            width = WIDTH // columns
            made.append(panel(number, one, at % columns * width, y + at // columns * height, width, height))
        y += -(-len(described) // columns) * height
    return {
        "uid": f"carillon-{name}", "title": f"Carillon: {title}", "tags": ["carillon"], "schemaVersion": 39, "version": 1,
        "editable": True, "timezone": "browser", "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["carillon"], "title": "Carillon", "asDropdown": True, "includeVars": True,
                   "keepTime": True}],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
            variable("namespace", "Namespace", "namespace", ""),
            variable("instance", "Process", "instance", '{namespace=~"$namespace"}'),
        ]},
        "panels": made,
    }  # fmt: skip


def files():
    made = {name: dashboard(name, title, rows) for name, (title, rows) in panels.DASHBOARDS.items()}
    return {f"{name}.json": json.dumps(one, indent=1, ensure_ascii=False) + "\n" for name, one in made.items()}


def main():
    stale = [name for name, text in files().items() if not (HERE / name).exists() or (HERE / name).read_text() != text]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}: run deploy/grafana/generate.py" if stale else 0)
    for name, text in files().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
