"""Equal questions share an answer: a key says which are equal, and those asked at the same time run once."""

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from pnag.models.answer.question import Query
from pnag.service.contract.schemas import Conditions, LimitsBody
from pnag.service.engine.answerer import Answerer, question
from pnag.service.engine.loaded_bundle import LoadedBundle


@pytest.fixture
def bundle(shared_client: TestClient) -> LoadedBundle:
    loaded: LoadedBundle = shared_client.app.state.bundles.catalogue.get(None)  # type: ignore[attr-defined]
    return loaded


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ((6.0, {}), (6.0004, {}), True),
        ((6.0, {}), (6.001, {}), False),
        ((6.0, {}), (6.0, {"coverage": 0.95}), True),  # the bundle's own
        ((6.0, {}), (6.0, {"coverage": 0.9}), False),
        ((6.0, {}), (6.0, {"limits": LimitsBody()}), True),
        ((6.0, {}), (6.0, {"limits": LimitsBody(macs_m=50)}), False),
        ((6.0, {"limits": LimitsBody(macs_m=5)}), (6.0, {"limits": LimitsBody(params_m=5)}), False),
        ((6.0, {}), (6.0, {"num_alternatives": 1}), False),
        ((6.0, {}), (6.0, {"bundle": "tiny@1"}), True),
    ],
)
def test_keys_are_equal_exactly_if_the_answers_are(
    bundle: LoadedBundle, one: tuple[float, Any], other: tuple[float, Any], equal: bool
) -> None:
    keys = [question(bundle, Conditions(**conditions), budget).key for budget, conditions in (one, other)]
    assert (keys[0] == keys[1]) is equal


class CountingBundle:
    """A bundle that answers when the test says so, and counts."""

    def __init__(self, bundle: LoadedBundle) -> None:
        self._bundle = bundle
        self.asked: list[Query] = []
        self.gate = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bundle, name)

    async def generate(self, query: Query) -> Any:
        self.asked.append(query)
        await self.gate.wait()
        return self._bundle.generator.generate(query)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def answerer(shared_client: TestClient) -> Answerer:
    state = shared_client.app.state  # type: ignore[attr-defined]
    return Answerer(state.bundles, None, state.settings)


def test_the_same_question_asked_many_times_at_once_runs_once(bundle: LoadedBundle, answerer: Answerer) -> None:
    async def scenario() -> None:
        counting: Any = CountingBundle(bundle)
        asked = question(counting, Conditions(), 6.5)
        tasks = [asyncio.create_task(answerer.answer_question(asked)) for _ in range(10)]
        await settle()
        counting.gate.set()
        replies = await asyncio.gather(*tasks)
        assert len(counting.asked) == 1
        assert len({reply.content for reply in replies}) == 1
        assert [reply.cache for reply in replies] == ["miss"] + ["shared"] * 9
        assert (await answerer.answer_question(asked)).cache == "memory"

    asyncio.run(scenario())


def test_if_the_one_who_asks_leaves_another_takes_over(bundle: LoadedBundle, answerer: Answerer) -> None:
    async def scenario() -> None:
        counting: Any = CountingBundle(bundle)
        asked = question(counting, Conditions(), 6.6)
        leader, follower = (asyncio.create_task(answerer.answer_question(asked)) for _ in range(2))
        await settle()
        leader.cancel()
        await settle()
        assert not follower.done()
        counting.gate.set()
        assert (await follower).cache == "miss"
        assert len(counting.asked) == 2

    asyncio.run(scenario())


def test_a_follower_who_leaves_does_not_disturb_the_leader(bundle: LoadedBundle, answerer: Answerer) -> None:
    async def scenario() -> None:
        counting: Any = CountingBundle(bundle)
        asked = question(counting, Conditions(), 6.7)
        leader, follower = (asyncio.create_task(answerer.answer_question(asked)) for _ in range(2))
        await settle()
        follower.cancel()
        await settle()
        counting.gate.set()
        assert (await leader).cache == "miss"

    asyncio.run(scenario())


def test_the_memory_is_bounded(make_client: Any) -> None:
    client = make_client(cache_entries=2)
    for budget in (6, 7, 8, 6):
        last = client.post("/generate", json={"budget_ms": budget})
    assert last.headers["x-cache"] == "miss"
    assert client.post("/generate", json={"budget_ms": 6}).headers["x-cache"] == "memory"


def test_without_a_memory_every_question_is_asked(make_client: Any) -> None:
    client = make_client(cache_entries=0)
    caches = [client.post("/generate", json={"budget_ms": 6}).headers["x-cache"] for _ in range(3)]
    assert caches == ["miss"] * 3


def test_answers_do_not_depend_on_who_is_asked_with(bundle: LoadedBundle) -> None:
    queries = [Query(2 + n / 7) for n in range(40)]
    together = bundle.generator.generate_many(queries)
    alone = [bundle.generator.generate_many([query])[0] for query in queries]
    assert together == alone
