"""schemathesis makes requests from the OpenAPI document, good and bad ones, and compares the answers with it.

All of its checks run. Two are told what 422 and 503 mean here: a request that its schema allows may still have no
answer (an infeasible budget, an encoding of another space), but is never called invalid; 503 is "not now", no failure.
"""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from pnag.service.app import create_app
from pnag.service.edge.protocol import BoundedProtocol
from pnag.service.settings import Settings

RULES = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
NAMES = {"name": "tiny", "version": "1"}


@schemathesis.check
def allowed_requests_are_not_called_invalid(ctx: Any, response: Any, case: Any) -> None:  # noqa: ARG001
    """A request that agrees with its schema is understood."""
    is_allowed = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if is_allowed and response.status_code == 422:
        assert response.json()["type"] != "urn:pnag:problem:invalid-request", response.text


@schemathesis.check
def nothing_crashes(ctx: Any, response: Any, case: Any) -> None:  # noqa: ARG001
    """The only 5xx is "not now", and it says when to come back."""
    assert response.status_code < 500 or (response.status_code == 503 and "retry-after" in response.headers)


OURS = [allowed_requests_are_not_called_invalid, nothing_crashes]
THEIRS = [
    check for check in CHECKS.get_all() if check.__name__ not in ("not_a_server_error", "positive_data_acceptance")
]


@pytest.fixture(scope="module")
def url(bundle_folder: Path) -> Iterator[str]:
    """Where a server in this process listens."""
    app = create_app(Settings(bundles=(bundle_folder,)))
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedProtocol, log_config=None, proxy_headers=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@schema.parametrize()
@RULES
def test_every_answer_is_as_documented(case: Any, url: str) -> None:
    if case.path_parameters and case.meta.generation.mode is GenerationMode.POSITIVE:
        # Names that exist, or all there is to see are 404s.
        case.path_parameters.update({k: v for k, v in NAMES.items() if k in case.path_parameters})
    case.call_and_validate(base_url=url, checks=[*THEIRS, *OURS])


def test_answers_lead_to_answers_as_documented(url: str) -> None:
    """Requests in chains: what one answer names is asked for by the next."""

    class Workflow(schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:  # noqa: ARG002
            return {"base_url": url}

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            case.validate_response(response, checks=[*THEIRS, *OURS])

    Workflow.run(settings=settings(RULES, stateful_step_count=6))
