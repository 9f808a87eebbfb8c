"""Ask a PNAG service from Python, with threads or with asyncio.

    with PnagClient("http://localhost:8000") as pnag:
        answer = pnag.generate(20)
        print(answer["architecture"]["encoding"], answer["predicted"]["latency_upper_ms"])

Answers are the typed dictionaries of `service.contract.schemas`: editors know them. 429, 503 and connections that
fail are tried again, waiting 2^n times `backoff_s` (or what Retry-After says), each wait drawn anew so that many
clients do not come back at once. To ask twice is harmless: the same question has the same answer.
"""

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpx

from pnag.service.contract.explanations import ExplainBody
from pnag.service.contract.schemas import AnswerBody, BundleBody, CandidateBody, FrontBody, ProblemBody

RETRIED = (429, 503)
MAX_WAIT_S = 30.0
MAX_BATCH = 100
"""Budgets per request of `generate_many`; the service's own limit may be set by PNAG_MAX_ITEMS."""


class PnagProblem(Exception):  # noqa: N818 (RFC 9457 calls it a problem)
    """The service refused a request and said why (RFC 9457).

    Attributes:
        status: the HTTP status.
        type: stable, to act on: `urn:pnag:problem:<code>`.
        body: everything it said; of an infeasible budget also `smallest_feasible_ms` and the architecture.
    """

    def __init__(self, status: int, body: ProblemBody) -> None:
        super().__init__(f"{status} {body.get('title', '')}: {body.get('detail', '')}")
        self.status = status
        self.type = str(body.get("type", ""))
        self.body = body


class PnagUnreachable(Exception):  # noqa: N818
    """No answer came, after all attempts."""


class PnagDamaged(Exception):  # noqa: N818
    """A file is not what its checksum says: ask again."""


