"""docs/openapi.json is what the service says of itself, and the client speaks with the real application."""

import json
from pathlib import Path

import httpx
from starlette.testclient import TestClient

from pnag_client import AsyncPnagClient

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_document_in_the_repository_is_the_services_own(client: TestClient) -> None:
    served = client.get("/openapi.json").json()
    assert json.loads(DOCUMENT.read_text()) == served, "run `python scripts/reference.py`"


async def _ask(app: object, front_ms: float) -> tuple[str, str, object]:
    async with AsyncPnagClient("http://pnag", transport=httpx.ASGITransport(app=app)) as pnag:  # type: ignore[arg-type]
        answer = await pnag.generate(front_ms)
        explained = await pnag.explain(front_ms)
        many = await pnag.generate_many([front_ms, 1e-3])
        assert (await pnag.bundles())[0]["name"] == answer["bundle"]["name"]
        (candidate,) = await pnag.predict([answer["architecture"]["encoding"]])
        assert candidate["predicted"] == answer["predicted"]
        assert len((await pnag.pareto_front(points=3))["points"]) == 3
        return answer["architecture"]["id"], explained["answer"]["architecture"]["id"], many[1].get("status", 0)


def test_the_client_and_the_application_understand_each_other(client: TestClient) -> None:
    import asyncio

    smallest = client.get("/bundles").json()["bundles"][0]["smallest_feasible_ms"]
    answered, explained, status = asyncio.run(_ask(client.app, smallest + 1.0))
    assert answered == explained
    assert status == 422
