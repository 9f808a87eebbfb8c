"""Reports from the field: who may move a table with them, and how far."""

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pnag.models.cost.latency_table import LatencyTable
from pnag.models.errors import BudgetError, LatencyTableError, RecordsError
from pnag.models.space.search_space import SearchSpace
from pnag.service.feedback.report import FieldReport
from pnag.service.routes.feedback import reports_csv
from pnag.trainer.latency import feedback
from pnag.trainer.latency.fit import predict

DEVICE = "a phone"
SLOWER = 1.3


@pytest.fixture
def encodings(macro: SearchSpace) -> list[str]:
    return [macro.encode(t) for t in np.unique(macro.sample(60, np.random.default_rng(0)), axis=0)]


@pytest.fixture
def reports(macro: SearchSpace, macro_table: LatencyTable, encodings: list[str]) -> list[FieldReport]:
    """A device that takes 1.3 times what the table says, each network reported three times."""
    predicted = predict(macro_table, macro, encodings)
    return [
        FieldReport(encoding, DEVICE, ms * SLOWER * factor, ms, 0.0)
        for encoding, ms in zip(encodings, predicted.tolist(), strict=True)
        for factor in (0.99, 1.0, 1.02)
    ]


def _networks(table: LatencyTable, space: SearchSpace, reports: list[FieldReport]) -> feedback.FieldNetworks:
    return feedback.field_networks(table, space, reports_csv(reports), DEVICE)


def test_a_table_follows_what_the_field_reports(
    macro: SearchSpace, macro_table: LatencyTable, reports: list[FieldReport], encodings: list[str]
) -> None:
    found = feedback.field_networks(macro_table, macro, reports_csv(reports))
    assert (found.device, found.num_reports, found.num_left_out) == (DEVICE, len(reports), 0)
    fitted = feedback.fit(macro_table, macro, found, 10, 0.95, seed=0)
    ratio = predict(fitted, macro, encodings) / predict(macro_table, macro, encodings)
    assert ratio == pytest.approx(SLOWER, rel=1e-3)
    assert fitted.bound_factor(0.95) == pytest.approx(1.01, rel=1e-3), "the median of each network's slower reports"
    assert fitted.calibration is not None
    assert fitted.calibration.num_networks == 10
    assert DEVICE in fitted.calibration.method
    assert {n.architecture for n in fitted.networks} == set(encodings), "a check must know which ones to avoid"


def test_a_few_wild_claims_move_nothing(
    macro: SearchSpace, macro_table: LatencyTable, reports: list[FieldReport]
) -> None:
    wild = [
        replace(report, latency_ms=report.latency_ms * factor) for report in reports[::12] for factor in (1e3, 1e-3)
    ]
    calm, stirred = (_networks(macro_table, macro, some) for some in (reports, reports + wild))
    assert stirred.num_left_out == len(wild)
    assert stirred.networks == calm.networks


def test_whatever_is_claimed_a_prediction_moves_by_a_bounded_factor(
    macro: SearchSpace, macro_table: LatencyTable, reports: list[FieldReport]
) -> None:
    liar = [replace(report, latency_ms=report.promised_ms * feedback.PLAUSIBLE * 0.999) for report in reports]
    fitted = feedback.fit(macro_table, macro, _networks(macro_table, macro, liar), 10, 0.95, seed=0)
    names = [report.encoding for report in reports]
    assert max(predict(fitted, macro, names) / predict(macro_table, macro, names)) <= feedback.PLAUSIBLE


def test_reports_of_another_device_fit_nothing(
    macro: SearchSpace, macro_table: LatencyTable, reports: list[FieldReport]
) -> None:
    other = [replace(report, latency_ms=report.latency_ms * 50) for report in reports]
    with pytest.raises(RecordsError, match=r"not the table's device 'invented'"):
        _networks(macro_table, macro, other)


def test_devices_are_told_apart(macro: SearchSpace, macro_table: LatencyTable, reports: list[FieldReport]) -> None:
    formula = [replace(report, device="=tablet", latency_ms=report.latency_ms * 1.5) for report in reports]
    text = reports_csv(reports + formula)
    with pytest.raises(RecordsError, match=r"not given; the reports are of a phone \(\d+\), =tablet"):
        feedback.field_networks(macro_table, macro, text)
    with pytest.raises(RecordsError, match="no device: there are none"):
        feedback.field_networks(macro_table, macro, reports_csv([]))
    found = feedback.field_networks(macro_table, macro, text, "=tablet")
    assert found.networks[0].ms == pytest.approx(reports[1].latency_ms * 1.5)


def test_too_few_networks_are_told_with_how_many_it_takes(
    macro: SearchSpace, macro_table: LatencyTable, reports: list[FieldReport]
) -> None:
    with pytest.raises(BudgetError, match="at least 19"):
        feedback.fit(macro_table, macro, _networks(macro_table, macro, reports[:60]), 10, 0.95, seed=0)


def test_a_table_without_layers_cannot_be_calibrated(
    macro: SearchSpace, macro_table: LatencyTable, reports: list[FieldReport]
) -> None:
    with pytest.raises(LatencyTableError, match="pnag latency learn"):
        _networks(replace(macro_table, layers={}), macro, reports)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architecture,latency_ms\n", "no column 'device'"),
        ("architecture,latency_ms,device\n00000000,1.5,x\n99999999,1.5,x\n", "row 2: "),
        ("architecture,latency_ms,device\n00000000,-1,x\n", "latency_ms is '-1'"),
        ("architecture,latency_ms,device\n00000000,nan,x\n", "latency_ms is 'nan'"),
        ("architecture,latency_ms,device\n00000000\n", "latency_ms is None"),
    ],
)
def test_a_file_that_is_no_list_of_reports_is_refused_by_row(
    macro: SearchSpace, macro_table: LatencyTable, text: str, message: str
) -> None:
    with pytest.raises(RecordsError, match=message):
        feedback.field_networks(macro_table, macro, text)


@pytest.fixture
def service() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            known = self.headers["authorization"] == "Bearer secret" and self.headers["accept"] == "text/csv"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(b"architecture,latency_ms,device\n")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/bundles/x/feedback"
        server.shutdown()


def test_a_service_is_asked_with_the_key(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(feedback.KEY_VARIABLE, raising=False)
    with pytest.raises(RecordsError, match=r"answers 401 .*put a key into PNAG_API_KEY"):
        feedback.read_reports(service)
    monkeypatch.setenv(feedback.KEY_VARIABLE, "secret")
    assert feedback.read_reports(service) == "architecture,latency_ms,device\n"


def test_no_more_is_read_than_a_service_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MAX_BYTES", 10)
    path = tmp_path / "reports.csv"
    path.write_bytes(b"x" * 11)
    with pytest.raises(RecordsError, match="less than that"):
        feedback.read_reports(str(path))
    with pytest.raises(RecordsError, match="cannot be read"):
        feedback.read_reports(str(tmp_path / "none.csv"))
