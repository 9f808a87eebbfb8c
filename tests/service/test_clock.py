"""A clock that jumps: nothing that is decided here may depend on the time of day."""

import ast
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from starlette.testclient import TestClient

ROOT = Path(__file__).parents[2]
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"}


def _used(tree: ast.Module) -> set[str]:
    """Full names of what a module uses, as far as its imports tell."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            used.add(".".join([names.get(first, first), *rest]))
    return used


def test_only_reports_and_ages_that_are_shown_look_at_the_clock_on_the_wall() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "service").rglob("*.py"))
        if _used(ast.parse(path.read_text())) & WALL_CLOCKS
    ]
    shown = ["service/routes/bundles.py", "service/routes/feedback.py"]
    assert readers == shown, "use time.monotonic or time.perf_counter: they never jump"


def test_reports_from_any_year_count_alike(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for year in (-5.0, 0.0, 4e9, 1.7e9):
        monkeypatch.setattr("pnag.service.routes.feedback.time", lambda now=year: now)
        report = {"encoding": "00000000", "device": "phone", "latency_ms": 1.0}
        assert client.post("/feedback", json=report).status_code == 202
    assert client.get("/bundles/tiny/feedback").json()["num_reports"] == 4


@pytest.mark.parametrize("year", [1970, 2300])
def test_a_bundle_is_shown_whatever_year_it_is(client: TestClient, monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls(year, 1, 1, tzinfo=tz)

    monkeypatch.setattr("pnag.service.routes.bundles.datetime", Clock)
    (bundle,) = client.get("/bundles").json()["bundles"]
    assert (bundle["table_age_days"] < 0) == (year == 1970)
    assert client.post("/generate", json={"budget_ms": 6}).status_code == 200
