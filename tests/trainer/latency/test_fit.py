import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnag.models.cost.latency_table import LatencyTable, LayerLatency, NetworkLatency
from pnag.models.errors import BudgetError, LatencyTableError, MissingLayerError
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency import check, fit

TRUE = {"overhead": 1.4, "conv": 0.6, "linear": 0.9, "mbconv": 1.05, "mbconv-se": 0.8}


def _measured(
    table: LatencyTable, space: SearchSpace, encodings: list[str], noise: float = 0.0, seed: int = 0, scale: float = 1.0
) -> list[NetworkLatency]:
    """Networks on a device whose families are off by the factors of TRUE."""
    rng = np.random.default_rng(seed)
    networks = []
    for encoding in encodings:
        ms = TRUE["overhead"] * table.overhead_ms
        ms += sum(TRUE[x.family] * table.layers[x.key].ms for x in space.layers(encoding))
        ms *= scale * float(np.exp(rng.normal(0, noise)))
        networks.append(NetworkLatency(encoding, ms, ms * 1.01))
    return networks


def test_ten_networks_are_enough_for_a_device_that_is_off_by_family(ofa_table: LatencyTable) -> None:
    space, calibrating, _ = fit.choose_networks(ofa_table, 10, 0, seed=0)
    fitted = fit.calibrate(ofa_table, space, _measured(ofa_table, space, calibrating, noise=0.005))
    fresh = [space.encode(t) for t in space.sample(200, np.random.default_rng(7))]
    truth = np.array([n.ms for n in _measured(ofa_table, space, fresh)])
    before = np.abs(fit.predict(ofa_table, space, fresh) / truth - 1).mean()
    after = np.abs(fit.predict(fitted, space, fresh) / truth - 1).mean()
    assert before > 0.1
    assert after < 0.01
    assert fitted.calibration is not None
    assert fitted.calibration.num_networks == 10


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 0.8), count=st.integers(3, 8))
def test_coefficients_are_never_negative(
    macro: SearchSpace, macro_table: LatencyTable, seed: int, noise: float, count: int
) -> None:
    space = macro
    calibrating = [space.encode(t) for t in space.sample(count, np.random.default_rng(seed))]
    fitted = fit.calibrate(macro_table, space, _measured(macro_table, space, calibrating, noise, seed))
    assert fitted.calibration is not None
    assert all(c >= 0 for c in fitted.calibration.coefficients.values())
    assert (fit.predict(fitted, space, calibrating) > 0).all()


def test_a_device_k_times_slower_gets_coefficients_k_times_larger(macro_table: LatencyTable) -> None:
    space, calibrating, _ = fit.choose_networks(macro_table, 10, 0, seed=3)
    once, thrice = (
        fit.calibrate(macro_table, space, _measured(macro_table, space, calibrating, 0.02, scale=scale)).calibration
        for scale in (1.0, 3.0)
    )
    assert once is not None
    assert thrice is not None
    for family, coefficient in once.coefficients.items():
        assert thrice.coefficients[family] == pytest.approx(3 * coefficient, rel=1e-3, abs=1e-5)


def test_what_the_networks_do_not_tell_stays_at_the_common_scale(ofa_table: LatencyTable) -> None:
    # Three networks, all noise: nothing can be learned about five families, so all stay near one factor.
    space, calibrating, _ = fit.choose_networks(ofa_table, 3, 0, seed=0)
    fitted = fit.calibrate(ofa_table, space, _measured(ofa_table, space, calibrating, noise=0.3, seed=5))
    assert fitted.calibration is not None
    factors = np.array(list(fitted.calibration.coefficients.values()))
    assert factors.max() / factors.min() < 3


def test_calibrating_forgets_the_bound_and_the_check_that_were_made_before(macro_table: LatencyTable) -> None:
    space, calibrating, bounding = fit.choose_networks(macro_table, 5, 20, seed=0)
    fitted = fit.calibrate(macro_table, space, _measured(macro_table, space, calibrating))
    bounded = replace(fit.bound(fitted, space, _measured(macro_table, space, bounding, 0.1), 0.95), check={"x": 1})
    assert bounded.upper_bound is not None
    again = fit.calibrate(bounded, space, _measured(macro_table, space, calibrating))
    assert again.upper_bound is None
    assert again.check is None


