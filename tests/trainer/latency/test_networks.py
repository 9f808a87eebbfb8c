import numpy as np
import pytest

from pnag.models.cost.additive import macs_cost
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.errors import LatencyTableError
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.networks import extreme, spread_pool, stratified


def test_the_ends_are_those_of_an_exhaustive_search(macro: SearchSpace, macro_table: LatencyTable) -> None:
    cost = macro_table.cost(macro)
    every_one = macro.assignments([d.name for d in macro.decisions])
    assert len(every_one) == 6561
    assert cost(extreme(macro, cost)[np.newaxis])[0] == cost(every_one).min()
    assert cost(extreme(macro, lambda t: -cost(t))[np.newaxis])[0] == cost(every_one).max()


def test_the_ends_know_of_decisions_that_switch_others_on(ofa: SearchSpace) -> None:
    cost = macs_cost(ofa)
    cheapest = ofa.encode(extreme(ofa, cost))
    assert cheapest == "2,2,2,2,2:" + ",".join(["3,3,0,0"] * 5) + ":" + ",".join(["3,3,0,0"] * 5) + "@128"
    dearest = ofa.encode(extreme(ofa, lambda t: -cost(t)))
    assert dearest == "4,4,4,4,4:" + ",".join(["7"] * 20) + ":" + ",".join(["6"] * 20)


def test_networks_are_spread_evenly_from_end_to_end(ofa: SearchSpace) -> None:
    cost = macs_cost(ofa)
    chosen = stratified(ofa, cost, 20, np.random.default_rng(0), with_cheapest=True)
    assert len(set(chosen)) == 20
    macs = np.sort(cost(np.stack([ofa.decode(e) for e in chosen])))
    low, high = cost(extreme(ofa, cost)[np.newaxis])[0], cost(extreme(ofa, lambda t: -cost(t))[np.newaxis])[0]
    assert macs[0] == low
    assert macs[-1] > low + 0.9 * (high - low)
    assert np.diff(macs).max() < 0.12 * (high - low)
    # Uniform samples would crowd in the middle.
    uniform = cost(ofa.sample(1000, np.random.default_rng(0)))
    assert macs.std() > 1.3 * uniform.std()


def test_excluded_networks_are_never_taken_and_the_seed_decides(macro: SearchSpace, macro_table: LatencyTable) -> None:
    cost = macro_table.cost(macro)
    first = stratified(macro, cost, 30, np.random.default_rng(1))
    assert first == stratified(macro, cost, 30, np.random.default_rng(1))
    second = stratified(macro, cost, 30, np.random.default_rng(1), exclude=first)
    assert not set(first) & set(second)


def test_of_equally_dear_networks_the_preferred_ones_are_taken(ofa: SearchSpace) -> None:
    cost, wanted = macs_cost(ofa), ofa.index("resolution")

    def prefer(tokens_BD: np.ndarray) -> np.ndarray:
        return tokens_BD[:, wanted].astype(float)

    plain = stratified(ofa, cost, 20, np.random.default_rng(0))
    picked = stratified(ofa, cost, 20, np.random.default_rng(0), prefer=prefer)
    mean = [np.mean([ofa.decode(e)[wanted] for e in chosen]) for chosen in (plain, picked)]
    assert mean[1] > mean[0] + 2


def test_asking_for_more_networks_than_there_are_says_so(macro: SearchSpace, macro_table: LatencyTable) -> None:
    narrow = macro.restrict({d.name: ["identity", "mbconv_k3_e3"] for d in macro.decisions[:2]} | {
        d.name: ["identity"] for d in macro.decisions[2:]
    })  # fmt: skip
    assert narrow.num_architectures == 4
    assert len(set(stratified(narrow, macro_table.cost(narrow), 4, np.random.default_rng(0)))) == 4
    with pytest.raises(LatencyTableError, match="has no 5 networks"):
        stratified(narrow, macro_table.cost(narrow), 5, np.random.default_rng(0))


def test_a_pool_holds_only_valid_networks(ofa: SearchSpace) -> None:
    ofa.validate(spread_pool(ofa, macs_cost(ofa), 200, np.random.default_rng(0)))
