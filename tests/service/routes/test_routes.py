"""The routes beside /generate."""

import csv
import io
from typing import Any

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    return shared_client


def test_predict_one_gives_the_blocks_of_an_answer(client: TestClient) -> None:
    answer = client.post("/generate", json={"budget_ms": 6}).json()
    body = client.post("/predict", json={"encoding": answer["architecture"]["encoding"]}).json()
    assert {name: body[name] for name in ("architecture", "predicted", "bundle", "device")} == {
        name: answer[name] for name in ("architecture", "predicted", "bundle", "device")
    }


def test_predict_many_keeps_the_order(client: TestClient) -> None:
    encodings = ["02012100", "22222222", "00000000"]
    results = client.post("/predict", json={"encodings": encodings}).json()["results"]
    assert [result["architecture"]["encoding"] for result in results] == encodings


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("0201210", "expected 8"), ("0201210x", "digit 8"), ("0201210３", "digit 8"), ("", "expected 8")],
)
def test_predict_says_what_is_wrong_with_an_encoding(client: TestClient, encoding: str, said: str) -> None:
    response = client.post("/predict", json={"encoding": encoding})
    assert (response.status_code, response.json()["type"]) == (422, "urn:pnag:problem:invalid-encoding")
    assert said in response.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"encoding": "02012100", "encodings": ["02012100"]}])
def test_predict_wants_one_of_its_two_fields(client: TestClient, body: dict[str, object]) -> None:
    response = client.post("/predict", json=body)
    assert (response.status_code, response.json()["type"]) == (422, "urn:pnag:problem:conflicting-fields")


def test_the_front_rises_in_both_columns(client: TestClient) -> None:
    points = [point["predicted"] for point in client.get("/pareto-front").json()["points"]]
    for column in ("latency_upper_ms", "top1_percent"):
        values = [point[column] for point in points]
        assert values == sorted(set(values))


def test_the_front_can_be_cut_and_thinned(client: TestClient) -> None:
    points = client.get("/pareto-front", params={"min_ms": 4, "max_ms": 8, "points": 5}).json()["points"]
    assert len(points) == 5
    assert all(4 <= point["predicted"]["latency_upper_ms"] <= 8 for point in points)


def test_the_front_as_csv_has_the_same_numbers(client: TestClient) -> None:
    points = client.get("/pareto-front").json()["points"]
    response = client.get("/pareto-front", headers={"accept": "text/csv"})
    assert response.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["architecture"] for row in rows] == [point["architecture"]["encoding"] for point in points]
    assert [float(row["top1_percent"]) for row in rows] == [point["predicted"]["top1_percent"] for point in points]


@pytest.mark.parametrize("query", ["min_ms=-1", "points=0", "points=x", "bundles=tiny", "coverage=1"])
def test_a_bad_front_query_is_refused(client: TestClient, query: str) -> None:
    response = client.get(f"/pareto-front?{query}")
    assert (response.status_code, response.json()["type"]) == (422, "urn:pnag:problem:invalid-request")


def test_an_answered_network_can_be_looked_up(client: TestClient) -> None:
    answer = client.post("/generate", json={"budget_ms": 6}).json()
    body = client.get(answer["links"]["self"]).json()
    assert (body["architecture"], body["predicted"]) == (answer["architecture"], answer["predicted"])


def test_an_unknown_id_is_404(client: TestClient) -> None:
    response = client.get("/architectures/0123456789abcdef")
    assert (response.status_code, response.json()["type"]) == (404, "urn:pnag:problem:unknown-architecture")


def test_a_bundle_without_weights_has_no_model_to_fetch(client: TestClient) -> None:
    answer = client.post("/generate", json={"budget_ms": 6}).json()
    response = client.get(answer["links"]["self"] + "/model.onnx")
    assert (response.status_code, response.json()["type"]) == (404, "urn:pnag:problem:no-weights")


def test_bundles_say_what_they_promise(client: TestClient) -> None:
    (body,) = client.get("/bundles").json()["bundles"]
    assert (body["name"], body["version"], body["is_default"]) == ("tiny", "1", True)
    assert body["device"]["name"] == "test device"
    assert body["coverage"] == 0.95
    assert body["metrics"] == {"kendall_tau": 1.0}
    assert body["table_age_days"] > 0
    smallest = client.post("/generate", json={"budget_ms": body["smallest_feasible_ms"]})
    assert smallest.status_code == 200


def test_search_spaces_are_described(client: TestClient) -> None:
    body = client.get("/search-spaces/nas-bench-macro").json()
    assert body["num_architectures"] == "6561"
    assert [decision["name"] for decision in body["decisions"]] == [f"layer{n}" for n in range(1, 9)]
    response = client.get("/search-spaces/other")
    assert (response.status_code, response.json()["type"]) == (404, "urn:pnag:problem:unknown-search-space")


def test_health_and_readiness(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_a_service_that_is_going_away_is_alive_but_not_ready(make_client: Any) -> None:
    client = make_client()
    client.app.state.lifecycle.is_draining = True
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.post("/generate", json={"budget_ms": 6}).status_code == 200
