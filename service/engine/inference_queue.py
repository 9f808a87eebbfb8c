"""The queue between requests and inference: whatever came in while all threads were busy becomes the next run.

Nobody waits for a run to fill: 0.5 to 5 ms of it only lost requests per second (docs/decisions/0020). A thread takes
its next batch itself. It must not wait for the event loop to hand it one: that one is busiest when there is most
to do.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Generic, TypeVar

from pnag.service.contract.problems import OverloadedError

CALM_S = 1.0
"""So long after the last refusal the queue may be at its longest again."""

Question = TypeVar("Question")
Reply = TypeVar("Reply")
Run = Callable[[Sequence[Question]], Sequence[Reply]]
"""Gets a batch, returns one reply for each question; called on one thread at a time."""


@dataclass(slots=True)
class _Job(Generic[Question, Reply]):
    question: Question
    reply: "asyncio.Future[Reply]"
    since: float = field(default_factory=perf_counter)


class InferenceQueue(Generic[Question, Reply]):
    """A batch at a time on each of the `runs`, of `max_batch_size` questions at most; `max_waiting` more may wait.

    That many is room for a burst. Under a load that lasts, a long queue serves nobody more and makes everybody wait:
    once somebody had to be refused only `max_waiting_busy` may wait, until nobody has been refused for CALM_S. An asker
    who is cancelled gives its place back.

    Args:
        executor: whose threads the runs are done on, turn by turn with whatever else it is given.
        on_start: told of each batch, on its thread: its size, how long its first question waited in s, how many still
            wait.
    """

    def __init__(
        self,
        runs: Sequence[Run[Question, Reply]],
        executor: Executor,
        *,
        max_batch_size: int,
        max_waiting: int,
        max_waiting_busy: int,
        on_start: Callable[[int, float, int], None],
    ) -> None:
        self._executor = executor
        self._max_batch_size = max_batch_size
        self._max_waiting = max_waiting
        self._max_waiting_busy = min(max_waiting_busy, max_waiting)
        self._on_start = on_start
        self._busy_until = -inf
        self._lock = threading.Lock()
        self._waiting: deque[_Job[Question, Reply]] = deque()
        self._idle = list(runs)

    async def ask(self, question: Question) -> Reply:
        """The reply to one question.

        Raises:
            OverloadedError: at once, if too many wait already.
        """
        self.check_room()
        job = _Job[Question, Reply](question, asyncio.get_running_loop().create_future())
        with self._lock:
            self._waiting.append(job)
            run = self._idle.pop() if self._idle else None
        if run is not None:
            self._executor.submit(self._work, run)
        return await job.reply

    def check_room(self) -> None:
        """Raise OverloadedError if one more may not wait."""
        now = perf_counter()
        limit = self._max_waiting_busy if now < self._busy_until else self._max_waiting
        if len(self._waiting) < limit:
            return
        with self._lock:
            for job in [job for job in self._waiting if job.reply.done()]:
                self._waiting.remove(job)
            num_waiting = len(self._waiting)
        if num_waiting >= limit:
            self._busy_until = now + CALM_S
            raise OverloadedError(f"{num_waiting} budgets are waiting already")

    def _work(self, run: Run[Question, Reply]) -> None:
        """One batch, on a thread; then again while somebody waits, behind whatever else the executor has to do."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch_size))]
            num_waiting = len(self._waiting)
        batch = [job for job in batch if not job.reply.done()]
        if batch:
            self._on_start(len(batch), perf_counter() - batch[0].since, num_waiting)
            try:
                replies: Sequence[Reply] | Exception = run([job.question for job in batch])
            except Exception as exc:
                replies = exc
            batch[0].reply.get_loop().call_soon_threadsafe(_deliver, batch, replies)
        with self._lock:
            goes_on = bool(self._waiting)
            if not goes_on:
                self._idle.append(run)
        if goes_on:
            self._executor.submit(self._work, run)


def _deliver(batch: "Sequence[_Job[Question, Reply]]", replies: Sequence[Reply] | Exception) -> None:
    """On the event loop: tell those who are still there."""
    if isinstance(replies, Exception):
        for job in batch:
            if not job.reply.done():
                job.reply.set_exception(replies)
        return
    for job, reply in zip(batch, replies, strict=True):
        if not job.reply.done():
            job.reply.set_result(reply)
