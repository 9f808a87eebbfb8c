"""The queue in front of inference: what comes together runs together, nobody waits in vain, it is never too long."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pnag.service.contract.problems import OverloadedError
from pnag.service.engine import inference_queue
from pnag.service.engine.inference_queue import InferenceQueue


class Runs:
    """A `run` that finishes when the test says so, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._gates = [threading.Semaphore(0) for _ in range(20)]

    def __call__(self, questions: Sequence[int]) -> Sequence[int]:
        number = len(self.batches)
        self.batches.append(list(questions))
        assert self._gates[number].acquire(timeout=10)
        return [question * 10 for question in questions]

    async def begun(self, count: int) -> None:
        """Wait until so many runs have begun."""
        while len(self.batches) < count:
            await asyncio.sleep(0.001)

    def finish(self, number: int) -> None:
        """Let one run end."""
        self._gates[number].release()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def queue(
    executor: ThreadPoolExecutor,
    run: Callable[[Sequence[int]], Sequence[int]],
    *,
    max_batch_size: int = 1,
    max_waiting: int = 8,
    max_waiting_busy: int = 8,
    num_runs: int = 1,
) -> InferenceQueue[int, int]:
    return InferenceQueue(
        [run] * num_runs,
        executor,
        max_batch_size=max_batch_size,
        max_waiting=max_waiting,
        max_waiting_busy=max_waiting_busy,
        on_start=lambda *_: None,
    )


def ask(inference: InferenceQueue[int, int], *questions: int) -> list["asyncio.Task[int]"]:
    return [asyncio.create_task(inference.ask(question)) for question in questions]


