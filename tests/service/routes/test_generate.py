"""POST /generate and /generate/batch: answers, and every kind of bad input."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    return shared_client


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem body, once it is sure to be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:pnag:problem:{code}"
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def test_an_answer_keeps_the_budget_and_says_what_it_is(client: TestClient) -> None:
    body = client.post("/generate", json={"budget_ms": 6}).json()
    assert body["budget_ms"] == 6
    assert body["bundle"] == {"name": "tiny", "version": "1"}
    assert body["device"] == "test device"
    assert body["architecture"]["space"] == "nas-bench-macro"
    assert 50 < body["predicted"]["top1_percent"] < 100
    assert body["predicted"]["latency_ms"] < body["predicted"]["latency_upper_ms"] <= 6
    assert body["links"] == {"self": f"/architectures/{body['architecture']['id']}"}


def test_every_answer_is_at_least_as_good_as_the_front_at_that_budget(client: TestClient) -> None:
    front = client.get("/pareto-front").json()["points"]
    for point in front[:: len(front) // 10]:
        budget_ms = point["predicted"]["latency_upper_ms"] + 0.001
        body = client.post("/generate", json={"budget_ms": budget_ms}).json()
        assert body["predicted"]["top1_percent"] >= point["predicted"]["top1_percent"]
        assert body["predicted"]["latency_upper_ms"] <= body["budget_ms"]


def test_a_budget_can_be_given_in_the_query(client: TestClient) -> None:
    by_query = client.post("/generate?budget_ms=6")
    by_body = client.post("/generate", json={"budget_ms": 6})
    assert by_query.content == by_body.content


def test_budgets_are_rounded_down_to_three_decimals_and_answered_for_that(client: TestClient) -> None:
    body = client.post("/generate", json={"budget_ms": 6.0009}).json()
    assert body["budget_ms"] == 6.0
    assert client.post("/generate", json={"budget_ms": 6.0}).json() == body


def test_a_huge_budget_gets_the_best_network_and_binds_nowhere(client: TestClient) -> None:
    best = client.get("/pareto-front").json()["points"][-1]
    body = client.post("/generate", json={"budget_ms": 1e300}).json()
    assert body["architecture"] == best["architecture"]
    assert body["binding"] == "none"


def test_limits_hold(client: TestClient) -> None:
    limits = {"macs_m": 40, "params_m": 1, "size_mb": 4, "peak_memory_mb": 2}
    predicted = client.post("/generate", json={"budget_ms": 9, "limits": limits}).json()["predicted"]
    assert all(predicted[name] <= value for name, value in limits.items())


def test_alternatives_come_next_best_first(client: TestClient) -> None:
    body = client.post("/generate", json={"budget_ms": 6, "num_alternatives": 3}).json()
    accuracies = [c["predicted"]["top1_percent"] for c in (body, *body["alternatives"])]
    assert len(accuracies) == 4
    assert accuracies == sorted(accuracies, reverse=True)


def test_coverage_one_half_leaves_no_margin(client: TestClient) -> None:
    predicted = client.post("/generate", json={"budget_ms": 6, "coverage": 0.5}).json()["predicted"]
    assert predicted["latency_ms"] == predicted["latency_upper_ms"]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("{}", "budget_ms"),
        ('{"budget_ms": "20"}', "budget_ms"),
        ('{"budget_ms": true}', "budget_ms"),
        ('{"budget_ms": null}', "budget_ms"),
        ('{"budget_ms": -1}', "budget_ms"),
        ('{"budget_ms": 0}', "budget_ms"),
        ('{"budget_ms": 1e999}', "budget_ms"),
        ('{"budget_ms": [20]}', "budget_ms"),
        ('{"budget_ms": 20, "buget": 1}', "buget"),
        ('{"budget_ms": 20, "limits": {"macs": 1}}', "limits.macs"),
        ('{"budget_ms": 20, "limits": {"macs_m": -1}}', "limits.macs_m"),
        ('{"budget_ms": 20, "coverage": 1}', "coverage"),
        ('{"budget_ms": 20, "num_alternatives": 1.5}', "num_alternatives"),
        ("[20]", ""),
        ("20", ""),
    ],
)
def test_a_bad_field_is_named(client: TestClient, content: str, field: str) -> None:
    response = client.post("/generate", content=content, headers={"content-type": "application/json"})
    assert [error["field"] for error in problem(response, 422, "invalid-request")["errors"]] == [field]


@pytest.mark.parametrize("content", ['{"budget_ms": 20', '{"budget_ms": NaN}', "not json", "[" * 100_000, b"\xff\xfe"])
def test_what_is_not_json_is_refused_as_that(client: TestClient, content: Any) -> None:
    response = client.post("/generate", content=content, headers={"content-type": "application/json"})
    assert "not valid JSON" in problem(response, 422, "invalid-request")["detail"]


def test_another_media_type_is_415(client: TestClient) -> None:
    response = client.post("/generate", content='{"budget_ms": 20}', headers={"content-type": "text/plain"})
    problem(response, 415, "unsupported-media-type")


def test_no_budget_at_all_is_told_how_to_send_one(client: TestClient) -> None:
    assert "?budget_ms=20" in problem(client.post("/generate"), 422, "conflicting-fields")["detail"]


@pytest.mark.parametrize("query", ["budget_ms=x", "budget_ms=nan", "budget_ms=inf", "budget_ms=-1", "budget=20"])
def test_a_bad_query_is_refused(client: TestClient, query: str) -> None:
    problem(client.post(f"/generate?{query}"), 422, "invalid-request")


def test_a_budget_in_body_and_query_is_refused(client: TestClient) -> None:
    problem(client.post("/generate?budget_ms=5", json={"budget_ms": 6}), 422, "conflicting-fields")


def test_below_the_fastest_network_names_the_smallest_budget_and_that_network(client: TestClient) -> None:
    body = problem(client.post("/generate", json={"budget_ms": 0.5}), 422, "infeasible-budget")
    answer = client.post("/generate", json={"budget_ms": body["smallest_feasible_ms"]}).json()
    assert answer["architecture"] == body["architecture"]
    below = {"budget_ms": body["smallest_feasible_ms"] - 0.001}
    problem(client.post("/generate", json=below), 422, "infeasible-budget")


def test_a_limit_that_rules_everything_out_has_no_smallest_budget(client: TestClient) -> None:
    response = client.post("/generate", json={"budget_ms": 20, "limits": {"params_m": 0.01}})
    body = problem(response, 422, "infeasible-budget")
    assert body["smallest_feasible_ms"] is None
    assert "limits.params_m" in body["detail"]


def test_an_unknown_bundle_is_404_and_lists_what_there_is(client: TestClient) -> None:
    response = client.post("/generate", json={"budget_ms": 20, "bundle": "other"})
    assert "tiny@1" in problem(response, 404, "unknown-bundle")["detail"]


def test_a_version_can_be_pinned(client: TestClient) -> None:
    assert client.post("/generate", json={"budget_ms": 6, "bundle": "tiny@1"}).status_code == 200
    problem(client.post("/generate", json={"budget_ms": 6, "bundle": "tiny@2"}), 404, "unknown-bundle")


def test_a_batch_answers_each_budget_as_alone_and_puts_problems_in_their_place(client: TestClient) -> None:
    budgets = [6, 0.5, 8, -1]
    body = client.post("/generate/batch", json={"budgets_ms": budgets}).json()
    alone = [client.post("/generate", json={"budget_ms": budget}).json() for budget in (6, 8)]
    assert [body["results"][0], body["results"][2]] == alone
    assert [item.get("type") for item in body["results"]][1::2] == [
        "urn:pnag:problem:infeasible-budget",
        "urn:pnag:problem:invalid-budget",
    ]
    assert (body["num_answered"], body["num_problems"]) == (2, 2)


def test_a_batch_too_long_is_refused(client: TestClient) -> None:
    problem(client.post("/generate/batch", json={"budgets_ms": [6.0] * 257}), 422, "invalid-request")


def test_a_batch_longer_than_a_run_is_answered_whole(client: TestClient) -> None:
    budgets = [5 + n / 100 for n in range(200)]
    body = client.post("/generate/batch", json={"budgets_ms": budgets}).json()
    assert [item["budget_ms"] for item in body["results"]] == pytest.approx(budgets)


def test_two_services_give_the_same_bytes(client: TestClient, make_client: Any) -> None:
    other = make_client()
    for budget in (4.7, 6.123, 9):
        question = {"budget_ms": budget, "num_alternatives": 2}
        assert client.post("/generate", json=question).content == other.post("/generate", json=question).content


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    problem(client.get("/nowhere"), 404, "not-found")
    response = client.get("/generate")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_the_openapi_document_promises_problem_bodies(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    unprocessable = document["paths"]["/generate"]["post"]["responses"]["422"]["content"]
    assert list(unprocessable) == ["application/problem+json"]
    assert "HTTPValidationError" not in json.dumps(document)
