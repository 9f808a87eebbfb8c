import json
from pathlib import Path

import numpy as np
import pytest

from pnag.models.errors import RecordsError
from pnag.models.space.registry import get_space
from pnag.trainer.data.records import options_seen, read_records

SPACE = get_space("nas-bench-macro")


def _write(folder: Path, text: str, name: str = "records.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_percent_and_fraction_mean_the_same(tmp_path: Path) -> None:
    percent = read_records(_write(tmp_path, "architecture,top1_percent\n02012100,89.2\n11111221,92.3\n"), SPACE)
    fraction = read_records(_write(tmp_path, "architecture,accuracy\n02012100,.892\n11111221,.923\n"), SPACE)
    np.testing.assert_allclose(percent.require_accuracy(), fraction.require_accuracy())
    assert percent.encodings == ("02012100", "11111221")
    assert SPACE.encode(percent.tokens_ND[0]) == "02012100"


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    import pandas as pd

    path = _write(tmp_path, "architecture,accuracy,latency_ms\n02012100,.892,3.5\n")
    pd.read_csv(path, dtype={"architecture": str}).to_parquet(tmp_path / "records.parquet")
    again = read_records(tmp_path / "records.parquet", SPACE)
    assert again.encodings == ("02012100",)
    assert again.require_latency().tolist() == [3.5]


def test_a_spreadsheets_csv_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_bytes(b"\xef\xbb\xbfarchitecture,accuracy\r\n02012100,.892\r\n11111221,.923\r\n")
    records = read_records(path, SPACE)
    assert records.encodings == ("02012100", "11111221")
    assert records.require_accuracy().tolist() == [0.892, 0.923]


def test_the_benchmarks_own_json_is_read(tmp_path: Path) -> None:
    document = {
        "02012100": {"mean_acc": 89.2, "params": 1, "flops": 2},
        "00000000": {"mean_acc": 80.0, "params": 3, "flops": 4},
    }
    records = read_records(_write(tmp_path, json.dumps(document), "macro.json"), SPACE)
    assert dict(zip(records.encodings, records.require_accuracy(), strict=True)) == {"02012100": 0.892, "00000000": 0.8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("architecture,top1_percent\n", "has no rows"),
        ("network,top1_percent\n02012100,89\n", "has no column 'architecture'; it has"),
        ("architecture,top1_percent\n02012100,89\n0201210,90\n", "row 2, architecture: .*has 7 digits"),
        ("architecture,top1_percent\n02012100,89\n02012103,90\n", "row 2, architecture: .*digit 8 is '3'"),
        (
            "architecture,top1_percent\n02012100,89\n11111221,90\n02012100,90\n",
            r"row 3, architecture repeats row 1 \(02012100\)",
        ),
        ("architecture,top1_percent\n02012100,0.89\n", "row 1, top1_percent is .*0.89.*looks like a fraction"),
        ("architecture,accuracy\n02012100,89\n", "row 1, accuracy is .*89.*looks like a percentage"),
        ("architecture,top1_percent\n02012100,nan\n", "row 1, top1_percent is"),
        ("architecture,top1_percent\n02012100,\n", "row 1, top1_percent is"),
        ("architecture,top1_percent\n02012100,eighty\n", "row 1, top1_percent is 'eighty'; expected percent"),
        ("architecture,top1_percent\n02012100,101\n", "row 1, top1_percent is"),
        ("architecture,top1_percent,latency_ms\n02012100,89,-1\n", "row 1, latency_ms is .*-1"),
        ("architecture,top1_percent,latency_ms\n02012100,89,inf\n", "row 1, latency_ms is"),
        ("architecture,top1_percent,accuracy\n02012100,89,.89\n", "both top1_percent and accuracy"),
    ],
)
def test_a_bad_file_is_refused_with_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        read_records(_write(tmp_path, text), SPACE)


def test_a_missing_file_or_column_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"none\.csv: cannot be read"):
        read_records(tmp_path / "none.csv", SPACE)
    records = read_records(_write(tmp_path, "architecture\n02012100\n"), SPACE)
    with pytest.raises(RecordsError, match="no accuracy column"):
        records.require_accuracy()
    with pytest.raises(RecordsError, match="no latency_ms column"):
        records.require_latency()


def test_options_nothing_was_measured_about_are_left_out(tmp_path: Path) -> None:
    records = read_records(_write(tmp_path, "architecture,accuracy\n02012100,.9\n11011221,.92\n"), SPACE)
    seen = options_seen(SPACE, records.tokens_ND)
    assert seen["layer1"] == ("identity", "mbconv_k3_e3")
    assert seen["layer3"] == ("identity",)
    small = SPACE.restrict(seen)
    within = records.within(small)
    assert [small.encode(row) for row in within.tokens_ND] == list(records.encodings)
