"""One question, one answer: which bundle, is it remembered, is somebody asking the same, else ask the generator.

Everything that answers budgets comes through here. `Answerer.answer` is the one door of `POST /generate`: the entry
calls it with the bytes of a body, the route with those that a query amounts to. Batches and the Open Inference Protocol
ask for several budgets by `answer_each`.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pnag.models.answer.question import Limits, Query
from pnag.models.errors import InfeasibleBudgetError, PnagError
from pnag.models.space.search_space import Architecture
from pnag.service.contract.bodies import answer_body, architecture_body, to_json
from pnag.service.contract.problems import InfeasibleError, UnknownArchitectureError
from pnag.service.contract.schemas import Conditions, GenerateRequest
from pnag.service.engine.answer_memory import AnswerMemory, Key, Reply
from pnag.service.engine.bundles import BundleStore
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.settings import Settings

if TYPE_CHECKING:
    from pnag.service.engine.redis_cache import RedisCache

FORMAT = 1
"""Of answers in Redis: replicas with different code may share one. Raise it when `answer_body` changes."""

NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Question:
    """A request that is understood: for which bundle, what, and under which key its answer is kept."""

    bundle: LoadedBundle
    query: Query
    key: Key
    """Equal for two questions exactly if they have the same answer: defaults are filled in, budgets are rounded."""


class _LeaderGoneError(Exception):
    """The request that was asking for several has been cancelled."""


class Answerer:
    """Answer budgets with ready JSON bytes."""

    def __init__(self, bundles: BundleStore, redis: "RedisCache | None", settings: Settings) -> None:
        self._bundles = bundles
        self._max_batch_size = settings.max_batch_size
        self._memory = AnswerMemory(settings.cache_entries)
        self._redis = redis
        self._asking: dict[Key, asyncio.Future[Reply]] = {}

    def remembered(self, body: bytes) -> Reply | None:
        """The answer to a request with this very body, if this process has it: nothing is parsed, nobody waits."""
        return self._memory.of_body(body, self._bundles.catalogue.digest)

    async def answer(self, body: bytes) -> Reply:
        """The best network for a `GenerateRequest` in JSON, as JSON.

        Raises:
            ValidationError: if the body is no such request.
            UnknownBundleError, BundleRequiredError, BudgetError, InfeasibleError, OverloadedError.
        """
        catalogue = self._bundles.catalogue
        request = GenerateRequest.model_validate_json(body)
        asked = question(catalogue.get(request.bundle), request, request.budget_ms)
        reply = await self.answer_question(asked)
        self._memory.link_body(body, catalogue.digest, asked.key)
        return reply

    async def answer_question(self, asked: Question) -> Reply:
        """The best network for a question, as JSON. Requests that ask the same at the same time ask once.

        Raises:
            BudgetError, InfeasibleError, OverloadedError.
        """
        remembered = self._memory.get(asked.key)
        if remembered is not None:
            return remembered
        while (under_way := self._asking.get(asked.key)) is not None:
            try:
                return Reply((await asyncio.shield(under_way)).content, "shared")
            except _LeaderGoneError:
                continue
        under_way = self._asking[asked.key] = asyncio.get_running_loop().create_future()
        try:
            reply = await self._find(asked)
        except BaseException as exc:
            under_way.set_exception(exc if isinstance(exc, Exception) else _LeaderGoneError())
            under_way.exception()  # seen, even if nobody else was waiting
            raise
        else:
            under_way.set_result(reply)
            return reply
        finally:
            del self._asking[asked.key]

    async def answer_each(
        self, bundle: LoadedBundle, conditions: Conditions, budgets_ms: Sequence[float]
    ) -> list[Reply | Exception]:
        """Answers to several budgets in their order; in place of one, the reason why there is none.

        Raises:
            OverloadedError: all of it, so that the caller comes back with all of it.
        """

        async def one(budget_ms: float) -> Reply | Exception:
            try:
                return await self.answer_question(question(bundle, conditions, budget_ms))
            except (PnagError, InfeasibleError) as exc:
                return exc

        replies: list[Reply | Exception] = []
        # A run at a time: a long list must not fill the queue that single budgets wait in.
        for start in range(0, len(budgets_ms), self._max_batch_size):
            replies += await asyncio.gather(*map(one, budgets_ms[start : start + self._max_batch_size]))
        return replies

    async def known_encoding(self, architecture_id: str) -> tuple[LoadedBundle, str] | None:
        """The network behind an id, and a bundle that predicts it: of a front, or answered lately by any replica."""
        bundles = self._bundles.catalogue.bundles
        for bundle in bundles:
            encoding = bundle.encoding_of(architecture_id)
            if encoding is not None:
                return bundle, encoding
        stored = await self._redis.get(f"id:{architecture_id}") if self._redis else None
        if stored is not None:
            space, _, encoding = stored.decode(errors="replace").partition("|")
            for bundle in bundles:
                if bundle.space.name == space and Architecture(space, encoding).id == architecture_id:
                    return bundle, encoding
        return None

    async def find_architecture(self, architecture_id: str) -> tuple[LoadedBundle, str]:
        """Look up the network behind an id, for a request that is about it.

        Raises:
            UnknownArchitectureError: if no bundle knows it.
        """
        found = await self.known_encoding(architecture_id)
        if found is None:
            raise UnknownArchitectureError(
                f"no loaded bundle knows architecture {architecture_id!r}; ids come with answers of /generate, "
                "/predict and /pareto-front, and are kept for a while. POST its encoding to /predict"
            )
        return found

    async def _find(self, asked: Question) -> Reply:
        shared_key = _shared_key(asked) if self._redis else ""
        if self._redis:
            content = await self._redis.get(shared_key)
            if content is not None:
                self._memory.put(asked.key, content)
                return Reply(content, "redis")
        bundle = asked.bundle
        try:
            answer = await bundle.generate(asked.query)
        except InfeasibleBudgetError as exc:
            raise infeasible(bundle, exc) from exc
        # A copy: orjson's own bytes lie in a larger block, and remembered ones would keep 4 kB each instead of 1.
        content = bytes(memoryview(to_json(answer_body(bundle.bundle, answer))))
        for candidate in (answer.best, *answer.alternatives):
            found = candidate.architecture
            bundle.remember(found.id, found.encoding)
            if self._redis:
                self._redis.put(f"id:{found.id}", f"{found.space}|{found.encoding}".encode())
        self._memory.put(asked.key, content)
        if self._redis:
            self._redis.put(shared_key, content)
        return Reply(content, "miss")


def question(bundle: LoadedBundle, conditions: Conditions, budget_ms: float) -> Question:
    """Read a budget and its conditions as a question to a bundle.

    Raises:
        BudgetError: if the budget is not a positive number once rounded down.
    """
    limits = Limits(**conditions.limits.model_dump()) if conditions.limits is not None else NO_LIMITS
    query = Query(budget_ms, limits, conditions.coverage, conditions.num_alternatives)
    key = (
        bundle.digest,
        bundle.generator.num_candidates,
        query.budget_ms,
        bundle.default_coverage if query.coverage is None else query.coverage,
        query.num_alternatives,
        limits.macs_m,
        limits.params_m,
        limits.size_mb,
        limits.peak_memory_mb,
    )
    return Question(bundle, query, key)


def _shared_key(asked: Question) -> str:
    return f"answer:{FORMAT}:{hashlib.blake2b(repr(asked.key).encode(), digest_size=20).hexdigest()}"


def infeasible(bundle: LoadedBundle, exc: InfeasibleBudgetError) -> InfeasibleError:
    """The error to raise for a budget that no network keeps, with the one that comes nearest."""
    assert exc.encoding is not None, "the runtime names the network that comes nearest"
    architecture = bundle.space.architecture(exc.encoding)
    bundle.remember(architecture.id, architecture.encoding)
    return InfeasibleError(str(exc), exc.smallest_feasible_ms, architecture_body(bundle.space, architecture))
