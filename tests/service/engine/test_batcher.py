"""What is asked at the same time is asked together, and nobody waits in vain."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pnag.service.engine.batcher import Batcher


class Runs:
    """A `run` that finishes when the test says so, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._gates: list[asyncio.Event] = []

    async def __call__(self, questions: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(questions))
        gate = asyncio.Event()
        self._gates.append(gate)
        await gate.wait()
        return [question * 10 for question in questions]

    async def finish(self, number: int) -> None:
        """Let one run end, and everybody react."""
        self._gates[number].set()
        await settle()


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_what_waits_while_one_batch_runs_is_the_next_batch() -> None:
    async def scenario() -> None:
        runs = Runs()
        batcher = Batcher[int, int](runs, max_batch_size=8)
        first = asyncio.create_task(batcher.ask(1))
        await settle()
        others = [asyncio.create_task(batcher.ask(n)) for n in (2, 3, 4)]
        await settle()
        assert runs.batches == [[1]]
        await runs.finish(0)
        assert runs.batches == [[1], [2, 3, 4]]
        await runs.finish(1)
        assert [await first, *[await other for other in others]] == [10, 20, 30, 40]

    run(scenario)


def test_a_batch_is_never_larger_than_allowed() -> None:
    async def scenario() -> None:
        runs = Runs()
        batcher = Batcher[int, int](runs, max_batch_size=2)
        asked = [asyncio.create_task(batcher.ask(n)) for n in range(5)]
        for number in range(3):
            await settle()
            await runs.finish(number)
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40]
        assert max(map(len, runs.batches)) == 2

    run(scenario)


def test_who_leaves_is_not_asked_for() -> None:
    async def scenario() -> None:
        runs = Runs()
        batcher = Batcher[int, int](runs, max_batch_size=1)
        first = asyncio.create_task(batcher.ask(0))
        await settle()
        leaver = asyncio.create_task(batcher.ask(1))
        await settle()
        leaver.cancel()
        await settle()
        stayer = asyncio.create_task(batcher.ask(2))
        await settle()
        await runs.finish(0)
        await runs.finish(1)
        assert await asyncio.gather(first, stayer) == [0, 20]
        assert runs.batches == [[0], [2]]

    run(scenario)


def test_a_run_that_fails_fails_its_batch_and_no_other() -> None:
    async def scenario() -> None:
        async def fail_once(questions: Sequence[int]) -> Sequence[int]:
            if 1 in questions:
                raise ZeroDivisionError
            return questions

        batcher = Batcher[int, int](fail_once, max_batch_size=1)
        results = await asyncio.gather(*[batcher.ask(n) for n in (1, 2)], return_exceptions=True)
        assert isinstance(results[0], ZeroDivisionError)
        assert results[1] == 2

    run(scenario)


def test_an_idle_batcher_holds_no_task() -> None:
    async def scenario() -> None:
        async def echo(questions: Sequence[int]) -> Sequence[int]:
            return questions

        batcher = Batcher[int, int](echo, max_batch_size=4)
        before = asyncio.all_tasks()
        assert await batcher.ask(1) == 1
        await settle()
        assert asyncio.all_tasks() == before

    run(scenario)


def test_who_asks_just_as_the_last_worker_ends_is_answered() -> None:
    async def scenario() -> None:
        async def echo(questions: Sequence[int]) -> Sequence[int]:
            return questions

        batcher = Batcher[int, int](echo, max_batch_size=1)
        for number in range(50):  # asks as soon as the reply is there, before the worker's task counts as done
            assert await batcher.ask(number) == number

    run(scenario)