def test_the_bound_is_the_conformal_order_statistic(macro_table: LatencyTable) -> None:
    space, calibrating, bounding = fit.choose_networks(macro_table, 5, 40, seed=0)
    fitted = fit.calibrate(macro_table, space, _measured(macro_table, space, calibrating))
    networks = _measured(macro_table, space, bounding, 0.1)
    bounded = fit.bound(fitted, space, networks, 0.95)
    ratios = sorted(
        n.slow_ms / p
        for n, p in zip(networks, fit.predict(fitted, space, bounding), strict=True)
    )  # fmt: skip
    for coverage in (0.9, 0.95):
        rank = math.ceil(41 * coverage)
        assert bounded.bound_factor(coverage) == pytest.approx(ratios[rank - 1], rel=1e-5)
    with pytest.raises(BudgetError, match="at least 99 measured networks; the table has 40"):
        bounded.bound_factor(0.99)


def test_the_bound_holds_as_often_as_it_promises(macro_table: LatencyTable) -> None:
    # Over many draws of bounding networks, the share of fresh networks under the bound is the coverage, no less.
    space, calibrating, _ = fit.choose_networks(macro_table, 10, 0, seed=0)
    fitted = fit.calibrate(macro_table, space, _measured(macro_table, space, calibrating))
    rng = np.random.default_rng(0)
    encodings = [space.encode(t) for t in space.sample(400, rng)]
    predicted_ms = dict(zip(encodings, fit.predict(fitted, space, encodings), strict=True))
    covered = []
    for draw in range(30):
        networks = _measured(macro_table, space, encodings, 0.1, seed=draw)
        order = np.random.default_rng(draw).permutation(len(networks))
        bounding, fresh = [networks[i] for i in order[:40]], [networks[i] for i in order[40:]]
        factor = fit.bound(fitted, space, bounding, 0.9).bound_factor(0.9)
        predicted = np.array([predicted_ms[n.architecture] for n in fresh])
        covered.append(np.mean([n.slow_ms for n in fresh] <= factor * predicted))
    assert 0.88 < np.mean(covered) < 0.94


def test_too_few_networks_say_how_many_are_needed(macro_table: LatencyTable) -> None:
    space, calibrating, bounding = fit.choose_networks(macro_table, 5, 18, seed=0)
    with pytest.raises(LatencyTableError, match="2 networks cannot calibrate.*at least 3"):
        fit.calibrate(macro_table, space, _measured(macro_table, space, calibrating[:2]))
    fitted = fit.calibrate(macro_table, space, _measured(macro_table, space, calibrating))
    with pytest.raises(BudgetError, match="at least 19 measured networks; the table has 18"):
        fit.bound(fitted, space, _measured(macro_table, space, bounding), 0.95)


def test_a_network_with_a_layer_that_was_never_measured_is_named(macro_table: LatencyTable, macro: SearchSpace) -> None:
    gone = macro.layers("20000000")[1].key
    holed = replace(macro_table, layers={k: v for k, v in macro_table.layers.items() if k != gone})
    with pytest.raises(MissingLayerError, match=gone):
        fit.calibrate(holed, macro, [NetworkLatency(e, 1.0, 1.0) for e in ("20000000", "00000000", "11111111")])


def test_the_cheapest_network_is_always_among_those_that_calibrate(macro_table: LatencyTable) -> None:
    for seed in range(3):
        space, calibrating, bounding = fit.choose_networks(macro_table, 6, 20, seed)
        cost = macro_table.cost(space)
        every_one = space.assignments([d.name for d in space.decisions])
        assert cost(space.decode(calibrating[0])[np.newaxis])[0] == cost(every_one).min()
        assert len({*calibrating, *bounding}) == 26


def test_a_checks_networks_had_no_part_in_the_fit(macro_table: LatencyTable) -> None:
    space, calibrating, bounding = fit.choose_networks(macro_table, 6, 20, seed=0)
    networks = _measured(macro_table, space, [*calibrating, *bounding])
    fitted = replace(fit.calibrate(macro_table, space, networks[:6]), networks=tuple(networks))
    for seed in range(3):
        _, fresh = check.choose_check_networks(fitted, 30, seed)
        assert not {*calibrating, *bounding} & set(fresh)
    with pytest.raises(LatencyTableError, match="had a part in the fit"):
        check.check(fitted, space, networks[:5])


