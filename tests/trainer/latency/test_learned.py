import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pnag.models.cost.additive import macs_cost
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.cost.learned_latency import LearnedLatency
from pnag.models.cost.slack import SlackTable
from pnag.models.errors import BudgetError, RecordsError
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.learned import table as learned
from pnag.trainer.latency.learned.table import Learning, learn, read_rows, to_table

NUM_LEARNT = 180


def _launch_bound_rows(
    space: SearchSpace, tokens: np.ndarray, device: Callable[..., float], noise: float
) -> np.ndarray:
    rng = np.random.default_rng(1)
    ms = np.array([device(space.layers(space.encode(t))) for t in tokens])
    return ms * np.exp(rng.normal(0, noise, len(ms)))


@pytest.fixture(scope="session")
def latencies(ofa: SearchSpace, ofa_rows: np.ndarray, launch_bound: Callable[..., float]) -> np.ndarray:
    return _launch_bound_rows(ofa, ofa_rows, launch_bound, 0.03)


@pytest.fixture(scope="session")
def learning(ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray) -> Learning:
    return learn(ofa, ofa_rows[:NUM_LEARNT], latencies[:NUM_LEARNT], candidates=("one-hot", "kernel"))


@pytest.fixture(scope="session")
def table(ofa: SearchSpace, learning: Learning) -> LatencyTable:
    return to_table(ofa, "a GPU", learning, 0.95, "rows.csv")


def test_what_was_learnt_predicts_networks_it_never_saw(
    ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray, learning: Learning, table: LatencyTable
) -> None:
    assert learning.model.method == "kernel"
    fresh, truth = ofa_rows[NUM_LEARNT:], latencies[NUM_LEARNT:]
    error = np.abs(table.predictor(ofa)(fresh) / truth - 1).mean()
    # 3 % noise alone is an error of 2.4 %.
    assert error < 0.03
    figures = learning.model.candidates
    assert figures["kernel"]["mape_percent"] < 0.9 * figures["one-hot"]["mape_percent"]
    # The held-out figure is honest: about what fresh networks show.
    assert error * 100 == pytest.approx(figures["kernel"]["mape_percent"], rel=0.2)


def test_the_bound_covers_what_it_promises_on_unseen_networks(
    ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray, table: LatencyTable
) -> None:
    fresh, truth = ofa_rows[NUM_LEARNT:], latencies[NUM_LEARNT:]
    predicted = table.predictor(ofa)(fresh)
    for coverage in (0.9, 0.95):
        covered = np.mean(truth <= table.bound_factor(coverage) * predicted)
        # Three standard deviations of a bound from 220 ratios judged on 680 networks.
        assert abs(covered - coverage) < 3 * np.sqrt(coverage * (1 - coverage) * (1 / NUM_LEARNT + 1 / len(fresh)))