class _Asking:
    """What both clients share: building requests, reading responses, deciding to wait."""

    def __init__(self, *, bundle: str | None, attempts: int, backoff_s: float) -> None:
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}; at least 1")
        self.bundle = bundle
        self._attempts = attempts
        self._backoff_s = backoff_s

    def _question(self, question: dict[str, Any]) -> dict[str, Any]:
        named = {"bundle": self.bundle} if self.bundle is not None else {}
        return named | {name: value for name, value in question.items() if value is not None}

    def _batches(self, budgets_ms: Sequence[float], question: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            self._question({**question, "budgets_ms": list(budgets_ms[i : i + MAX_BATCH])})
            for i in range(0, len(budgets_ms), MAX_BATCH)
        ]

    def _wait_s(self, attempt: int, response: httpx.Response | None) -> float | None:
        """How long to wait before the next attempt, None if there is none to make."""
        if attempt >= self._attempts or (response is not None and response.status_code not in RETRIED):
            return None
        asked = response.headers.get("retry-after", "") if response is not None else ""
        least: float = float(asked) if asked.isdigit() else 0.0
        drawn = random.uniform(0.5, 1.0) * self._backoff_s * float(2 ** (attempt - 1))
        return min(MAX_WAIT_S, least + drawn)

    @staticmethod
    def _read(response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            body = response.json()
        except ValueError:
            body = {"title": response.reason_phrase, "detail": response.text[:200]}
        raise PnagProblem(response.status_code, body)

    @staticmethod
    def _unreachable(error: httpx.TransportError, attempts: int) -> PnagUnreachable:
        return PnagUnreachable(f"{type(error).__name__} after {attempts} attempts: {error}")


def _results(pages: Sequence[httpx.Response]) -> list[AnswerBody | ProblemBody]:
    return [result for page in pages for result in page.json()["results"]]


def _model_path(architecture_id: str) -> str:
    return f"/architectures/{architecture_id}/model.onnx"


def _checked(response: httpx.Response) -> bytes:
    """The content, compared with the checksum that came with it."""
    told = response.headers.get("repr-digest", "")
    actual = f"sha-256=:{base64.b64encode(hashlib.sha256(response.content).digest()).decode()}:"
    if told and told != actual:
        raise PnagDamaged(f"{response.url}: the checksum is {actual}, the service says {told}")
    return response.content


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when all went well."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class PnagClient(_Asking):
    """The service, for code without asyncio. Safe to share between threads.

    Args:
        bundle: which bundle answers (a name, or `name@version`) where a call names none.
        api_key: sent as a bearer token.
        timeout_s: for each attempt.
        attempts: in all, the first included.
        transport: of httpx, for tests.
    """

    def __init__(
        self, base_url: str = "http://localhost:8000", *, bundle: str | None = None, api_key: str | None = None,
        timeout_s: float = 10.0, attempts: int = 4, backoff_s: float = 0.2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        super().__init__(bundle=bundle, attempts=attempts, backoff_s=backoff_s)
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s, transport=transport)

    def generate(self, budget_ms: float, **question: Any) -> AnswerBody:
        """The best network within a budget; also `limits`, `coverage`, `num_alternatives`, `bundle`.

        Raises:
            PnagProblem: if the service refuses, e.g. because no network fits.
            PnagUnreachable: if it does not answer.
        """
        return cast(AnswerBody, self._post("/generate", self._question({**question, "budget_ms": budget_ms})).json())

    def generate_many(self, budgets_ms: Sequence[float], **question: Any) -> list[AnswerBody | ProblemBody]:
        """One result per budget, in order; a budget without an answer is a problem (it has `status`) in its place."""
        return _results([self._post("/generate/batch", body) for body in self._batches(budgets_ms, question)])

    def explain(self, budget_ms: float, **question: Any) -> ExplainBody:
        """An answer, and why it is that one."""
        return cast(ExplainBody, self._post("/explain", self._question({**question, "budget_ms": budget_ms})).json())

    def predict(self, encodings: Sequence[str], **question: Any) -> list[CandidateBody]:
        """Predictions for networks by encoding, in order."""
        body = self._question({**question, "encodings": list(encodings)})
        return cast(list[CandidateBody], self._post("/predict", body).json()["results"])

    def pareto_front(self, **query: Any) -> FrontBody:
        """The front; `min_ms`, `max_ms`, `points`, `coverage`, `bundle`."""
        return cast(FrontBody, self._ask("GET", "/pareto-front", params=self._question(query)).json())

    def bundles(self) -> list[BundleBody]:
        """What the service holds."""
        return cast(list[BundleBody], self._ask("GET", "/bundles").json()["bundles"])

    def download_model(self, architecture_id: str, path: Path, **query: Any) -> Path:
        """The runnable ONNX network, where its bundle has weights; a broken-off download leaves no file. Also `bundle`.

        Raises:
            PnagProblem: `no-weights` where there are none; its detail has the `pnag export` command.
            PnagDamaged: if what came is not what the service sent.
        """
        with _whole_file(path) as part:
            part.write_bytes(_checked(self._ask("GET", _model_path(architecture_id), params=self._question(query))))
        return path

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        attempt = 0
        while True:
            attempt += 1
            response, error = None, None
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as exc:
                error = exc
            wait_s = self._wait_s(attempt, response)
            if wait_s is None:
                if error is not None:
                    raise self._unreachable(error, attempt) from error
                assert response is not None
                return self._read(response)
            time.sleep(wait_s)


class AsyncPnagClient(_Asking):
    """The same for asyncio; see `PnagClient`. `generate_many` asks its batches one after the other."""

    def __init__(
        self, base_url: str = "http://localhost:8000", *, bundle: str | None = None, api_key: str | None = None,
        timeout_s: float = 10.0, attempts: int = 4, backoff_s: float = 0.2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        super().__init__(bundle=bundle, attempts=attempts, backoff_s=backoff_s)
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout_s, transport=transport)

    async def generate(self, budget_ms: float, **question: Any) -> AnswerBody:
        """See `PnagClient.generate`."""
        response = await self._post("/generate", self._question({**question, "budget_ms": budget_ms}))
        return cast(AnswerBody, response.json())

    async def generate_many(self, budgets_ms: Sequence[float], **question: Any) -> list[AnswerBody | ProblemBody]:
        """See `PnagClient.generate_many`."""
        return _results([await self._post("/generate/batch", body) for body in self._batches(budgets_ms, question)])

    async def explain(self, budget_ms: float, **question: Any) -> ExplainBody:
        """See `PnagClient.explain`."""
        response = await self._post("/explain", self._question({**question, "budget_ms": budget_ms}))
        return cast(ExplainBody, response.json())

    async def predict(self, encodings: Sequence[str], **question: Any) -> list[CandidateBody]:
        """See `PnagClient.predict`."""
        response = await self._post("/predict", self._question({**question, "encodings": list(encodings)}))
        return cast(list[CandidateBody], response.json()["results"])

    async def pareto_front(self, **query: Any) -> FrontBody:
        """See `PnagClient.pareto_front`."""
        return cast(FrontBody, (await self._ask("GET", "/pareto-front", params=self._question(query))).json())

    async def bundles(self) -> list[BundleBody]:
        """See `PnagClient.bundles`."""
        return cast(list[BundleBody], (await self._ask("GET", "/bundles")).json()["bundles"])

    async def download_model(self, architecture_id: str, path: Path, **query: Any) -> Path:
        """See `PnagClient.download_model`."""
        with _whole_file(path) as part:
            part.write_bytes(
                _checked(await self._ask("GET", _model_path(architecture_id), params=self._question(query)))
            )
        return path

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self._ask("POST", path, json=body)

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        attempt = 0
        while True:
            attempt += 1
            response, error = None, None
            try:
                response = await self._http.request(method, path, **request)
            except httpx.TransportError as exc:
                error = exc
            wait_s = self._wait_s(attempt, response)
            if wait_s is None:
                if error is not None:
                    raise self._unreachable(error, attempt) from error
                assert response is not None
                return self._read(response)
            await asyncio.sleep(wait_s)
