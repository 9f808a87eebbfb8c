"""From a YAML file and a CSV to served answers, with the documented commands alone."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from pnag.cli import main as cli
from pnag.models.answer.explain import Explainer
from pnag.models.answer.question import Limits, Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import TABLE_COSTS, Bundle
from pnag.models.errors import BudgetError, BundleError, EncodingError, RecordsError
from pnag.service.app import create_app
from pnag.service.settings import Settings
from pnag.trainer.data.references import read_references
from pnag.trainer.tabular.space_file import load_space

ENCODING = "conv3:conv3:conv5:yes"
"""A recorded architecture of the starting project."""


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pnag(*arguments: str | Path) -> int:
    """Exit code of `pnag ARGUMENTS`."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pnag init`, `pnag validate`, and two trainings: beyond the records, and held to part of them."""
    folder = tmp_path_factory.mktemp("own") / "project"
    space, records = folder / "space.yaml", folder / "measurements.csv"
    assert pnag("init", folder) == 0
    assert pnag("validate", "--space", space, "--records", records) == 0
    rows = read_csv(records)
    with records.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "params_m"])
        writer.writeheader()
        for number, row in enumerate(rows):
            if number not in (3, 11, 17):
                writer.writerow(row | {"params_m": f"{1 + 0.1 * number:.2f}"})
    assert pnag("train", "--space", space, "--records", records, "--out", folder / "free", "--recipe", "quick") == 0
    (folder / "named.csv").write_text(f"name,architecture\nours,{ENCODING}\n")
    held: list[str | Path] = [
        "--references",
        folder / "named.csv",
        "--only-recorded",
        "--out",
        folder / "held",
        "--recipe",
        "quick",
        "--device",
        "lab bench",
    ]
    assert pnag("train", "--space", space, "--records", records, *held) == 0
    return folder


@pytest.fixture(scope="module")
def client(project: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(bundles=(project / "free", project / "held")))) as client:
        yield client


def measured(project: Path) -> dict[str, dict[str, str]]:
    rows = read_csv(project / "measurements.csv")
    return {":".join([r["stem"], r["op1"], r["op2"], r["attention"]]): r for r in rows}


def test_references_of_a_file_reach_the_page(client: TestClient) -> None:
    (reference,) = client.get("/bundles/held/known").json()["references"]
    assert (reference["name"], reference["architecture"]["encoding"]) == ("ours", ENCODING)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("title,architecture\nours,{}\n", "has columns ['title', 'architecture']"),
        ("name,architecture\n", "no rows"),
        ("name,architecture\nours,{}\nours,{}\n", "row 2: name is 'ours'"),
        ("name,architecture\n,{}\n", "row 1: name is ''"),
        ("name,architecture\nours,{}x\n", "row 1, architecture"),
        ("name,architecture\nours,{}\ntheirs,{}\n", "row 2, architecture repeats row 1"),
    ],
)
def test_references_that_cannot_be_shown_are_refused_with_their_row(
    text: str, complaint: str, tmp_path: Path, project: Path
) -> None:
    path = tmp_path / "named.csv"
    path.write_text(text.replace("{}", ENCODING))
    space = load_space(str(project / "space.yaml"))
    with pytest.raises(RecordsError, match=re.escape(complaint)):
        read_references(path, space, space.allowed)


def test_a_reference_that_may_not_be_answered_is_refused(tmp_path: Path, project: Path) -> None:
    path = tmp_path / "named.csv"
    path.write_text(f"name,architecture\nours,{ENCODING}\n")
    with pytest.raises(RecordsError, match="row 1.*may answer"):
        read_references(path, load_space(str(project / "space.yaml")), lambda tokens_ND: np.zeros(len(tokens_ND), bool))


def test_held_answers_are_the_best_measured_row_of_each_budget(project: Path) -> None:
    rows = measured(project)
    generator = OnnxGenerator(Bundle.load(project / "held"))
    for budget in np.linspace(2.7, 6.0, 30):
        fits = {e: float(r["accuracy"]) for e, r in rows.items() if float(r["latency_ms"]) <= budget}
        answer = generator.generate(Query(float(budget)))
        assert answer.best.predicted.accuracy == pytest.approx(max(fits.values()))
        assert answer.best.predicted.latency_ms == pytest.approx(
            float(rows[answer.best.architecture.encoding]["latency_ms"])
        )


def test_raw_samples_of_a_held_generator_are_measured_rows(project: Path) -> None:
    generator = OnnxGenerator(Bundle.load(project / "held"), num_candidates=64)
    rows = measured(project)
    for budget in (3.0, 4.0, 5.0):
        tokens = generator._sample([Query(budget)], [(0, budget)])[0]
        encodings = {generator.bundle.space.encode(t) for t in tokens}
        assert encodings <= set(rows)
        assert all(float(rows[e]["latency_ms"]) <= budget for e in encodings)


def test_free_answers_keep_the_budget_and_the_rules(project: Path) -> None:
    generator = OnnxGenerator(Bundle.load(project / "free"))
    for budget in np.linspace(generator.smallest_feasible_ms(), 6.0, 20):
        best = generator.generate(Query(float(budget))).best
        assert best.predicted.latency_upper_ms <= budget
        generator.bundle.space.decode(best.architecture.encoding)
    with pytest.raises(EncodingError, match="is forbidden"):
        generator.predict(["conv3:skip:skip:"])


