"""Answers waiting questions together: whatever came in while all runs were busy becomes the next batch.

Nobody waits for a batch to fill: waiting .5-5 ms for company only lost requests per second (docs/decisions.md).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, TypeVar

from service.errors import OverloadedError

Question = TypeVar("Question")
Reply = TypeVar("Reply")


@dataclass(slots=True)
class _Job(Generic[Question, Reply]):
    question: Question
    reply: "asyncio.Future[Reply]"
    since: float = field(default_factory=perf_counter)


class Batcher(Generic[Question, Reply]):
    """At most `max_runs` batches at a time of at most `max_batch_size` questions; at most `max_waiting` more may wait.

    An asker who is cancelled gives its place back.

    Args:
        run: gets a batch, returns one reply for each question.
        on_start: told of each batch: its size, how long its first question waited in s, how many still wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Question]], Awaitable[Sequence[Reply]]],
        *,
        max_batch_size: int,
        max_waiting: int,
        max_runs: int = 1,
        on_start: Callable[[int, float, int], None] | None = None,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_waiting = max_waiting
        self._max_runs = max_runs
        self._on_start = on_start
        self._waiting: deque[_Job[Question, Reply]] = deque()
        self._num_workers = 0
        self._workers: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question) -> Reply:
        """The reply to one question.

        Raises:
            OverloadedError: at once, if too many wait already.
        """
        self.check_room()
        job = _Job[Question, Reply](question, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._num_workers < self._max_runs:
            self._num_workers += 1
            worker = asyncio.create_task(self._work(), name="batcher")
            self._workers.add(worker)  # the loop itself holds tasks weakly
            worker.add_done_callback(self._workers.discard)
        return await job.reply

    def check_room(self) -> None:
        """Whether one more may wait.

        Raises:
            OverloadedError: if not.
        """
        if len(self._waiting) >= self._max_waiting:
            self._drop_cancelled()
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError(f"{len(self._waiting)} budgets are waiting already")

    async def _work(self) -> None:
        """Lives while somebody waits, so that an idle batcher holds no task and is freed with its bundle."""
        try:
            while batch := self._take():
                try:
                    if self._on_start is not None:
                        self._on_start(len(batch), perf_counter() - batch[0].since, len(self._waiting))
                    replies = await self._run([job.question for job in batch])
                except Exception as exc:
                    for job in batch:
                        if not job.reply.done():
                            job.reply.set_exception(exc)
                    continue
                for job, reply in zip(batch, replies, strict=True):
                    if not job.reply.done():
                        job.reply.set_result(reply)
        finally:
            # At once, not when the task is done: who asks in between must find that a worker is needed.
            self._num_workers -= 1

    def _take(self) -> list[_Job[Question, Reply]]:
        batch: list[_Job[Question, Reply]] = []
        while self._waiting and len(batch) < self._max_batch_size:
            job = self._waiting.popleft()
            if not job.reply.done():
                batch.append(job)
        return batch

    def _drop_cancelled(self) -> None:
        self._waiting = deque(job for job in self._waiting if not job.reply.done())