async def settle() -> None:
    """Let every task that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_what_waits_while_one_batch_runs_is_the_next_batch(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        inference = queue(executor, runs, max_batch_size=8)
        first = ask(inference, 1)
        await runs.begun(1)
        others = ask(inference, 2, 3, 4)
        await settle()
        runs.finish(0)
        await runs.begun(2)
        runs.finish(1)
        assert await asyncio.gather(*first, *others) == [10, 20, 30, 40]
        assert runs.batches == [[1], [2, 3, 4]]

    run(scenario)


def test_a_batch_is_never_larger_than_allowed(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        inference = queue(executor, runs, max_batch_size=2)
        asked = ask(inference, *range(7))
        for number in range(7):
            runs.finish(number)
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40, 50, 60]
        assert sum(runs.batches, []) == list(range(7))
        assert max(map(len, runs.batches)) == 2

    run(scenario)


def test_a_thread_takes_its_next_batch_while_the_event_loop_is_busy(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        asked = ask(queue(executor, runs), 1, 2)
        await runs.begun(1)
        runs.finish(0)
        for _ in range(10_000):  # the loop does not turn meanwhile
            if len(runs.batches) == 2:
                break
            threading.Event().wait(0.001)
        assert runs.batches == [[1], [2]]
        runs.finish(1)
        assert await asyncio.gather(*asked) == [10, 20]

    run(scenario)


def test_one_more_than_may_wait_is_refused_at_once(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        inference = queue(executor, runs, max_waiting=2)
        asked = ask(inference, 0)
        await runs.begun(1)  # runs, and no longer waits
        asked += ask(inference, 1, 2)
        await settle()
        with pytest.raises(OverloadedError, match="2 budgets are waiting"):
            await inference.ask(3)
        for number in range(3):
            runs.finish(number)
        assert await asyncio.gather(*asked) == [0, 10, 20]

    run(scenario)


def test_the_queue_stays_short_until_nobody_was_refused_for_a_while(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(inference_queue, "perf_counter", lambda: now)

    async def scenario() -> None:
        nonlocal now
        runs = Runs()
        inference = queue(executor, runs, max_batch_size=4, max_waiting=4, max_waiting_busy=1)
        asked = ask(inference, 0)
        await runs.begun(1)
        asked += ask(inference, 1, 2, 3, 4)
        await settle()
        with pytest.raises(OverloadedError):
            inference.check_room()
        runs.finish(0)
        await runs.begun(2)  # the four that waited run; from now on one may wait
        asked += ask(inference, 5)
        await settle()
        now += inference_queue.CALM_S * 0.9
        with pytest.raises(OverloadedError):
            inference.check_room()  # which is a refusal, too
        now += inference_queue.CALM_S * 0.9
        with pytest.raises(OverloadedError):
            inference.check_room()
        now += inference_queue.CALM_S * 1.1
        inference.check_room()
        asked += ask(inference, 6, 7, 8)
        await settle()
        for number in range(1, 4):
            runs.finish(number)
        assert await asyncio.gather(*asked) == [n * 10 for n in range(9)]

    run(scenario)


def test_an_asker_who_leaves_gives_its_place_back_and_is_not_run(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        inference = queue(executor, runs, max_waiting=1)
        first = ask(inference, 0)
        await runs.begun(1)
        (leaver,) = ask(inference, 1)
        await settle()
        with pytest.raises(OverloadedError, match="1 budgets are waiting"):
            inference.check_room()
        leaver.cancel()
        await settle()
        inference.check_room()
        stayer = ask(inference, 2)
        await settle()
        runs.finish(0)
        runs.finish(1)
        assert await asyncio.gather(*first, *stayer) == [0, 20]
        assert runs.batches == [[0], [2]]

    run(scenario)


def test_who_left_while_there_was_room_is_not_run_either(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        inference = queue(executor, runs, max_batch_size=4)
        first = ask(inference, 0)
        await runs.begun(1)
        leaver, stayer = ask(inference, 1, 2)
        await settle()
        leaver.cancel()
        await settle()
        runs.finish(0)
        runs.finish(1)
        assert [await first[0], await stayer] == [0, 20]
        assert runs.batches == [[0], [2]]

    run(scenario)


def test_an_asker_who_leaves_during_the_run_spoils_nothing(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        inference = queue(executor, runs, max_batch_size=4)
        first = ask(inference, 0)
        await runs.begun(1)
        leaver, stayer = ask(inference, 1, 2)
        await settle()
        runs.finish(0)
        await runs.begun(2)
        leaver.cancel()
        runs.finish(1)
        assert [await first[0], await stayer] == [0, 20]

    run(scenario)


def test_a_run_that_fails_fails_its_batch_and_no_other(executor: ThreadPoolExecutor) -> None:
    def fail_once(questions: Sequence[int]) -> Sequence[int]:
        if 1 in questions:
            raise ZeroDivisionError
        return questions

    async def scenario() -> None:
        results = await asyncio.gather(*ask(queue(executor, fail_once), 1, 2), return_exceptions=True)
        assert isinstance(results[0], ZeroDivisionError)
        assert results[1] == 2

    run(scenario)


def test_as_many_runs_as_there_are_go_on_at_a_time(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        runs = Runs()
        inference = queue(executor, runs, num_runs=2)
        asked = ask(inference, 0, 1, 2)
        await runs.begun(2)
        await asyncio.sleep(0.05)
        assert sorted(runs.batches) == [[0], [1]]
        runs.finish(1)
        await runs.begun(3)
        runs.finish(0)
        runs.finish(2)
        assert await asyncio.gather(*asked) == [0, 10, 20]

    run(scenario)


def test_two_queues_take_turns_on_one_thread() -> None:
    order: list[int] = []

    def note(questions: Sequence[int]) -> Sequence[int]:
        order.extend(questions)
        return questions

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            gate = threading.Event()
            executor.submit(gate.wait, 10)
            asked = ask(queue(executor, note), 1, 2, 3) + ask(queue(executor, note), 11, 12, 13)
            await settle()
            gate.set()
            await asyncio.gather(*asked)
        assert order == [1, 11, 2, 12, 3, 13]

    run(scenario)


def test_nobody_is_forgotten_between_two_runs(executor: ThreadPoolExecutor) -> None:
    async def scenario() -> None:
        inference = queue(executor, lambda questions: questions, num_runs=2)
        for number in range(300):  # asks again as soon as the reply is there, while the thread finds nobody waiting
            assert await inference.ask(number) == number

    run(scenario)
