"""The private parts of uvicorn that `edge/protocol.py` builds on are as it knows them."""

import inspect
import tomllib
from http import HTTPStatus
from pathlib import Path

from packaging.requirements import Requirement
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl


def source_of(method: object) -> str:
    return inspect.getsource(method)  # type: ignore[arg-type]


def test_status_lines_are_bytes_with_their_line_end() -> None:
    assert httptools_impl.STATUS_LINE[HTTPStatus.OK] == b"HTTP/1.1 200 OK\r\n"
    assert httptools_impl.STATUS_LINE[HTTPStatus.SERVICE_UNAVAILABLE].startswith(b"HTTP/1.1 503 ")


def test_a_cycle_has_the_state_that_an_answer_at_once_reads_and_sets() -> None:
    cycle = httptools_impl.RequestResponseCycle
    parameters = inspect.signature(cycle).parameters
    assert {"scope", "transport", "flow", "default_headers", "message_event", "keep_alive", "on_response"} <= set(
        parameters
    )
    state = source_of(cycle.__init__)
    for name in ("disconnected", "keep_alive", "more_body", "response_started", "response_complete"):
        assert f"self.{name} =" in state, name
    assert inspect.iscoroutinefunction(cycle.send), "its bound method leads to the cycle"
    assert list(inspect.signature(cycle.send).parameters) == ["self", "message"]
    assert "self.send" in source_of(cycle.run_asgi), "the application must get the bound method itself"
    assert {"write_paused", "resume_reading"} <= set(dir(FlowControl)) | set(FlowControl(None).__dict__)  # type: ignore[arg-type]


def test_a_protocol_has_the_methods_that_ours_replaces_and_the_state_that_it_reads() -> None:
    protocol = httptools_impl.HttpToolsProtocol
    for name, parameters in {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "on_response_complete": ["self"],
        "_start_asgi_task": ["self", "cycle", "app"],
    }.items():
        assert list(inspect.signature(getattr(protocol, name)).parameters) == parameters, name
    state = source_of(protocol.__init__)
    for name in ("app", "loop", "connections", "server_state", "transport", "flow", "cycle", "scope", "pipeline"):
        assert f"self.{name}" in state, name
    # What ours leaves out of it, and nothing else, is the timer of idle connections.
    assert "self.pipeline.pop()" in source_of(protocol.on_response_complete)


def test_uvicorn_has_an_upper_bound() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (uvicorn,) = [found for text in project["dependencies"] if (found := Requirement(text)).name == "uvicorn"]
    assert any(specifier.operator == "<" for specifier in uvicorn.specifier)
