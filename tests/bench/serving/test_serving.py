"""The comparisons of serving: what is counted is what happened. Nobody's speed is looked at here."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pnag.bench.serving.compare import Round, _milliseconds, _ratios
from pnag.bench.serving.load import NO_ANSWER, Asked, ask_in_turn, offer, percentile_ms, request
from pnag.bench.serving.page import write_serving_page
from pnag.bench.serving.soak import Sample, judge, mixed_requests
from pnag.models.bundle.bundle import FrontPoint
from pnag.models.errors import PnagError


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path names; /break hangs up."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/break":
            self.close_connection = True
            return
        self.send_response(int(self.path[1:]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_every_request_is_counted_once_by_how_it_ended(port: int) -> None:
    kinds = [("good", "/200"), ("busy", "/503"), ("gone", "/break")] * 10
    asked = offer(port, ((kind, request("POST", path, b"x" * 5000)) for kind, path in kinds), 1000, 0.03)
    assert Counter((one.kind, one.status) for one in asked) == {
        ("good", 200): 10,
        ("busy", 503): 10,
        ("gone", NO_ANSWER): 10,
    }


def test_a_server_that_is_not_there_gives_no_answers() -> None:
    asked = offer(1, [("x", request("GET", "/"))] * 3, 1000, 1)
    assert [one.status for one in asked] == [NO_ANSWER] * 3


def test_in_a_closed_loop_each_connection_asks_again_after_an_answer(port: int) -> None:
    asked = ask_in_turn(port, itertools.repeat(("good", request("POST", "/200", b"x"))), 3, 0.1)
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


@pytest.mark.parametrize(("text", "ms"), [("812.00us", 0.812), ("1.50ms", 1.5), ("2.00s", 2000.0), ("1.00m", 60_000.0)])
def test_what_wrk_prints_is_read_with_its_unit(text: str, ms: float) -> None:
    assert _milliseconds(text) == pytest.approx(ms)


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
    soak = {"seconds": 600, "per_s": 40, "requests": 9, "p50_ms": 1.0, "p99_ms": 1.0, "reloads": 1, "failed_reloads": 0}
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
