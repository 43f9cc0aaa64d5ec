"""Rules, dashboards, runbook and the page of metrics belong together, and each alert fires when it should."""

import re
import subprocess
import sys

import pytest
import yaml

import rules


@pytest.mark.parametrize("script", ["deploy/prometheus/generate.py", "deploy/grafana/generate.py"])
def test_made_files_are_up_to_date(script):
    done = subprocess.run([sys.executable, rules.ROOT / script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=rules.PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_configuration_and_rules():
    promtool("check", "config", "--lint-fatal", "prometheus.yml")


def test_the_operators_rules_are_the_same():
    made = yaml.safe_load((rules.PROMETHEUS / "prometheusrule.yaml").read_text())
    assert [rule for group in made["spec"]["groups"] for rule in group["rules"]] == rules.rules()


def unit_test(alert, case, fires):
    """A unit test for promtool: what is firing at that time."""
    series = case["fires" if fires else "quiet"]
    labels = f'alertname="{alert["alert"]}",severity="{alert["labels"]["severity"]}",alertstate="firing"'
    return {
        "interval": f"{case.get('step', 1)}m",
        "input_series": [{"series": selector, "values": values} for selector, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count(ALERTS{{{labels}}}) or vector(0)",
                "eval_time": f"{case['at']}m",
                "exp_samples": [{"labels": "{}", "value": int(fires)}],
            }
        ],
    }


def test_each_alert_has_its_cases():
    assert set(rules.cases()) == {rules.key(alert) for alert in rules.alerts()}


@pytest.mark.parametrize("name", ["rules.yaml", "alerts.yaml"])
@pytest.mark.parametrize("step", [1, 10])
def test_each_alert_fires_when_it_should_and_is_quiet_otherwise(tmp_path, name, step):
    cases, of_file = rules.cases(), rules.rules_of(name)
    tests = [
        unit_test(alert, cases[rules.key(alert)], fires)
        for alert in of_file
        for fires in (True, False)
        if "alert" in alert and cases[rules.key(alert)].get("step", 1) == step
    ]
    assert tests
    made = {"rule_files": [str(rules.PROMETHEUS / name)], "evaluation_interval": f"{step}m", "tests": tests}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(made))
    promtool("test", "rules", str(file))


def test_each_alert_says_what_to_do():
    sections = re.findall(r"^### (\w+)$", rules.RUNBOOK.read_text(), re.M)
    assert len(sections) == len(set(sections))
    assert set(sections) == {alert["alert"] for alert in rules.alerts()}
    for alert in rules.alerts():
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), alert["alert"]
        annotations = alert["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}, alert["alert"]
        assert annotations["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}", "run deploy/prometheus/generate.py"


def test_each_section_of_the_runbook_is_complete():
    text = rules.RUNBOOK.read_text()
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        for word in ("Means: ", "Users notice: ", "Look at: ", "Do: "):
            assert f"\n{word}" in section, f"{section.splitlines()[0]} has no {word}"


def test_the_runbook_names_panels_and_sections_that_exist():
    titles = {panel["title"] for _, panel in rules.panels()}
    text = rules.RUNBOOK.read_text()
    named = {re.sub(r"\s+", " ", title) for title in re.findall(r"\*([A-Z][^*]+)\*", text)}
    assert named <= titles, named - titles
    operations = (rules.ROOT / "docs/operations.md").read_text()
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", operations, re.M)}
    linked = set(re.findall(r"operations\.md#([\w-]+)\)", text.replace("\n", " ")))
    assert linked and linked <= anchors, linked - anchors


def test_metrics_are_those_of_the_page_and_each_is_shown():
    known = rules.page()
    assert len(known) > 80, "the page is not read rightly"
    texts = {f"{name}: {panel['title']}": str([target["expr"] for target in panel["targets"]]) for name, panel in rules.panels()}
    texts |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules.rules()}
    shown = set()
    for where, text in texts.items():
        named = rules.metrics_in(text, known)
        assert named <= set(known), f"{where} names {named - set(known)}, which docs/metrics.md does not have"
        shown |= named
    for document in ("docs/runbook.md", "docs/operations.md", "docs/speed.md"):
        named = rules.metrics_in((rules.ROOT / document).read_text(), known)
        assert named <= set(known), f"{document} names {named - set(known)}"
    hidden = {name for name, (_, debugging) in known.items() if debugging}
    assert not hidden & shown, f"{hidden & shown} are shown, though for debugging"
    assert set(known) - shown == hidden, f"{set(known) - shown - hidden} are on no panel and in no alert"


def test_records_that_are_used_are_made():
    made = {rule["record"] for rule in rules.records()}
    texts = [rule["expr"] for rule in rules.alerts()] + [target["expr"] for _, panel in rules.panels() for target in panel["targets"]]
    used = {name for text in texts for name in re.findall(r"carillon:[\w:]+", text)}
    assert used <= made, used - made


def test_panels_are_described_and_do_not_overlap():
    for name, dashboard in rules.dashboards().items():
        ids, cells = set(), set()
        variables = {variable["name"] for variable in dashboard["templating"]["list"]}
        assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"]
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            assert panel["id"] not in ids and not own & cells and max(x for x, _ in own) < 24, f"{name}: {panel['title']}"
            ids.add(panel["id"])
            cells |= own
            if panel["type"] == "row":
                continue
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], f"{name}: {panel['title']}"
            assert "$" in panel["datasource"]["uid"]
            for target in panel["targets"]:
                assert target["legendFormat"], f"{name}: {panel['title']}"
                used = set(re.findall(r"\$(?!__)(\w+)", target["expr"]))
                assert used <= variables, f"{name}: {panel['title']}: {used - variables}"


