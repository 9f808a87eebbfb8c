"""The Open Inference Protocol; a real client library is tried by benchmarks/serving/check_kserve_client.py."""

import json
import struct
from typing import Any

import pytest
from starlette.testclient import TestClient

INFER = "/v2/models/tiny/infer"


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    return shared_client


def tensor(data: list[Any], **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "budget_ms", "shape": [len(data)], "datatype": "FP64", "data": data, **changes}]}


def test_health_and_metadata(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        body = client.get(path).json()
        assert (body["name"], body["versions"]) == ("tiny", ["1"])
        assert client.get(f"{path}/ready").json() == {"name": "tiny", "ready": True}


def test_budgets_are_answered_as_by_generate(client: TestClient) -> None:
    body = client.post(INFER, json={"id": "7", **tensor([6, 8])}).json()
    outputs = {output["name"]: output["data"] for output in body["outputs"]}
    answers = [client.post("/generate", json={"budget_ms": budget}).json() for budget in (6, 8)]
    assert (body["model_name"], body["model_version"], body["id"]) == ("tiny", "1", "7")
    assert outputs["encoding"] == [answer["architecture"]["encoding"] for answer in answers]
    assert outputs["top1_percent"] == [answer["predicted"]["top1_percent"] for answer in answers]


def test_conditions_are_parameters(client: TestClient) -> None:
    body = client.post(INFER, json={"parameters": {"coverage": 0.5, "priority": 1}, **tensor([6])}).json()
    outputs = {output["name"]: output["data"] for output in body["outputs"]}
    assert outputs["latency_ms"] == outputs["latency_upper_ms"]


def test_a_column_keeps_its_shape(client: TestClient) -> None:
    body = client.post(INFER, json=tensor([[6], [8]], shape=[2, 1])).json()
    assert [output["shape"] for output in body["outputs"]] == [[2, 1]] * 5


@pytest.mark.parametrize(("datatype", "layout"), [("FP64", "<2d"), ("FP32", "<2f")])
def test_tensors_as_bytes_say_the_same_as_json(client: TestClient, datatype: str, layout: str) -> None:
    plain = client.post(INFER, json=tensor([6, 8])).json()
    tail = struct.pack(layout, 6, 8)
    request = tensor([6, 8], datatype=datatype, parameters={"binary_data_size": len(tail)})
    del request["inputs"][0]["data"]
    request["outputs"] = [
        {"name": "encoding", "parameters": {"binary_data": True}},
        {"name": "top1_percent", "parameters": {"binary_data": True}},
        {"name": "latency_ms"},
    ]
    head = json.dumps(request).encode()
    response = client.post(INFER, content=head + tail, headers={"inference-header-content-length": str(len(head))})
    assert response.status_code == 200, response.text
    json_length = int(response.headers["inference-header-content-length"])
    encodings, accuracies, latencies = json.loads(response.content[:json_length])["outputs"]
    rest = response.content[json_length:]
    size = encodings["parameters"]["binary_data_size"]
    names = [rest[4:12].decode(), rest[16:24].decode()]
    assert size == 24
    assert names == plain["outputs"][0]["data"]
    assert list(struct.unpack("<2d", rest[size:])) == plain["outputs"][2]["data"]
    assert accuracies["parameters"]["binary_data_size"] == 16
    assert latencies["data"] == plain["outputs"][3]["data"]


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        (tensor([0.5]), 422),
        (tensor([-1]), 422),
        (tensor(["x"]), 422),
        (tensor([6], shape=[2]), 422),
        (tensor([6, 6], shape=[1, 2]), 422),
        (tensor([6], shape=[]), 422),
        (tensor([6], datatype="INT32"), 422),
        (tensor([6], name="x"), 422),
        ({"inputs": []}, 422),
        (tensor([6], parameters={"binary_data_size": 8}), 422),
        (tensor([6.0] * 257), 422),
        ({**tensor([6]), "outputs": [{"name": "x"}]}, 422),
    ],
)
def test_what_does_not_fit_together_is_refused_where_clients_look(
    client: TestClient, request_body: dict[str, Any], status: int
) -> None:
    response = client.post(INFER, json=request_body)
    assert response.status_code == status, response.text
    assert response.json()["error"] == response.json()["detail"]


@pytest.mark.parametrize("length", ["x", "-1", "99999"])
def test_a_wrong_header_length_is_refused(client: TestClient, length: str) -> None:
    response = client.post(INFER, json=tensor([6]), headers={"inference-header-content-length": length})
    assert response.status_code == 422


def test_an_unknown_model_or_version_is_404(client: TestClient) -> None:
    for path in ("/v2/models/other", "/v2/models/tiny/versions/2", "/v2/models/other/ready"):
        assert client.get(path).status_code == 404
    assert client.post("/v2/models/other/infer", json=tensor([6])).json()["type"] == "urn:pnag:problem:unknown-bundle"