def test_a_checks_figures_follow_from_their_definitions(macro_table: LatencyTable) -> None:
    space, calibrating, bounding = fit.choose_networks(macro_table, 8, 30, seed=0)
    networks = _measured(macro_table, space, [*calibrating, *bounding], 0.03)
    fitted = fit.calibrate(macro_table, space, networks[:8])
    fitted = replace(fit.bound(fitted, space, networks[8:], 0.9), networks=tuple(networks))
    _, fresh = check.choose_check_networks(fitted, 25, seed=1)
    measured = _measured(macro_table, space, fresh, 0.05, seed=9)
    again_too = check.fixed_points(fitted)
    again = [replace(n, ms=1.07 * n.ms) for n in networks if n.architecture in again_too]
    found = check.check(fitted, space, measured, again)
    predicted = fit.predict(fitted, space, fresh)
    errors = predicted / np.array([n.ms for n in measured]) - 1
    slow = np.array([n.slow_ms for n in measured])
    assert found.figures["mape_percent"] == pytest.approx(100 * np.abs(errors).mean(), abs=1e-3)
    assert found.figures["bias_percent"] == pytest.approx(100 * errors.mean(), abs=1e-3)
    assert found.figures["within_5_percent"] == pytest.approx(100 * (np.abs(errors) <= 0.05).mean(), abs=0.1)
    assert found.figures["over_bound_percent"]["0.9"] == pytest.approx(
        100 * (slow > fitted.bound_factor(0.9) * predicted).mean(), abs=0.01
    )
    assert "0.99" not in found.figures["over_bound_percent"]
    assert found.figures["host_shift_percent"] == pytest.approx(7.0, abs=0.01)
    assert found.figures["macs_only"]["mape_percent"] > found.figures["mape_percent"]
    assert len(again_too) == 3
    assert again_too[0] == min(networks, key=lambda n: n.ms).architecture


def test_a_networks_latency_is_a_good_round_and_a_slow_one() -> None:
    rounds = [(ms, 0.0) for ms in (1.0, 1.1, 1.2, 1.3, 1.4)]
    (network,) = fit.network_latencies({"x": rounds}, for_bound=False)
    assert (network.ms, network.slow_ms) == (1.1, 1.2)


def test_the_bound_is_made_for_the_hosts_slowest_quarter_of_the_time() -> None:
    # Three networks, each 40 rounds; the host is 10 % slow in the third quarter, and one network has noise of its own.
    host = np.repeat([1.0, 1.02, 1.10, 1.0], 10)
    samples = {f"n{i}": [((i + 1) * h, 0.0) for h in host] for i in range(3)}
    samples["n2"] = [(ms * (3.0 if r < 10 else 1.0), 0.0) for r, (ms, _) in enumerate(samples["n2"])]
    assert fit.host_wander(samples.values()) == pytest.approx(1.10 / 1.01, rel=0.01)
    plain = fit.network_latencies(samples, for_bound=False)
    slow = fit.network_latencies(samples, for_bound=True)
    for one, other in zip(plain, slow, strict=True):
        assert other.slow_ms == pytest.approx(one.slow_ms * fit.host_wander(samples.values()))
        assert one.ms == other.ms
    assert fit.host_wander([]) == 1.0
    assert fit.host_wander([[(1.0, 0.0)] * 2]) == 1.0


def test_a_network_measured_alone_is_judged_by_its_own_slowest_quarter() -> None:
    times = [1.0] * 10 + [1.1] * 10 + [1.3] * 10 + [1.0] * 10
    network = fit.network_latency("x", [(ms, 0.0) for ms in times])
    assert network.ms == 1.0
    assert network.slow_ms == pytest.approx(1.3)


def test_uncalibrated_tables_of_one_family_need_no_other(macro: SearchSpace) -> None:
    # A table whose layers all cost the same still fits: the number of layers is all there is to learn.
    table = LatencyTable(
        macro.name, fit_device(), "invented", {x.key: LayerLatency(1.0) for x in macro.distinct_layers()}, 0.1
    )
    space, calibrating, _ = fit.choose_networks(table, 6, 0, seed=0)
    networks = [NetworkLatency(e, 2.0 * len(space.layers(e)), 1.0) for e in calibrating]
    fitted = fit.calibrate(table, space, networks)
    np.testing.assert_allclose(fit.predict(fitted, space, calibrating), [n.ms for n in networks], rtol=0.02)


def fit_device():
    from pnag.models.cost.latency_table import Device

    return Device("invented")


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=10))
def test_kendall_tau_counts_pairs_and_is_tau_b_where_there_are_ties(pairs: list[tuple[int, int]]) -> None:
    predicted, measured = np.array(pairs, dtype=np.float64).T
    signs = np.array(
        [np.sign([predicted[i] - predicted[j], measured[i] - measured[j]]) for i in range(len(pairs)) for j in range(i)]
    )
    untied = float(np.prod(np.abs(signs).sum(axis=0)))
    expected = float(np.prod(signs, axis=1).sum()) / untied**0.5 if untied else math.nan
    assert check.accuracy_figures(predicted, measured)["kendall_tau"] == pytest.approx(expected, abs=1e-4, nan_ok=True)
