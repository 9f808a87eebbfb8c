"""Rules, alerts and the dashboard: they ask for metrics that exist, and every alert is explained and tried."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pnag.service.feedback.summary import Feedback
from pnag.service.settings import Settings
from pnag.service.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/pnag.json").read_text())
GROUPS = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS = ("rules_test.yml", "rules_day_test.yml")
CASES = [case for name in TESTS for case in yaml.safe_load((PROMETHEUS / name).read_text())["tests"]]


def test_promtool_accepts_the_rules(promtool: Callable[..., None]) -> None:
    promtool("check", "rules", "rules.yml")


def test_promtool_accepts_the_configuration(promtool: Callable[..., None]) -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then(promtool: Callable[..., None]) -> None:
    promtool("test", "rules", *TESTS)


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_every_alert_has_a_case_that_fires_and_one_that_must_not(alert: str) -> None:
    tried = [bool(t["exp_alerts"]) for case in CASES for t in case["alert_rule_test"] if t["alertname"] == alert]
    # One case can hold both: an expected alert is the whole list, so a series that must not fire is seen there.
    assert True in tried
    assert False in tried


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_links_to_its_section_of_the_runbook(rule: dict[str, Any]) -> None:
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (\S+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert rule["alert"] in headings
    assert anchor == rule["alert"].lower()
    assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_runbook_explains_no_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (Pnag\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_rules_and_panels_ask_for_metrics_that_the_service_has() -> None:
    metrics = Metrics()
    Feedback(Settings(), metrics)
    exposed = {"up", "ALERTS", *(rule["record"] for rule in RULES if "record" in rule)}
    for family in metrics.registry.collect():
        suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(family.type, ("",))
        exposed |= {family.name + suffix for suffix in suffixes}
    unknown = {
        (where, name)
        for where, expression in _expressions()
        for name in re.findall(r"\bpnag[\w:]*(?=[\s\[{()]|$)", expression)
        if name not in exposed and name != "pnag"
    }
    assert not unknown


def test_labels_in_queries_are_labels_of_the_metrics() -> None:
    known = {"le", "job", "instance", "alertname", "alertstate"}
    known |= {
        "route",
        "status",
        "cache",
        "bundle",
        "version",
        "space",
        "device",
        "tier",
        "result",
        "operation",
        "reason",
    }
    used = {
        label for _, e in _expressions() for group in re.findall(r"by \(([^)]*)\)", e) for label in group.split(",")
    }
    assert {label.strip() for label in used} - {""} <= known


@pytest.mark.parametrize("panel", [p for p in DASHBOARD["panels"] if p["type"] != "row"], ids=lambda p: str(p["title"]))
def test_every_panel_says_what_it_shows_and_asks_the_provisioned_source(panel: dict[str, Any]) -> None:
    provisioned = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    uid = provisioned["datasources"][0]["uid"]
    assert panel["description"]
    assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {uid}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) >= 1


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
