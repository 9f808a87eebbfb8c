"""The Python client: against the real application, and against servers that misbehave."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pnag_client import AsyncPnagClient, PnagClient, PnagDamaged, PnagProblem, PnagUnreachable

ANSWER = {"architecture": {"encoding": "x"}, "budget_ms": 20}
Handler = Callable[[httpx.Request], httpx.Response]


def scripted(*replies: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    """A server that gives these replies in turn, and what it was asked."""
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        reply = replies[len(asked) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    return handle, asked


def client(handler: Handler, **options: object) -> PnagClient:
    return PnagClient("http://pnag", transport=httpx.MockTransport(handler), backoff_s=0.0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("trouble", [httpx.Response(503), httpx.Response(429), httpx.ConnectError("refused")])
def test_trouble_that_passes_is_tried_again(trouble: httpx.Response | Exception) -> None:
    handler, asked = scripted(trouble, trouble, httpx.Response(200, json=ANSWER))
    with client(handler, bundle="b") as pnag:
        assert pnag.generate(20, coverage=0.9)["budget_ms"] == 20
    assert len(asked) == 3
    assert json.loads(asked[-1].content) == {"bundle": "b", "budget_ms": 20, "coverage": 0.9}


def test_a_refusal_is_told_at_once_with_its_type() -> None:
    problem = {"type": "urn:pnag:problem:infeasible-budget", "title": "T", "status": 422, "detail": "D"}
    handler, asked = scripted(httpx.Response(422, json=problem))
    with client(handler) as pnag, pytest.raises(PnagProblem, match="422 T: D") as caught:
        pnag.generate(0.1)
    assert caught.value.type == problem["type"]
    assert len(asked) == 1


def test_attempts_end() -> None:
    handler, asked = scripted(*[httpx.ReadTimeout("slow")] * 2)
    with client(handler, attempts=2) as pnag, pytest.raises(PnagUnreachable, match="after 2 attempts"):
        pnag.bundles()
    assert len(asked) == 2
    handler, asked = scripted(*[httpx.Response(503, text="<html>")] * 2)
    with client(handler, attempts=2) as pnag, pytest.raises(PnagProblem, match="503"):
        pnag.bundles()
    with pytest.raises(ValueError, match="at least 1"):
        client(handler, attempts=0)


def test_retry_after_is_the_least_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("pnag_client.client.time.sleep", waits.append)
    limited = httpx.Response(429, headers={"retry-after": "3"})
    handler, _ = scripted(limited, limited, httpx.Response(200, json={"bundles": []}))
    with PnagClient("http://pnag", transport=httpx.MockTransport(handler), backoff_s=1.0) as pnag:
        pnag.bundles()
    assert 3.5 <= waits[0] <= 4.0
    assert 4.0 <= waits[1] <= 5.0


def test_many_budgets_go_in_batches_and_come_back_in_order() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        budgets = json.loads(request.content)["budgets_ms"]
        assert len(budgets) <= 100
        return httpx.Response(200, json={"results": [{"budget_ms": b} for b in budgets]})

    budgets = [float(i) for i in range(1, 251)]
    with client(handle) as pnag:
        assert [r["budget_ms"] for r in pnag.generate_many(budgets)] == budgets  # type: ignore[typeddict-item]


def test_a_download_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    handler, _ = scripted(
        httpx.Response(404, json={"title": "no weights", "status": 404}), httpx.Response(200, content=b"onnx")
    )
    with client(handler) as pnag:
        with pytest.raises(PnagProblem):
            pnag.download_model("id", tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []
        assert pnag.download_model("id", tmp_path / "m.onnx").read_bytes() == b"onnx"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_damaged_download_is_noticed_and_leaves_no_file(tmp_path: Path) -> None:
    digest = base64.b64encode(hashlib.sha256(b"onnx").digest()).decode()
    headers = {"repr-digest": f"sha-256=:{digest}:"}
    handler, asked = scripted(
        httpx.Response(200, content=b"on", headers=headers), httpx.Response(200, content=b"onnx", headers=headers)
    )
    with client(handler) as pnag:
        with pytest.raises(PnagDamaged, match="the checksum is"):
            pnag.download_model("id", tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []
        assert pnag.download_model("id", tmp_path / "m.onnx", bundle="mine").read_bytes() == b"onnx"
    assert [request.url.query for request in asked] == [b"", b"bundle=mine"]


def test_asyncio_does_the_same() -> None:
    handler, asked = scripted(httpx.Response(503), httpx.Response(200, json=ANSWER))

    async def run() -> None:
        transport = httpx.MockTransport(handler)
        async with AsyncPnagClient("http://pnag", api_key="k", backoff_s=0.0, transport=transport) as pnag:
            assert (await pnag.generate(20))["architecture"]["encoding"] == "x"

    asyncio.run(run())
    assert [r.headers["authorization"] for r in asked] == ["Bearer k", "Bearer k"]


def test_both_clients_offer_the_same() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(PnagClient) == public(AsyncPnagClient)
