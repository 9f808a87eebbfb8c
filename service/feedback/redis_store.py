"""Reports from the field in Redis, for replicas that share one."""

import asyncio
import json
from dataclasses import asdict

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pnag.service.contract.problems import NotReadyError
from pnag.service.feedback.report import MAX_REPORTS, TIMEOUT_S, TTL_S, FieldReport


class SharedReports:
    """In Redis, so that every replica adds to the same list.

    Raises:
        NotReadyError: if Redis does not answer in time; a report is not worth waiting for, and may be sent again.
    """

    def __init__(self, url: str, namespace: str, *, max_reports: int = MAX_REPORTS) -> None:
        self._max_reports = max_reports
        self._prefix = f"{namespace}:feedback:"
        self._client: Redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )

    async def add(self, digest: str, report: FieldReport) -> None:
        """Keep one more."""
        key = self._prefix + digest
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.lpush(key, json.dumps(asdict(report)))
            pipeline.ltrim(key, 0, self._max_reports - 1)
            pipeline.expire(key, TTL_S)
            try:
                await asyncio.wait_for(pipeline.execute(), TIMEOUT_S)
            except (RedisError, OSError, TimeoutError):
                raise NotReadyError("the report cannot be kept now; send it again later") from None

    async def all(self, digest: str) -> list[FieldReport]:
        """Read those that are kept, the newest first; what somebody else wrote there is left out."""
        try:
            texts = await asyncio.wait_for(_lrange(self._client, self._prefix + digest), TIMEOUT_S)
        except (RedisError, OSError, TimeoutError):
            raise NotReadyError("reports cannot be read now; ask again later") from None
        return [report for report in map(_read, texts) if report is not None]

    async def close(self) -> None:
        """Close the connections."""
        try:
            await asyncio.wait_for(self._client.aclose(), TIMEOUT_S)
        except (RedisError, OSError, TimeoutError):
            return


async def _lrange(client: Redis, key: str) -> list[bytes | str]:
    return list(await client.lrange(key, 0, -1))


def _read(text: bytes | str) -> FieldReport | None:
    try:
        return FieldReport(**json.loads(text))
    except (TypeError, ValueError):
        return None
