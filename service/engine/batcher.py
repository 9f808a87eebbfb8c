"""Asks together what is asked at the same time: whatever comes in while one call goes on becomes the next call."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Reply = TypeVar("Reply")


class Batcher(Generic[Question, Reply]):
    """One batch at a time, of at most `max_batch_size` questions. What is inference has a queue of its own.

    Args:
        run: gets a batch, returns one reply for each question.
    """

    def __init__(self, run: Callable[[Sequence[Question]], Awaitable[Sequence[Reply]]], *, max_batch_size: int) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._waiting: deque[tuple[Question, asyncio.Future[Reply]]] = deque()
        self._worker: asyncio.Task[None] | None = None  # the loop itself holds tasks weakly

    async def ask(self, question: Question) -> Reply:
        """The reply to one question; whoever is cancelled is not asked for."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, reply))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="batcher")
        return await reply

    async def _work(self) -> None:
        """Lives while somebody waits."""
        try:
            while batch := self._take():
                try:
                    answers = await self._run([question for question, _ in batch])
                except Exception as exc:
                    for _, reply in batch:
                        if not reply.done():
                            reply.set_exception(exc)
                    continue
                for (_, reply), answer in zip(batch, answers, strict=True):
                    if not reply.done():
                        reply.set_result(answer)
        finally:
            # At once, not when the task is done: who asks in between must find that a worker is needed.
            self._worker = None

    def _take(self) -> list[tuple[Question, "asyncio.Future[Reply]"]]:
        batch: list[tuple[Question, asyncio.Future[Reply]]] = []
        while self._waiting and len(batch) < self._max_batch_size:
            question, reply = self._waiting.popleft()
            if not reply.done():
                batch.append((question, reply))
        return batch