def test_a_limit_that_nothing_is_known_of_is_refused_and_a_known_one_is_kept(project: Path) -> None:
    generator = OnnxGenerator(Bundle.load(project / "free"))
    with pytest.raises(BudgetError, match="limits.macs_m cannot be kept"):
        generator.generate(Query(5.0, Limits(macs_m=1.0)))
    free = generator.generate(Query(6.0)).best.predicted
    assert free.params is not None
    answer = generator.generate(Query(6.0, Limits(params_m=free.params / 1e6 - 0.3)))
    assert answer.best.predicted.params is not None
    assert answer.best.predicted.params <= free.params - 0.3e6
    assert free.macs is None


def test_a_changed_space_or_cut_costs_refuse_the_bundle(project: Path) -> None:
    bundle = Bundle.load(project / "free")
    manifest = json.loads(json.dumps(dict(bundle.manifest)))
    manifest["search_space"]["decisions"][0]["options"] = ["conv7", "conv3x"]
    with pytest.raises(BundleError):
        Bundle.assemble(manifest, bundle.contents)
    with pytest.raises(BundleError, match=TABLE_COSTS):
        Bundle.assemble(bundle.manifest, {**bundle.contents, TABLE_COSTS: b'{"format_version": 1, "learned": {}}'})


def test_it_is_served_like_any_other(client: TestClient) -> None:
    answer = client.post("/generate", json={"budget_ms": 4, "bundle": "held"}).json()
    assert answer["device"] == "lab bench"
    assert set(answer["architecture"]["choices"]) <= {"stem", "op1", "op2", "attention"}
    assert answer["predicted"]["macs_m"] is None
    assert answer["predicted"]["params_m"] > 0
    front = client.get("/pareto-front", params={"bundle": "held"}, headers={"accept": "text/csv"})
    assert front.text.splitlines()[1].startswith("conv")
    assert client.get("/bundles/held/known").json()["encodings"]
    decisions = client.get("/search-spaces/my-networks").json()["decisions"]
    assert [d["name"] for d in decisions] == ["stem", "op1", "op2", "attention"]


def test_explain_prices_the_next_step_by_the_front(client: TestClient, project: Path) -> None:
    body = client.post("/explain", json={"budget_ms": 4, "bundle": "held"}).json()
    best = body["answer"]["predicted"]
    assert (
        body["answer"]["architecture"]
        == client.post("/generate", json={"budget_ms": 4, "bundle": "held"}).json()["architecture"]
    )
    better = [
        float(r["latency_ms"])
        for r in measured(project).values()
        if float(r["accuracy"]) >= best["top1_percent"] / 100 + 0.001
    ]
    assert body["next_step"]["extra_latency_ms"] == pytest.approx(min(better) - best["latency_upper_ms"], abs=1e-3)
    assert body["novelty"]["num_differences"] == 0
    assert not body["novelty"]["is_extrapolation"]
    for alternative in body["alternatives"]:
        assert alternative["differences"]
        for difference in alternative["differences"]:
            assert alternative["architecture"]["choices"].get(difference["decision"]) == difference["alternative"]
    refused = client.post("/explain", json={"budget_ms": 0.1, "bundle": "held"})
    assert refused.status_code == 422
    assert refused.json()["smallest_feasible_ms"] > 0.1


def test_habits_are_what_the_front_does(project: Path) -> None:
    bundle = Bundle.load(project / "free")
    habits = {h.decision: h for h in Explainer(OnnxGenerator(bundle)).habits}
    for index, decision in enumerate(bundle.space.decisions):
        used = {e.split(":")[index] for e in (p.encoding for p in bundle.front)} - {""}
        assert set(habits[decision.name].never) == set(decision.options) - used
        assert habits[decision.name].always == (used.pop() if len(used) == 1 else None)


def test_explain_prints_what_binds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pnag("explain", "--bundle", project / "held", "--budget-ms", "4") == 0
    assert "the limit on latency binds" in capsys.readouterr().out


def test_init_overwrites_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "space.yaml").read_text()
    assert pnag("init", project) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert (project / "space.yaml").read_text() == before


def test_validate_fails_with_rows(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (project / "measurements.csv").read_text().replace("conv7,", "conv77,", 2)
    (tmp_path / "bad.csv").write_text(text)
    assert pnag("validate", "--space", project / "space.yaml", "--records", tmp_path / "bad.csv") == 1
    assert "stem is 'conv77' (did you mean 'conv7'?)" in capsys.readouterr().err


def test_a_metric_of_its_own_is_answered_in_its_own_unit(project: Path, tmp_path: Path) -> None:
    space = (project / "space.yaml").read_text() + "metric: {column: rmse, goal: minimise, unit: mm}\n"
    (tmp_path / "space.yaml").write_text(space)
    rows = read_csv(project / "measurements.csv")
    with (tmp_path / "r.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*(k for k in rows[0] if k != "accuracy"), "rmse"])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: v for k, v in row.items() if k != "accuracy"} | {"rmse": 9 - 5 * float(row["accuracy"])}
            )
    train: list[str | Path] = [
        "train",
        "--space",
        tmp_path / "space.yaml",
        "--records",
        tmp_path / "r.csv",
        "--only-recorded",
    ]
    assert pnag(*train, "--out", tmp_path / "bundle", "--recipe", "quick") == 0
    generator = OnnxGenerator(Bundle.load(tmp_path / "bundle"))
    best = generator.generate(Query(100.0)).best.predicted.metric
    assert best is not None
    assert best.value == pytest.approx(min(9 - 5 * float(r["accuracy"]) for r in rows), abs=1e-6)
    assert (best.name, best.unit, best.goal) == ("rmse", "mm", "minimise")
    assert best.interval is None or best.interval[0] <= best.value <= best.interval[1]
