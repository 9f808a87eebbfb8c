"""The entry: it says what the route would say, ids and problems are on everything, fronts are cached."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import Message, Scope
from structlog.testing import capture_logs

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    return shared_client


def by_route(client: TestClient, content: bytes) -> tuple[int, Any]:
    """What the framework's route answers to a body, the entry having been kept from answering."""
    entry = client.app.entry  # type: ignore[attr-defined]

    async def pass_on(*_: Any) -> None:
        return None

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(entry, "_answer", pass_on)
        return outcome(client.post("/generate", content=content, headers=JSON))


def outcome(response: Any) -> tuple[int, Any]:
    body = response.json()
    body.pop("request_id", None)
    return response.status_code, body


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
budgets = st.floats(min_value=-1, max_value=20) | st.sampled_from([0, 1e-9, 6, 1e300]) | json_values
requests = st.fixed_dictionaries(
    {},
    optional={
        "budget_ms": budgets,
        "coverage": st.sampled_from([0.5, 0.9, 0.95, 0.999, 1, "x"]),
        "num_alternatives": st.sampled_from([0, 1, 20, 21, -1, None]),
        "limits": st.sampled_from([None, {}, {"macs_m": 30}, {"macs_m": 0}, {"macs": 1}, {"params_m": 0.001}]),
        "bundle": st.sampled_from([None, "tiny", "tiny@1", "tiny@2", "", "other"]),
        "else": st.just(1),
    },
).map(lambda request: json.dumps(request).encode())


@settings(deadline=None, max_examples=80)
@given(content=requests | json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20))
def test_the_entry_says_what_the_route_says(shared_client: TestClient, content: bytes) -> None:
    client = shared_client
    fast = outcome(client.post("/generate", content=content, headers=JSON))
    assert fast == by_route(client, content)
    assert fast == outcome(client.post("/generate", content=content, headers=JSON))  # and again, remembered
    assert fast[0] in (200, 404, 422)


def test_a_request_id_is_kept_if_it_is_plain_and_replaced_if_not(client: TestClient) -> None:
    def sent_back(request_id: str) -> str:
        got: str = client.post("/generate", json={"budget_ms": 6}, headers={"x-request-id": request_id}).headers[
            "x-request-id"
        ]
        return got

    assert sent_back("abc-123") == "abc-123"
    for bad in ("", "x" * 101, "a b", "a\tb"):
        assert sent_back(bad) != bad


