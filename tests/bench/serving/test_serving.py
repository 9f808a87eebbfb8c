"""The comparisons of serving: what is counted is what happened. Nobody's speed is looked at here."""

import itertools
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pnag.bench.serving.compare import _ratios
from pnag.bench.serving.load import NO_ANSWER, Asked, ask_in_turn, offer, percentile_ms, request
from pnag.bench.serving.page import write_serving_page
from pnag.bench.serving.requests import mixed_requests
from pnag.bench.serving.soak import Sample, judge
from pnag.bench.serving.traffic import traffic
from pnag.bench.serving.wrk import Round, run_wrk
from pnag.models.bundle.bundle import FrontPoint
from pnag.models.errors import PnagError


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path names; /break hangs up."""

    protocol_version = "HTTP/1.1"
    generate_status = 200
    last_body = b""
    last_headers: Mapping[str, str] = {}

    def do_POST(self) -> None:
        body = Handler.last_body = self.rfile.read(int(self.headers["content-length"]))
        Handler.last_headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path == "/break":
            self.close_connection = True
            return
        is_generate = self.path == "/generate"
        if is_generate:
            body = b'{"bundle": {"version": 7}}'
        self.send_response(self.generate_status if is_generate else int(self.path[1:]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.generate_status = 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_request_is_counted_once_by_how_it_ended(url: str) -> None:
    kinds = [("good", "/200"), ("busy", "/503"), ("gone", "/break")] * 10
    asked = offer(url, ((kind, request("POST", path, b"x" * 5000)) for kind, path in kinds), 1000, 0.03)
    assert Counter((one.kind, one.status) for one in asked) == {
        ("good", 200): 10,
        ("busy", 503): 10,
        ("gone", NO_ANSWER): 10,
    }


def test_a_server_that_is_not_there_gives_no_answers() -> None:
    asked = offer("http://127.0.0.1:1", [("x", request("GET", "/"))] * 3, 1000, 1)
    assert [one.status for one in asked] == [NO_ANSWER] * 3


def test_in_a_closed_loop_each_connection_asks_again_after_an_answer(url: str) -> None:
    asked = ask_in_turn(url, itertools.repeat(("good", request("POST", "/200", b"x"))), 3, 0.1)
    assert len(asked) >= 3
    assert {one.status for one in asked} == {200}


def test_percentiles_are_of_answers_alone() -> None:
    asked = [Asked("x", 0, status, ms) for status, ms in ((200, 1.0), (200, 3.0), (503, 100.0), (NO_ANSWER, 100.0))]
    assert percentile_ms(asked, 50) == 2.0


@pytest.mark.parametrize(
    ("mb_per_sample", "files_per_sample", "is_flat"), [(0, 0, True), (0.1, 0, False), (0, 0.1, False)]
)
def test_what_grows_is_not_flat(mb_per_sample: float, files_per_sample: float, is_flat: bool) -> None:
    samples = [Sample(2.0 * n, 100 + mb_per_sample * n, int(20 + files_per_sample * n)) for n in range(100)]
    found = judge(samples)
    assert found["is_flat"] is is_flat
    assert found["rss_mb"]["slope_per_hour"] == pytest.approx(mb_per_sample * 1800, abs=1e-6)


def test_what_grows_only_at_first_is_flat() -> None:
    samples = [Sample(2.0 * n, min(100 + n, 125), 20) for n in range(100)]
    assert judge(samples)["is_flat"]


def test_the_mix_holds_every_kind_and_is_the_same_each_time() -> None:
    class Two:
        front = (FrontPoint("a", 5.0, 0.7), FrontPoint("b", 50.0, 0.8))

    first, second = ([*itertools.islice(mixed_requests(Two()), 500)] for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert {kind for kind, _ in first} == {"hit", "miss", "front", "batch", "bad"}
    misses = [content for kind, content in first if kind == "miss"]
    assert len(set(misses)) == len(misses)


def test_ratios_are_taken_within_a_round() -> None:
    ours = [Round(20, 1, 2, 1), Round(60, 1, 2, 1), Round(10, 1, 2, 1)]
    theirs = [Round(10, 1, 4, 2), Round(20, 1, 4, 2), Round(10, 1, 4, 2)]
    (found,) = _ratios({"pnag, uncached": ours, "LitServe": theirs})
    assert found == {
        "of": "pnag, uncached", "over": "LitServe", "requests_per_s": 2.0, "p50_ms": 1.0, "p99_ms": 0.5,
        "cpu_ms_per_request": 0.5,
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(("path", "are_refused"), [("200", False), ("503", True)])
def test_wrk_counts_what_is_refused_and_asks_with_the_key(url: str, path: str, are_refused: bool) -> None:
    found = run_wrk(f"{url}/{path}", '{"budget_ms": %BUDGET%}', (5.0, 6.0), 0, 1, 2, key="secret", cpu_s=lambda: 3.0)
    assert found.requests_per_s > 0
    assert 0 < found.p50_ms <= found.p99_ms
    assert (found.refused > 0) is are_refused
    assert (found.broken, found.late, found.cpu_ms_per_request) == (0, 0, 0)
    sent = json.loads(Handler.last_body)
    assert 5 <= sent["budget_ms"] <= 6
    assert Handler.last_headers["authorization"] == "Bearer secret"
    assert Handler.last_headers["content-type"] == "application/json"


def test_traffic_counts_answers_by_version_and_refusals_that_do_not_say_when_to_come_back(url: str) -> None:
    found = traffic(url, "secret", 0.2, 2, pause_s=0.01, fresh_every=0)
    assert found["answered"] == found["statuses"]["200"] > 2
    assert found["versions"] == {"7": found["answered"]}
    assert (found["failed"], found["broken"], found["without_retry_after"]) == (0, 0, 0)
    assert 0 < found["p50_ms"] <= found["max_ms"]
    Handler.generate_status = 503
    refused = traffic(url, "secret", 0.1, 2, allowed=[503])
    assert refused["failed"] == 0
    assert refused["without_retry_after"] == refused["answered"] == refused["statuses"]["503"] > 0
    assert traffic(url, "secret", 0.1, 2)["failed"] > 0


def test_traffic_ends_as_soon_as_the_file_is_there(url: str, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    assert traffic(url, "", 60, 2, until=tmp_path / "stop")["answered"] == 0


def test_the_page_holds_every_target_and_says_which_are_missed(tmp_path: Path) -> None:
    rounds = {"pnag, cached": 4000.0, "pnag, uncached": 170.0, "bare uvicorn ASGI hello": 4000.0, "LitServe": 60.0}
    rounds |= {"FastAPI hello world": 800.0, "FastAPI, request read": 700.0, "LitServe, 2 workers": 100.0}
    rounds |= {"pnag, uncached, 2 workers": 170.0}
    found = {name: [Round(per_s, 1, 2, 1, late=3)] for name, per_s in rounds.items()}
    figures = {"p50_ms": 1.0, "p99_ms": 2.0, "cpu_ms_per_request": 1.0, "refused": 0, "broken": 0, "late": 3}
    contenders = {
        name: {**figures, "requests_per_s": per_s, "memory_mb": 140.0, "largest_mb": 140.0}
        for name, per_s in rounds.items()
    }
    machine = {"processor": "P", "instructions": ["avx2"], "system": "Linux", "cores": 2, "python": "3"}
    load = {"connections": 64, "rounds": 1, "seconds": 5, "num_candidates": 16, "max_batch_size": 16, "bundle": "b"}
    serve = {"machine": machine, "measured_at": "2026-01-01", "load_average_before": 0.1, "versions": {}, "load": load}
    counts = {"requests": 9, "failed": 0, "p50_ms": 1.0, "p99_ms": 1.0, "slowest_ms": 1.0}
    busy = {"capacity_per_s": 100.0, "overloaded_p50_ms": 1.0, "overloaded_p99_ms": 9.0, "p99_ratio": 4.5, "shed": 0.6}
    busy |= {"unloaded_p99_ms": 2.0, "goodput": 0.9, "failed": 0}
    faults = {
        "redis_killed": {"killed": 3, "noticed": 3, **counts},
        "bundles_swapped": {"swaps": 50, **counts},
        "replicas_ended": {"sigterms": 8, "exit_codes": [0], **counts},
        "many_reloads": {"reloads": 1, "rss_mb_after": {"0": 1.0}},
        "overload": busy,
        "overload_in_haste": busy,
    }
    rss = {"second_quarter": 100.0, "last_quarter": 101.0, "slope_per_hour": 1.0}
    soak: dict[str, object] = {
        "seconds": 600,
        "per_s": 40,
        "requests": 9,
        "p50_ms": 1.0,
        "p99_ms": 1.0,
        "reloads": 1,
        "failed_reloads": 0,
    }
    soak |= {"unexpected": 0, "statuses": {"hit": {"200": 9}}, "rss_mb": rss, "most_rss_mb": 102.0, "is_flat": True}
    soak |= {"files": {"second_quarter": 20, "last_quarter": 20}}
    reports = {"serve": {**serve, "contenders": contenders, "ratios": _ratios(found)}, "faults": faults, "soak": soak}
    with pytest.raises(PnagError, match="serve.json: is not there"):
        write_serving_page(tmp_path, tmp_path / "page.md")
    for name, report in reports.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    page = write_serving_page(tmp_path, tmp_path / "page.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.endswith(("| yes |", "| **no** |"))]
    assert {row[0]: row[2] for row in rows if "no" in row[3]} == {
        "| pnag, uncached, 2 workers over LitServe, 2 workers, the best other of so many workers, requests/s": "1.70",
        "| 3 times capacity, short queue: p99 of those accepted over the unloaded p99": "4.50",
    }
    assert len(rows) == 13
    assert "| 0, 0, 3 |" in page
    assert "The stack in containers" not in page
    (tmp_path / "stack").mkdir()
    one = {"1 replica, cached": {**figures, "requests_per_s": 9162.0}}
    (tmp_path / "stack" / "serve.json").write_text(json.dumps({**serve, "contenders": one, "ratios": []}))
    (tmp_path / "stack" / "soak.json").write_text(json.dumps(soak))
    page = write_serving_page(tmp_path, tmp_path / "page.md").read_text()
    assert "| 1 replica, cached | 9162 | 1.0 | 2.0 | 0, 0, 3 |" in page.partition("The stack in containers")[2]
