"""The commands that answer from a bundle without a server."""

import json
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pnag.cli import main as cli


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return int(caught.value.code or 0)


def test_generate_answers_as_the_service_does(
    bundle_folder: Path, client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "--bundle", str(bundle_folder), "--budget-ms", "6", "--json") == 0
    assert json.loads(capsys.readouterr().out) == client.post("/generate", json={"budget_ms": 6}).json()


def test_generate_for_people_prints_the_encoding_first(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--bundle", str(bundle_folder), "--budget-ms", "6") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert len(first) == 8
    assert second.startswith("top-1 ")


def test_an_infeasible_budget_exits_1_and_names_the_smallest(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "--bundle", str(bundle_folder), "--budget-ms", "0.1") == 1
    assert "ask for at least that" in capsys.readouterr().err


def test_inspect_with_a_bundle_predicts(
    bundle_folder: Path, client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", "nas-bench-macro", "02012100", "--bundle", str(bundle_folder), "--json") == 0
    predicted = client.post("/predict", json={"encoding": "02012100"}).json()["predicted"]
    assert json.loads(capsys.readouterr().out)["predicted"] == predicted


def test_inspect_refuses_a_bundle_of_another_space(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoding = ":".join([",".join("2" * 5), ",".join("3300" * 5), ",".join("3300" * 5)])
    assert run("inspect", "ofa-mobilenetv3-w1.0", encoding, "--bundle", str(bundle_folder)) == 1
    assert "is for search space nas-bench-macro" in capsys.readouterr().err


def test_bundle_verify_counts_what_it_checked(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bundle", "verify", str(bundle_folder)) == 0
    assert "5 recorded answers met" in capsys.readouterr().out


def test_bundle_verify_names_an_altered_file(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(bundle_folder, tmp_path / "altered")
    content = bytearray((folder / "generator.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "generator.onnx").write_bytes(content)
    assert run("bundle", "verify", str(folder)) == 1
    assert "altered/generator.onnx" in capsys.readouterr().err


def test_bundle_show_prints_the_manifest(bundle_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bundle", "show", str(bundle_folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