def test_request_ids_differ(client: TestClient) -> None:
    ids = {client.post("/generate", json={"budget_ms": 6}).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


def test_a_crash_is_answered_plainly_and_logged_whole(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client()

    def crash(*_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(client.app.state.answerer, "answer_question", crash)
    for headers in ({}, {"x-request-timeout-ms": "1000"}):
        for path in ("/generate", "/generate?budget_ms=6"):
            body = None if "?" in path else {"budget_ms": 6}
            with capture_logs() as events:
                response = client.post(path, json=body, headers=headers)
            assert (response.status_code, response.json()["type"]) == (500, "urn:pnag:problem:internal-error")
            assert "secret" not in response.text
            assert response.headers["x-request-id"] == response.json()["request_id"]
            assert [event["exc_info"] for event in events if event["event"] == "request failed"] == [True]


@pytest.mark.parametrize("length", [100, 5_000])
def test_a_body_that_is_too_large_is_413_however_it_comes(make_client: Any, length: int) -> None:
    client = make_client(max_body_bytes=1024)
    content = json.dumps({"budget_ms": 6, "x": "y" * length}).encode()
    chunks = iter([content[:50], content[50:]])
    statuses = {
        client.post("/generate", content=content, headers=JSON).status_code,
        client.post("/generate", content=chunks, headers=JSON).status_code,
        client.post("/generate", content=content, headers={"content-type": "text/plain"}).status_code,
    }
    assert statuses == ({413} if length > 1024 else {422, 415})


@pytest.mark.parametrize("path", ["/generate", "/predict", "/generate/batch", "/v2/models/tiny/infer"])
def test_a_compressed_body_is_415(client: TestClient, path: str) -> None:
    response = client.post(path, content=b"\x1f\x8b", headers={**JSON, "content-encoding": "gzip"})
    assert (response.status_code, response.json()["type"]) == (415, "urn:pnag:problem:unsupported-media-type")


@pytest.mark.parametrize("value", ["0", "-5", "x", "nan"])
def test_a_time_out_that_is_none_is_refused(client: TestClient, value: str) -> None:
    response = client.post("/generate", json={"budget_ms": 6.789}, headers={"x-request-timeout-ms": value})
    assert (response.status_code, response.json()["type"]) == (422, "urn:pnag:problem:invalid-request")


# -- deadlines and callers who hang up: the application is called as a server would call it --------------------------


def scope_of(method: str, path: str, headers: dict[str, str]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


class Caller:
    """Sends one body, hangs up when told, and keeps what it got."""

    def __init__(self, body: bytes) -> None:
        self._messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self.hangs_up = asyncio.Event()
        self.got: list[Message] = []

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop()
        await self.hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.got.append(message)


@pytest.mark.parametrize("path", ["/generate", "/generate/batch"])
def test_time_that_is_up_ends_the_request_with_503(
    make_client: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    client = make_client()
    stopped: list[bool] = []

    async def never(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    monkeypatch.setattr(client.app.state.answerer, "_find", never)
    body = {"budget_ms": 6} if path == "/generate" else {"budgets_ms": [6]}
    response = client.post(path, json=body, headers={"x-request-timeout-ms": "200"})
    assert (response.status_code, response.json()["type"]) == (503, "urn:pnag:problem:deadline-exceeded")
    assert response.headers["retry-after"] == "1"
    assert stopped == [True]


@pytest.mark.parametrize("path", ["/generate", "/generate/batch"])
def test_a_caller_who_hangs_up_ends_what_was_done_for_it(
    make_client: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    app = make_client().app
    body = json.dumps({"budget_ms": 6} if path == "/generate" else {"budgets_ms": [6]}).encode()
    stopped: list[bool] = []

    async def scenario() -> None:
        begun = asyncio.Event()

        async def never(*_: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(True)

        monkeypatch.setattr(app.state.answerer, "_find", never)
        caller = Caller(body)
        request = asyncio.create_task(app(scope_of("POST", path, JSON), caller.receive, caller.send))
        await begun.wait()
        caller.hangs_up.set()
        await request
        assert caller.got == []

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert stopped == [True]
    assert 'route="/generate",status="499"' in app.state.metrics.exposition().decode() or path != "/generate"


# -- the front of a bundle, cached ------------------------------------------------------------------------------------


def test_an_unchanged_front_is_304(client: TestClient) -> None:
    first = client.get("/pareto-front")
    second = client.get("/pareto-front", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, second.status_code, second.content) == (200, 304, b"")
    assert second.headers["etag"] == first.headers["etag"]
    assert client.get("/pareto-front", headers={"if-none-match": '"another"'}).status_code == 200


def test_a_front_is_computed_once_for_each_query_and_kind(make_client: Any) -> None:
    client = make_client()
    asked = [
        client.get("/pareto-front", headers=headers, params=params).headers["x-cache"]
        for headers, params in [
            ({}, {}),
            ({}, {}),
            ({"accept": "text/csv"}, {}),
            ({}, {"points": 3}),
            ({}, {"points": 3}),
            ({"accept": "text/csv"}, {}),
        ]
    ]
    assert asked == ["miss", "memory", "miss", "miss", "memory", "memory"]


def test_kinds_of_a_front_have_different_etags(client: TestClient) -> None:
    etags = {client.get("/pareto-front", headers={"accept": kind}).headers["etag"] for kind in ("*/*", "text/csv")}
    assert len(etags) == 2


def test_a_large_answer_is_compressed_if_the_caller_likes(client: TestClient) -> None:
    plain = client.get("/pareto-front", headers={"accept-encoding": "identity"})
    packed = client.get("/pareto-front", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.json() == packed.json()
