"""Ask a running service for budgets, all the time, and tell what came back: nothing but the standard library.

    traffic.py URL --key KEY --seconds 10                    the report, as JSON, on stdout
    traffic.py URL --key KEY --until FILE --workers 8        until the file is there

It is a witness, not a benchmark: it counts what failed, and how long the slowest took. For figures see load.sh.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from itertools import count
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit


class Asker:
    """Several workers, each on a connection of its own that it keeps."""

    def __init__(self, options: argparse.Namespace) -> None:
        url = urlsplit(options.url)
        self._host, self._port = url.hostname or "127.0.0.1", url.port or 80
        self._options = options
        self._numbers, self._fresh_numbers = count(), count()
        self.statuses: Counter[str] = Counter()
        self.caches: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.without_retry_after = 0

    def is_over(self, start: float) -> bool:
        """Whether the time has come to stop."""
        if self._options.until and os.path.exists(self._options.until):
            return True
        return perf_counter() - start > self._options.seconds

    async def work(self, start: float) -> None:
        """Ask until it is over."""
        reader = writer = None
        while not self.is_over(start):
            asked_at = perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(self._host, self._port)
                assert reader is not None
                async with asyncio.timeout(self._options.timeout_s):
                    writer.write(self._request())
                    status, headers, body = await _read(reader)
            except (OSError, EOFError, TimeoutError, ValueError) as exc:
                self.failures[type(exc).__name__] += 1
                if writer is not None:
                    writer.close()
                reader = writer = None
                await asyncio.sleep(0.05)
                continue
            self.seconds.append(perf_counter() - asked_at)
            self.statuses[str(status)] += 1
            self.caches[headers.get("x-cache", "-")] += 1
            if status == 200:
                self.versions[json.loads(body)["bundle"]["version"]] += 1
            elif status in (429, 503) and "retry-after" not in headers:
                self.without_retry_after += 1
            if headers.get("connection") == "close":
                writer.close()
                reader = writer = None
            if self._options.pause_s:
                await asyncio.sleep(self._options.pause_s)

    def _request(self) -> bytes:
        """Every n-th budget is new, for another 30 000 of them; the others are the same hundred."""
        number, every = next(self._numbers), self._options.fresh_every
        if every and number % every == 0:
            step = (next(self._fresh_numbers) * 7919 + self._options.seed * 104729) % 30_000
        else:
            step = number % 100
        body = json.dumps({"budget_ms": round(15 + step / 1000, 3)}).encode()
        return (
            b"POST /generate HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (self._host.encode(), self._options.key.encode(), len(body), body)
        )

    def report(self, seconds: float) -> dict[str, Any]:
        """What came back. `failed` counts connections that broke and every status but 200 (and 503 where it may be)."""
        ordered = sorted(self.seconds)
        fine = {"200", *self._options.allow}
        return {
            "answered": len(ordered),
            "seconds": round(seconds, 1),
            "failed": sum(self.failures.values()) + sum(n for s, n in self.statuses.items() if s not in fine),
            "statuses": dict(self.statuses),
            "broken": dict(self.failures),
            "cache": dict(self.caches),
            "versions": dict(self.versions),
            "without_retry_after": self.without_retry_after,
            **({f"p{q}_ms": round(ordered[int(len(ordered) * q / 100)] * 1e3, 1) for q in (50, 99)} if ordered else {}),
            "max_ms": round(ordered[-1] * 1e3, 1) if ordered else None,
        }


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return int(first.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def _main(options: argparse.Namespace) -> int:
    asker = Asker(options)
    start = perf_counter()
    await asyncio.gather(*(asker.work(start) for _ in range(options.workers)))
    print(json.dumps(asker.report(perf_counter() - start)))  # noqa: T201
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--key", default="")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--until", help="stop as soon as this file exists")
    parser.add_argument("--pause-s", type=float, default=0)
    parser.add_argument("--timeout-s", type=float, default=15)
    parser.add_argument("--fresh-every", type=int, default=1, help="1: all budgets differ; 5: every fifth; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="another order of budgets")
    parser.add_argument("--allow", action="append", default=[], help="a status beside 200 that is no failure")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(_options())))
