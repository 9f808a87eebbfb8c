"""The timing loop, with sessions that take as long as they are told: no assertion here depends on real time."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pnag.models.errors import LatencyTableError
from pnag.trainer.latency.timing.host import Setup
from pnag.trainer.latency.timing.rounds import Item, Plan, RoundsDone, is_done, open_session, time_interleaved
from pnag.trainer.latency.timing.samples import Sample, at_clock, lower_quartile
from tests.fixtures.devices import FakeSessions

SETUP = Setup()


def _items(count: int, size_bytes: int = 0) -> list[Item]:
    return [Item(f"item{i}", size_bytes, lambda: b"") for i in range(count)]


def test_every_round_visits_every_item_once(fake_sessions: type[FakeSessions]) -> None:
    noise = np.random.default_rng(0)
    sessions = fake_sessions(lambda _name, _run: 1 + noise.random())
    samples: dict[str, list[Sample]] = {}
    plan = Plan(rounds=10, runs_per_round=2, min_rounds=10)
    assert time_interleaved(_items(4), SETUP, plan, samples, open_item=sessions.open)
    per_visit = 1 + plan.runs_per_round
    assert len(sessions.runs) == 10 * 4 * per_visit
    for start in range(0, len(sessions.runs), 4 * per_visit):
        visited = sessions.runs[start : start + 4 * per_visit : per_visit]
        assert sorted(visited) == ["item0", "item1", "item2", "item3"]
    assert len(sessions.opened) == 4
    assert all(len(rounds) == 10 for rounds in samples.values())


def test_a_slow_spell_costs_each_item_a_few_rounds_and_moves_no_result(fake_sessions: type[FakeSessions]) -> None:
    true_ms = {f"item{i}": 1.0 + i for i in range(5)}

    def duration(name: str, run: int) -> float:
        return true_ms[name] * (3.0 if 100 < run < 160 else 1.0)

    samples: dict[str, list[Sample]] = {}
    sessions = fake_sessions(duration)
    time_interleaved(_items(5), SETUP, Plan(rounds=40, min_rounds=40), samples, open_item=sessions.open)
    for name, rounds in samples.items():
        assert lower_quartile(at_clock(rounds, 1.0)) == pytest.approx(true_ms[name])


def test_the_clock_probe_takes_out_what_the_clock_did(fake_sessions: type[FakeSessions]) -> None:
    # The clock wanders; work and probe take time in proportion. Scaled, nothing of it is left.
    wander = 1 + 0.2 * np.sin(np.arange(20_000) / 300)
    sessions = fake_sessions(lambda _name, run: 2.0 * wander[run])
    samples: dict[str, list[Sample]] = {}

    def probe() -> float:
        return 0.01 * float(wander[len(sessions.runs)])

    plan = Plan(rounds=60, min_rounds=60)
    time_interleaved(_items(8), SETUP, plan, samples, probe=probe, open_item=sessions.open)
    reference = 0.01
    for rounds in samples.values():
        raw = [ms for ms, _ in rounds]
        assert max(raw) / min(raw) > 1.3
        np.testing.assert_allclose(at_clock(rounds, reference), 2.0, rtol=0.02)


def test_a_clock_that_changes_during_a_visit_is_not_believed(fake_sessions: type[FakeSessions]) -> None:
    sessions = fake_sessions(lambda _name, _run: 1.0)
    ticks = iter(np.tile([0.010, 0.010, 0.010, 0.012, 0.012, 0.012], 100))
    samples: dict[str, list[Sample]] = {}
    time_interleaved(
        _items(1),
        SETUP,
        Plan(rounds=20, min_rounds=20),
        samples,
        probe=lambda: float(next(ticks)),
        open_item=sessions.open,
    )
    assert {clock for _, clock in samples["item0"]} == {0.0}
    assert at_clock(samples["item0"], 5.0) == [1.0] * 20


@given(
    times=st.lists(st.floats(0.01, 100), min_size=1, max_size=30),
    clock=st.floats(0.001, 1),
    factor=st.floats(0.1, 10),
)
def test_scaling_follows_from_the_definition(times: list[float], clock: float, factor: float) -> None:
    samples = [(ms, clock) for ms in times]
    np.testing.assert_allclose(at_clock(samples, clock * factor), [ms * factor for ms in times])
    # A machine twice as slow, probe included, gives the same figures.
    slower = [(2 * ms, 2 * c) for ms, c in samples]
    np.testing.assert_allclose(at_clock(slower, clock), at_clock(samples, clock))


def test_steady_items_stop_early_and_noisy_ones_go_on(fake_sessions: type[FakeSessions]) -> None:
    noise = np.random.default_rng(0)
    sessions = fake_sessions(lambda name, _run: 1.0 if name == "item0" else float(1 + 9 * noise.random()))
    samples: dict[str, list[Sample]] = {}
    plan = Plan(rounds=200, runs_per_round=1, min_rounds=30)
    time_interleaved(_items(2), SETUP, plan, samples, open_item=sessions.open)
    assert len(samples["item0"]) == 30
    assert len(samples["item1"]) > 30


@given(rounds=st.integers(1, 6), min_rounds=st.integers(0, 6), done=st.integers(0, 7))
def test_any_plan_can_tell_whether_it_is_done(rounds: int, min_rounds: int, done: int) -> None:
    samples = [(1.0 + i, 0.0) for i in range(done)]
    assert is_done(samples, Plan(rounds=rounds, min_rounds=min_rounds)) is (done >= rounds)


def test_stopping_and_going_on_measures_nothing_twice(fake_sessions: type[FakeSessions]) -> None:
    noise = np.random.default_rng(0)
    sessions = fake_sessions(lambda _name, _run: float(1 + noise.random()))
    plan = Plan(rounds=12, min_rounds=12, stop_after_s=0.05)
    samples: dict[str, list[Sample]] = {}
    stops = 0
    before: dict[str, list[Sample]] = {}
    while not time_interleaved(_items(6), SETUP, plan, samples, open_item=sessions.open, clock=sessions.clock):
        for name, rounds in before.items():
            assert samples[name][: len(rounds)] == rounds
        before = {name: list(rounds) for name, rounds in samples.items()}
        stops += 1
    assert stops > 3
    assert all(len(rounds) == 12 for rounds in samples.values())


def test_what_is_done_is_not_opened_again(fake_sessions: type[FakeSessions]) -> None:
    sessions = fake_sessions(lambda _name, _run: 1.0)
    samples: dict[str, list[Sample]] = {"item0": [(1.0, 0.0)] * 12}
    time_interleaved(_items(2), SETUP, Plan(rounds=12), samples, open_item=sessions.open)
    assert sessions.opened == ["item1"]


def test_open_sessions_stay_within_the_memory_they_are_given(fake_sessions: type[FakeSessions]) -> None:
    sessions = fake_sessions(lambda _name, _run: 1.0)
    samples: dict[str, list[Sample]] = {}
    plan = Plan(rounds=25, visits=5, max_session_bytes=50_000_000, min_rounds=25)
    # 2 x 4.5 MB and one more each: five fit.
    assert time_interleaved(_items(12, 4_500_000), SETUP, plan, samples, open_item=sessions.open)
    assert sessions.most_alive == 5
    assert all(len(rounds) == 25 for rounds in samples.values())


def test_progress_ends_at_its_total_whatever_stops_early(fake_sessions: type[FakeSessions]) -> None:
    noise = np.random.default_rng(0)
    sessions = fake_sessions(lambda name, _run: 1.0 if name == "item0" else float(1 + noise.random()))
    seen: list[RoundsDone] = []
    time_interleaved(_items(3), SETUP, Plan(rounds=50), {}, progress=seen.append, open_item=sessions.open)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert {p.total for p in seen} == {150}
    assert seen[-1].done == 150


def test_an_execution_provider_that_is_not_there_is_named_with_those_that_are() -> None:
    item = Item("item", 0, lambda: b"")
    with pytest.raises(
        LatencyTableError, match=r"'TpuExecutionProvider' is not in this onnxruntime.*CPUExecutionProvider"
    ):
        open_session(item, Setup(execution_provider="TpuExecutionProvider"))


def test_a_session_keeps_the_tensors_it_is_bound_to() -> None:
    # The binding does not: onnxruntime 1.19 crashes, 1.32 reads freed memory without a word.
    import onnxruntime as ort

    from pnag.trainer.latency.graphs import empty_graph

    run = open_session(Item("x", 0, lambda: empty_graph().SerializeToString()), SETUP)
    assert run() > 0
    held = [cell.cell_contents for cell in run.__closure__ or ()]
    held += [part for entry in held if isinstance(entry, tuple) for part in entry]
    assert sum(isinstance(entry, ort.OrtValue) for entry in held) == 2


def test_a_killed_process_keeps_its_rounds_and_the_next_goes_on(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import random, sys, time
        from pathlib import Path
        from pnag.models.space.registry import get_space
        from pnag.trainer.latency import measure
        from pnag.trainer.latency.timing import rounds
        from pnag.trainer.latency.timing.host import Setup
        rounds.SAVE_EVERY_S = 0.0
        def open_item(item, setup):
            def run():
                time.sleep(0.0002)
                return 1 + random.random()
            return run
        space, how = get_space("nas-bench-macro"), measure.Run(30, min_rounds=30)
        found = measure.measure(space, {"name": "x"}, Setup(), how, layers=space.distinct_layers(),
                                partial=Path(sys.argv[1]), open_item=open_item, probe=None)
        print(found.is_complete)
        """
    )
    path = tmp_path / "measurements.json"
    command = [sys.executable, "-c", script, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    from pnag.trainer.latency.timing.measurements import Measurements

    kept = Measurements.load(path)
    assert not kept.is_complete
    assert kept.layers
    half_written = set(tmp_path.glob(".*"))  # what the kill fell into, if it fell into writing; nobody reads it
    assert len(half_written) <= 1
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "True"
    whole = Measurements.load(path)
    assert whole.is_complete
    for key, rounds in kept.layers.items():
        assert whole.layers[key][: len(rounds)] == rounds
    assert {len(rounds) for rounds in whole.layers.values()} == {30}
    assert set(tmp_path.glob(".*")) == half_written, "a process that finished left a half-written file behind"