def test_each_dashboard_is_pictured():
    page = (rules.ROOT / "docs/operations.md").read_text()
    for name in rules.dashboards():
        picture = f"pictures/dashboard-{name.removesuffix('.json')}.png"
        assert f"]({picture})" in page and (rules.ROOT / "docs" / picture).exists(), picture


def test_lines_of_panels_are_the_service_levels():
    levels = yaml.safe_load((rules.PROMETHEUS / "rules.yaml").read_text())["groups"][0]["rules"]
    texts = " ".join(rule["expr"] for rule in levels)
    limits = {}
    for _, panel in rules.panels():
        for step in panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"][1:]:
            limits.setdefault(panel["title"], set()).add(step["value"])
    assert limits["Time to acceptance"] == {0.05} and 'send_latency_seconds_bucket{le="0.05"}' in texts
    assert limits["Time to delivery"] == {0.25} and 'delivery_latency_seconds_bucket{le="0.25"}' in texts
    budgets = {title: float(found) for title, record in (
        ("Sends that fail", "send_errors"), ("Sends that are slow", "slow_sends"), ("Deliveries that are slow", "slow_deliveries"),
    ) for found in re.findall(rf"carillon:{record}:ratio_rate1h > 14.4 \* ([\d.]+)", texts)}  # fmt: skip
    assert budgets == {title: max(limits[title]) for title in budgets} and len(budgets) == 3


def test_numbers_are_red_for_a_reason_only():
    numbers = [panel for _, panel in rules.panels() if panel["type"] == "stat"]
    assert numbers
    for panel in numbers:
        colours = [(step["color"], step["value"]) for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        if panel["title"] == "Shards without a leader":
            assert colours == [("green", None), ("red", 1)]
        elif panel["title"] == "Certificates":
            [warning] = [alert["expr"] for alert in rules.alerts() if alert["alert"] == "CarillonCertificateEnds"]
            assert colours == [("red", None), ("green", 7 * 86400)] and warning.endswith("< 7 * 86400")
        else:
            assert colours == [("green", None)], panel["title"]


def test_a_panel_that_may_be_empty_says_why():
    for name, panel in rules.panels():
        may_be_empty = all("mayBeEmpty" in target for target in panel["targets"])
        assert ("noValue" in panel["fieldConfig"]["defaults"]) == may_be_empty, f"{name}: {panel['title']}"
