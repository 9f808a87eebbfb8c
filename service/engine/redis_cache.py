"""Answers shared between replicas through Redis, which may fail in any way without a request noticing.

Three rules make that so. Nobody waits for Redis longer than its time-out, because a look-up that fails or is slow opens
the circuit breaker at once. While it is open nobody asks Redis; a background task tries it until it answers again, so
no request ever pays for the try. Writing happens behind the answer, and what Redis cannot take is dropped.

Look-ups that come in while one is under way go out together as one MGET: a round trip costs this process more time than
the rest of a cached answer.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pnag.service.settings import Settings
from pnag.service.telemetry.metrics import Metrics

log = structlog.get_logger("pnag.redis")

CHECK_BYTES = 16
MAX_VALUE_BYTES = 65_536
MAX_PENDING_WRITES = 2_000
WRITES_AT_ONCE = 100
FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 5.0
"""Between two tries. It starts with a pause, so that a Redis that is only now and then too slow costs little."""


class RedisCache:
    """Get and put; neither ever raises, and get never takes longer than the time-out. Starts closed to requests."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        assert settings.redis_url is not None
        self._timeout_s = settings.redis_timeout_ms / 1000
        self._ttl_s = settings.redis_ttl_s
        self._namespace = settings.redis_namespace
        self._lookups, self._errors, self._up = metrics.redis_lookups, metrics.redis_errors, metrics.redis_up
        # redis-py retries by default, which turns a refused connection into seconds.
        self._client: Redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=1,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )
        self._asked: list[tuple[str, asyncio.Future[bytes | None]]] = []
        self._reader: asyncio.Task[None] | None = None
        self._writes: deque[tuple[str, bytes]] = deque(maxlen=MAX_PENDING_WRITES)
        self._something_to_write = asyncio.Event()
        self._is_up = False
        self._is_down = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to try Redis; it is used from when it answers."""
        self._up.set(0)
        self._is_down.set()
        self._tasks = [asyncio.create_task(self._keep_trying()), asyncio.create_task(self._keep_writing())]

    async def close(self) -> None:
        """Close the connections; what is not written yet is dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(RedisError, OSError, TimeoutError):
            await asyncio.wait_for(self._client.aclose(), 1)

    async def get(self, key: str) -> bytes | None:
        """The value last put under this key by any replica, or None."""
        if not self._is_up:
            self._lookups.labels("down").inc()
            return None
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._asked.append((key, answer))
        if self._reader is None:
            self._reader = asyncio.create_task(self._keep_reading())
        stored = await answer
        if stored is None:
            self._lookups.labels("miss").inc()
            return None
        value = stored[CHECK_BYTES:]
        if stored[:CHECK_BYTES] != _check(key, value):
            self._lookups.labels("invalid").inc()
            return None
        self._lookups.labels("hit").inc()
        return value

    def put(self, key: str, value: bytes) -> None:
        """Share a value, some time soon, if Redis lets us."""
        if self._is_up and len(value) <= MAX_VALUE_BYTES:
            self._writes.append((key, _check(key, value) + value))
            self._something_to_write.set()

    async def _keep_reading(self) -> None:
        """One round after the other, each for all that was asked during the last one, while anything is asked."""
        try:
            while self._asked:
                waiting = [(key, answer) for key, answer in self._asked if not answer.done()]  # not for who has left
                self._asked = []
                values: Sequence[bytes | None] = [None] * len(waiting)
                try:
                    values = await self._read_many([key for key, _ in waiting]) if waiting else []
                finally:
                    for (_, answer), value in zip(waiting, values, strict=True):
                        if not answer.done():
                            answer.set_result(value)
        finally:
            self._reader = None  # at once, not when the task is done: who asks in between must start another

    async def _read_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        if not self._is_up:
            return [None] * len(keys)
        try:
            names = [f"{self._namespace}:{key}" for key in keys]
            values = await asyncio.wait_for(self._client.mget(names), self._timeout_s)
            if len(values) != len(keys):
                raise RedisError(f"{len(values)} values for {len(keys)} keys")
        except Exception as exc:  # what answers may be no Redis, and its reply anything: all who wait are told "a miss"
            self._fail("get", exc)
            return [None] * len(keys)
        return [value if isinstance(value, bytes) else None for value in values]

    async def _keep_writing(self) -> None:
        while True:
            await self._something_to_write.wait()
            self._something_to_write.clear()
            while self._writes and self._is_up:
                some = [self._writes.popleft() for _ in range(min(len(self._writes), WRITES_AT_ONCE))]
                try:
                    async with self._client.pipeline(transaction=False) as pipeline:
                        for key, value in some:
                            pipeline.set(f"{self._namespace}:{key}", value, ex=self._ttl_s)
                        await asyncio.wait_for(pipeline.execute(), 1)
                except (RedisError, OSError, TimeoutError) as exc:
                    self._fail("set", exc)

    async def _keep_trying(self) -> None:
        pause_s = 0.0  # at the start only
        while True:
            await self._is_down.wait()
            await asyncio.sleep(pause_s)
            try:
                await self._client.connection_pool.disconnect()  # a reply that came too late must not be read later
                await asyncio.wait_for(self._client.ping(), 1)  # looks up the name and connects
                await asyncio.wait_for(self._client.ping(), self._timeout_s)
            except (RedisError, OSError, TimeoutError) as exc:
                self._errors.labels("ping").inc()
                if pause_s < LAST_PAUSE_S:
                    log.warning("redis does not answer", error=type(exc).__name__, next_try_in_s=pause_s)
                pause_s = min(max(pause_s * 2, FIRST_PAUSE_S), LAST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            self._is_down.clear()
            self._is_up = True
            self._up.set(1)
            log.info("redis is in use")

    def _fail(self, operation: str, exc: Exception) -> None:
        """Count, and keep away from Redis if it is the connection that failed."""
        self._errors.labels(operation).inc()
        if self._is_up and operation == "get":
            self._is_up = False
            self._up.set(0)
            self._is_down.set()
            # The message may hold the address with its password.
            log.warning("redis failed, going on without it", operation=operation, error=type(exc).__name__)


def _check(key: str, value: bytes) -> bytes:
    """The bytes that a value of ours starts with: others may write to the same Redis, and half a value is none."""
    return hashlib.blake2b(value, digest_size=CHECK_BYTES, key=key.encode()[:64]).digest()
