"""Ask a running service for budgets, all the time, and count what came back: the witness of deploy/e2e."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pnag.bench.serving.load import NO_ANSWER, Answer, Asked, Request, ask_in_turn, percentile_ms, request

_NO_RETRY_AFTER = "no retry-after"


def traffic(
    url: str,
    key: str,
    seconds: float,
    connections: int,
    *,
    until: Path | None = None,
    pause_s: float = 0,
    fresh_every: int = 1,
    seed: int = 0,
    allowed: Collection[int] = (),
) -> dict[str, Any]:
    """Ask until the time is over or the file `until` is there; the counts as JSON."""
    requests = _requests(key, fresh_every, seed)
    asked = ask_in_turn(url, requests, connections, seconds, pause_s=pause_s, until=until, note=_note)
    return _counts(asked, allowed)


def _requests(key: str, fresh_every: int, seed: int) -> Iterator[Request]:
    """Budgets of which every n-th is new (0: none), for another 30 000 of them; the others are the same hundred."""
    fresh = count()
    for number in count():
        is_fresh = fresh_every and number % fresh_every == 0
        step = (next(fresh) * 7919 + seed * 104729) % 30_000 if is_fresh else number % 100
        yield "budget", request("POST", "/generate", {"budget_ms": round(15 + step / 1000, 3)}, key)


def _note(answer: Answer) -> str:
    """Version of the bundle that answered; of a refusal, whether it says when to come back."""
    if answer.status == 200:
        return str(json.loads(answer.content)["bundle"]["version"])
    return _NO_RETRY_AFTER if answer.status in (429, 503) and b"retry-after" not in answer.headers else ""


def _counts(asked: Sequence[Asked], allowed: Collection[int]) -> dict[str, Any]:
    """Failed are connections that broke and every status but 200 and the allowed ones."""
    answered = [one for one in asked if one.status != NO_ANSWER]
    return {
        "answered": len(answered),
        "failed": sum(one.status not in {200, *allowed} for one in asked),
        "broken": len(asked) - len(answered),
        "statuses": dict(Counter(str(one.status) for one in answered)),
        "versions": dict(Counter(one.note for one in answered if one.status == 200)),
        "without_retry_after": sum(one.note == _NO_RETRY_AFTER for one in answered),
        "p50_ms": round(percentile_ms(asked, 50), 1),
        "p99_ms": round(percentile_ms(asked, 99), 1),
        "max_ms": round(max((one.ms for one in answered), default=0.0), 1),
    }
