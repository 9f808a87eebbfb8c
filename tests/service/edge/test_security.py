"""Who may ask what, and how often."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pnag.cli import main as cli
from pnag.service.edge.security import ADMIN, READ, ApiKey, ApiKeys, RateLimit
from pnag.service.settings import Settings, SettingsError

ASK = {"budget_ms": 6}
Make = Callable[..., TestClient]
READ_KEY, READ_LINE = ApiKey.make("dashboard", READ)
ADMIN_KEY, ADMIN_LINE = ApiKey.make("operator", ADMIN)
BOTH = f"{READ_LINE},{ADMIN_LINE}"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("headers", [bearer(READ_KEY), bearer(ADMIN_KEY), {"x-api-key": READ_KEY}])
@pytest.mark.parametrize("path", ["/generate", "/generate?budget_ms=6"])
def test_with_a_key_one_may_ask(make_client: Make, headers: dict[str, str], path: str) -> None:
    client = make_client(api_keys=BOTH)
    assert client.post(path, json=None if "?" in path else ASK, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        ({"authorization": "Bearer wrong"}, "unknown"),
        ({"authorization": f"Basic {READ_KEY}"}, "unknown"),
        (bearer(READ_KEY + "x"), "unknown"),
        (bearer(hashlib.sha256(READ_KEY.encode()).hexdigest()), "unknown"),
    ],
)
def test_without_a_good_key_one_may_not(make_client: Make, headers: dict[str, str], reason: str) -> None:
    client = make_client(api_keys=BOTH)
    client.post("/generate", json=ASK, headers=bearer(READ_KEY))  # a remembered answer is no way in
    for method, path in (
        ("POST", "/generate"),
        ("GET", "/pareto-front"),
        ("GET", "/metrics"),
        ("POST", "/admin/reload"),
    ):
        response = client.request(method, path, json=ASK if method == "POST" else None, headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "urn:pnag:problem:unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    metrics = client.get("/metrics", headers=bearer(READ_KEY)).text
    assert f'pnag_auth_failures_total{{reason="{reason}"}} 4.0' in metrics


def test_only_an_admin_key_reaches_admin(make_client: Make) -> None:
    client = make_client(api_keys=BOTH)
    response = client.post("/admin/reload", headers=bearer(READ_KEY))
    assert (response.status_code, response.json()["type"]) == (403, "urn:pnag:problem:forbidden")
    assert client.post("/admin/reload", headers=bearer(ADMIN_KEY)).status_code == 200


def test_health_and_documentation_need_no_key(make_client: Make) -> None:
    client = make_client(api_keys=BOTH)
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/v2/health/ready", "/"):
        assert client.get(path).status_code == 200, path


def test_a_public_service_without_keys_has_no_admin(make_client: Make) -> None:
    client = make_client(host="0.0.0.0", allow_anonymous=True)
    assert client.post("/generate", json=ASK).status_code == 200
    assert client.post("/admin/reload").status_code == 403


def test_keys_can_be_replaced_while_the_service_runs(make_client: Make, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# comment\n{READ_LINE}\n\n{ADMIN_LINE}\n")
    client = make_client(api_keys_file=file)
    new_key, new_line = ApiKey.make("dashboard", READ)
    file.write_text(f"{new_line}\n{ADMIN_LINE}\n")
    assert client.post("/generate", json=ASK, headers=bearer(READ_KEY)).status_code == 200
    assert client.post("/admin/reload", headers=bearer(ADMIN_KEY)).status_code == 200
    assert client.post("/generate", json=ASK, headers=bearer(READ_KEY)).status_code == 401
    assert client.post("/generate", json=ASK, headers=bearer(new_key)).status_code == 200
    file.write_text("nonsense")
    assert client.post("/admin/reload", headers=bearer(ADMIN_KEY)).status_code == 409
    assert client.post("/generate", json=ASK, headers=bearer(new_key)).status_code == 200


@pytest.mark.parametrize(
    "line", ["", "a", "a:read", "a:read:abc", "a:write:" + "0" * 64, ":read:" + "0" * 64, "a:read:" + "g" * 64]
)
def test_a_bad_key_line_is_refused(line: str) -> None:
    with pytest.raises(SettingsError):
        ApiKeys(Settings(api_keys=line or ","))


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PNAG_API_KEYS_FILE"):
        ApiKeys(Settings(api_keys_file=tmp_path / "none"))


@given(sent=st.binary(max_size=100))
def test_no_other_bytes_are_a_key(sent: bytes) -> None:
    keys = ApiKeys(Settings(api_keys=BOTH))
    assert keys.find(sent) is None
    assert keys.find(ADMIN_KEY.encode()) is not None


def test_the_command_makes_a_key_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["api-key", "mine", "--scope", "admin"])
    printed = capsys.readouterr()
    found = ApiKeys(Settings(api_keys=printed.err.strip())).find(printed.out.strip().encode())
    assert caught.value.code in (None, 0)
    assert found is not None
    assert (found.name, found.scope) == ("mine", ADMIN)


def test_neither_keys_nor_passwords_are_logged(
    make_client: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_client(api_keys=BOTH, redis_url="redis://:hunter2@127.0.0.1:1")
    monkeypatch.setattr(client.app.state.answerer, "answer_question", lambda _: 1 / 0)  # type: ignore[attr-defined]
    client.post("/generate", json=ASK, headers=bearer(READ_KEY))
    logged = "".join(capfd.readouterr())
    assert READ_KEY not in logged
    assert "hunter2" not in logged


# -- the operator's port ----------------------------------------------------------------------------------------------


def test_admin_and_metrics_can_have_a_port_of_their_own(make_client: Make) -> None:
    client = make_client(admin_port=9000)
    outside, inside = "http://testserver:8000", "http://testserver:9000"
    assert client.get(f"{outside}/metrics").status_code == 404
    assert client.post(f"{outside}/admin/reload").status_code == 404
    assert client.post(f"{outside}/generate", json=ASK).status_code == 200
    assert client.get(f"{inside}/metrics").status_code == 200
    assert client.post(f"{inside}/admin/reload").status_code == 200
    assert client.post(f"{inside}/generate", json=ASK).status_code == 404
    assert client.get(f"{outside}/readyz").status_code == client.get(f"{inside}/readyz").status_code == 200


def test_the_operators_port_still_asks_for_an_admin_key(make_client: Make) -> None:
    client = make_client(admin_port=9000, api_keys=BOTH)
    inside = "http://testserver:9000"
    assert client.get(f"{inside}/metrics").status_code == 200
    assert client.post(f"{inside}/admin/reload").status_code == 401
    assert client.post(f"{inside}/admin/reload", headers=bearer(ADMIN_KEY)).status_code == 200


# -- the rate limit ---------------------------------------------------------------------------------------------------


def test_more_than_the_rate_is_429_and_says_when_to_come_back(
    make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("pnag.service.edge.security.monotonic", lambda: now)
    client = make_client(rate_limit_per_s=2, api_keys=BOTH)
    statuses = [client.post("/generate", json=ASK, headers=bearer(READ_KEY)) for _ in range(3)]
    assert [response.status_code for response in statuses] == [200, 200, 429]
    assert statuses[-1].json()["type"] == "urn:pnag:problem:rate-limited"
    assert statuses[-1].headers["retry-after"] == "1"
    assert client.post("/generate", json=ASK, headers=bearer(ADMIN_KEY)).status_code == 200
    assert client.get("/healthz").status_code == 200
    now += 0.5
    assert client.post("/generate", json=ASK, headers=bearer(READ_KEY)).status_code == 200


@given(st.lists(st.floats(min_value=0, max_value=2), min_size=1, max_size=50), st.floats(min_value=0.1, max_value=20))
def test_a_bucket_lets_through_its_size_and_its_rate_at_most(pauses: list[float], per_s: float) -> None:
    now = 1000.0
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("pnag.service.edge.security.monotonic", lambda: now)
        limit = RateLimit(per_s)
        passed = 0
        for pause in pauses:
            now += pause
            wait_s = limit.wait_s("caller")
            passed += wait_s == 0
            assert wait_s <= 1 / per_s + 1e-9
        assert passed <= max(per_s, 1) + per_s * sum(pauses) + 1e-6


def test_callers_do_not_share_a_bucket() -> None:
    limit = RateLimit(1)
    callers: list[Any] = [limit.wait_s(name) for name in ("a", "b")]
    assert callers == [0, 0]