def test_no_ratio_of_the_bound_comes_from_a_fit_that_saw_its_row(
    ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    real_fit, real_predictor = learned._fit, LearnedLatency.predictor

    def spy_fit(rows: object, chosen: np.ndarray, name: str, seed: int) -> LearnedLatency:
        seen.append(ofa_rows[:50][chosen])
        return real_fit(rows, chosen, name, seed)  # type: ignore[arg-type]

    def spy_predictor(self: LearnedLatency, space: SearchSpace, features: object = None) -> Callable[..., np.ndarray]:
        inner = real_predictor(self, space, features)  # type: ignore[arg-type]

        def predict(tokens: np.ndarray) -> np.ndarray:
            predicted.append(tokens)
            return inner(tokens)

        return predict

    monkeypatch.setattr(learned, "_fit", spy_fit)
    monkeypatch.setattr(LearnedLatency, "predictor", spy_predictor)
    found = learn(ofa, ofa_rows[:50], latencies[:50], candidates=("physical",))
    assert len(found.ratios) == 50
    assert sum(len(p) for p in predicted) == 50
    for fitted, asked in zip(seen, predicted, strict=False):
        assert not {t.tobytes() for t in fitted} & {t.tobytes() for t in asked}


def test_twenty_rows_teach_more_than_a_regression_on_options_ever_could(
    ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray
) -> None:
    found = learn(ofa, ofa_rows[:20], latencies[:20], candidates=("one-hot", "physical"))
    assert found.model.method == "physical"
    predicted = found.model.predictor(ofa)(ofa_rows[200:])
    assert np.abs(predicted / latencies[200:] - 1).mean() < 0.05
    # Twenty rows are enough for a bound at 0.95, and no further.
    bounded = to_table(ofa, "a GPU", found, 0.95, "rows.csv")
    assert bounded.bound_factor(0.95) == max(found.ratios)
    with pytest.raises(BudgetError, match="at least 99"):
        to_table(ofa, "a GPU", found, 0.99, "rows.csv")


def test_an_additive_device_is_recovered_exactly_where_rows_suffice(macro: SearchSpace) -> None:
    every_one = macro.assignments([d.name for d in macro.decisions])
    gains = np.random.default_rng(0).uniform(0.1, 1.0, (8, 3))
    truth = 2.0 + np.sum([gains[i, every_one[:, i]] for i in range(8)], axis=0)
    order = np.random.default_rng(1).permutation(len(every_one))
    rows = order[:150]
    found = learn(macro, every_one[rows], truth[rows], candidates=("one-hot", "additive"))
    fresh = order[150:1000]
    np.testing.assert_allclose(found.model.predictor(macro)(every_one[fresh]), truth[fresh], rtol=0.003)


def test_outliers_do_not_pull_the_prediction_up(ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    spoilt = latencies[:120] * np.where(rng.random(120) < 0.1, 3.0, 1.0)
    found = learn(ofa, ofa_rows[:120], spoilt, candidates=("additive",))
    predicted = found.model.predictor(ofa)(ofa_rows[200:])
    assert abs(np.median(predicted / latencies[200:]) - 1) < 0.03
    # But the bound has to cover them: a tenth of all rows.
    assert to_table(ofa, "x", found, 0.95, "rows.csv").bound_factor(0.95) > 2


def test_a_table_read_back_predicts_the_same_with_numpy_alone(
    ofa: SearchSpace, ofa_rows: np.ndarray, table: LatencyTable, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    again = LatencyTable.load(path)
    np.testing.assert_allclose(again.predictor(ofa)(ofa_rows), table.predictor(ofa)(ofa_rows), rtol=1e-6)
    np.testing.assert_allclose(again.cost(ofa)(ofa_rows), table.cost(ofa)(ofa_rows), rtol=1e-9)
    assert again.to_dict() == table.to_dict()
    assert path.stat().st_size < 400_000


def test_predictions_are_the_formula_written_out(ofa: SearchSpace, ofa_rows: np.ndarray, learning: Learning) -> None:
    """A slow second implementation, row by row, from the model's own numbers."""
    from pnag.models.cost.learned_latency import PHYSICAL

    model = learning.model
    assert model.correction is not None
    fast = model.predictor(ofa)(ofa_rows[300:310])
    for tokens, expected in zip(ofa_rows[300:310], fast, strict=True):
        layers = ofa.layers(ofa.encode(tokens))
        sums = {name: sum(quantity(x) for x in layers) for name, quantity in PHYSICAL.items()}
        physical = model.coefficients.get("constant", 0.0)
        physical += sum(sums[name] * c for name, c in model.coefficients.items() if name != "constant")
        total = model.intercept_ms + physical
        for term in model.terms:
            value = term.values[tuple(tokens[ofa.index(d)] for d in term.decisions)]
            if term.times is not None:
                value = value * (ofa.decisions[0].options[tokens[0]] / 224) ** 2
            total += value
        shape = [np.log1p(s) for s in sums.values()] + [float(ofa.decisions[0].options[tokens[0]])]
        shape += list(ofa.depth_features(tokens[np.newaxis])[0])
        shape_S = (np.array(shape) - model.correction.mean_S) / model.correction.scale_S
        share = 0.0
        for j, weight in enumerate(model.correction.weight_N):
            distances = {
                "shape": np.mean((shape_S - model.correction.shape_NS[j]) ** 2),
                "tokens": np.mean(tokens != model.correction.tokens_ND[j]),
            }
            for kernel in model.correction.kernels:
                share += weight * kernel.weight * np.exp(-distances[kernel.features] / (2 * kernel.length**2))
        assert total + physical * share == pytest.approx(expected, rel=1e-6)


def test_a_restricted_space_gets_the_same_predictions(
    ofa: SearchSpace, ofa_rows: np.ndarray, table: LatencyTable
) -> None:
    narrow = ofa.restrict({"resolution": [160, 192]})
    encodings = [ofa.encode(t) for t in ofa_rows if ofa.decisions[0].options[t[0]] in (160, 192)][:50]
    wide_tokens, narrow_tokens = (np.stack([s.decode(e) for e in encodings]) for s in (ofa, narrow))
    np.testing.assert_allclose(table.predictor(narrow)(narrow_tokens), table.predictor(ofa)(wide_tokens))
    np.testing.assert_allclose(table.cost(narrow)(narrow_tokens), table.cost(ofa)(wide_tokens))


def test_the_additive_stand_in_follows_the_prediction_and_fits_the_mask(
    ofa: SearchSpace, ofa_rows: np.ndarray, table: LatencyTable
) -> None:
    cost, predicted = table.cost(ofa), table.predictor(ofa)(ofa_rows)
    assert np.abs(cost(ofa_rows) / predicted - 1).mean() < 0.02
    assert abs((cost(ofa_rows) / predicted).mean() - 1) < 0.005
    # Closer than the additive part alone, which leaves out what does not add up.
    assert table.learned is not None
    part = replace(table.learned, surrogate=None).cost(ofa)
    assert np.abs(cost(ofa_rows) / predicted - 1).mean() < 0.8 * np.abs(part(ofa_rows) / predicted - 1).mean()
    # The slack mask tabulates it beside MACs; its floors never exceed the whole cost.
    slack = SlackTable.build(ofa, [cost, macs_cost(ofa)])
    floors = slack.lower_bounds(ofa_rows[:100])
    assert (floors[:, :, 0] <= cost(ofa_rows[:100])[:, np.newaxis] * (1 + 1e-5)).all()


def test_the_same_rows_and_seed_give_the_same_table(
    ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray
) -> None:
    first, again = (
        to_table(
            ofa, "x", learn(ofa, ofa_rows[:60], latencies[:60], seed=4, candidates=("kernel",)), 0.9, "r"
        ).to_dict()
        for _ in range(2)
    )
    assert json.dumps(first) == json.dumps(again)


def test_predictions_stay_positive_far_from_anything_learnt(ofa: SearchSpace, table: LatencyTable) -> None:
    assert table.learned is not None
    ends = [
        "2,2,2,2,2:" + ",".join(["3,3,0,0"] * 5) + ":" + ",".join(["3,3,0,0"] * 5) + "@128",
        "4,4,4,4,4:" + ",".join(["7"] * 20) + ":" + ",".join(["6"] * 20),
    ]
    low, high = table.predictor(ofa)(np.stack([ofa.decode(e) for e in ends]))
    assert 0 < table.learned.floor_ms <= low < high
    sunk = replace(table.learned, intercept_ms=-1000.0)
    assert (sunk.predictor(ofa)(np.stack([ofa.decode(e) for e in ends])) == table.learned.floor_ms).all()


@pytest.mark.parametrize(
    ("count", "factor", "message"),
    [(19, None, "19 rows cannot teach.*at least 20"), (30, 0.0, "latencies all lie between")],
)
def test_rows_that_cannot_teach_are_refused(
    ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray, count: int, factor: float | None, message: str
) -> None:
    ms = latencies[:count] if factor is None else np.full(count, 5.0)
    with pytest.raises(RecordsError, match=message):
        learn(ofa, ofa_rows[:count], ms)


def test_rows_of_one_cost_are_refused(ofa: SearchSpace, ofa_rows: np.ndarray, latencies: np.ndarray) -> None:
    macs = macs_cost(ofa)(ofa_rows)
    near = np.argsort(np.abs(macs - np.median(macs)))[:5]
    assert np.ptp(macs[near]) > 0
    rows = np.tile(ofa_rows[near], (4, 1))
    with pytest.raises(RecordsError, match=r"between \d+\.\d and \d+\.\d M MACs.*spread over cost"):
        learn(ofa, rows, np.tile(latencies[near], 4) * np.linspace(1, 1.5, 20))


def test_rows_of_several_devices_are_refused_with_their_names(macro: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("architecture,latency_ms,device\n02012100,3.5,phone\n11111221,4.5,laptop\n")
    with pytest.raises(RecordsError, match=r"mixes 2 devices \(laptop, phone\)"):
        read_rows(path, macro)
    path.write_text("architecture,latency_ms,device\n02012100,3.5,phone\n11111221,4.5,phone\n")
    assert len(read_rows(path, macro)) == 2
    path.write_text("architecture,accuracy\n02012100,.5\n")
    with pytest.raises(RecordsError, match="no latency_ms column"):
        read_rows(path, macro)


@pytest.mark.slow
def test_every_kind_of_device_is_learnt_at_least_as_well_as_by_a_regression(
    ofa: SearchSpace, launch_bound: Callable[..., float]
) -> None:
    """From launch-bound to compute-bound, 1000 rows each, judged on 4000: error and coverage."""
    rng = np.random.default_rng(2)
    tokens = rng.permutation(np.unique(ofa.sample(5100, rng), axis=0))[:5000]
    for launch_us in (0.5, 3.0, 8.0, 20.0):
        ms = _launch_bound_rows(ofa, tokens, lambda layers, us=launch_us: launch_bound(layers, us), 0.04)
        found = learn(ofa, tokens[:1000], ms[:1000])
        bounded = to_table(ofa, "x", found, 0.95, "rows.csv")
        predicted = bounded.predictor(ofa)(tokens[1000:])
        error = np.abs(predicted / ms[1000:] - 1).mean() * 100
        assert error <= found.model.candidates["one-hot"]["mape_percent"] * 1.02
        assert abs(np.mean(ms[1000:] <= bounded.bound_factor(0.95) * predicted) - 0.95) <= 0.02
