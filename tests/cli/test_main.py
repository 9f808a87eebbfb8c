"""`pnag`: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest

from pnag.cli import main as cli


def run(*arguments: str) -> int:
    """Exit code of `pnag ARGUMENTS`."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def test_wrong_use_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("frobnicate") == 2
    assert "No such command" in capsys.readouterr().err


def test_a_mistake_exits_1_with_the_message_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "nas-bench-macro", "0201210x") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "digit 8 is 'x'" in captured.err


def test_spaces_lists_what_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("spaces", "--json") == 0
    spaces = {space["name"]: space for space in json.loads(capsys.readouterr().out)}
    assert spaces["nas-bench-macro"] == {"name": "nas-bench-macro", "num_decisions": 8, "num_architectures": "6561"}


def test_inspect_sums_up_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "nas-bench-macro", "02012100", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["macs"] == sum(layer["macs"] for layer in body["layers"])
    assert body["params"] == sum(layer["params"] for layer in body["layers"])
    assert "predicted" not in body


def test_serving_a_folder_without_a_bundle_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--bundle", str(tmp_path), "--port", "0") == 1
    assert "no bundle in" in capsys.readouterr().err


def test_a_setting_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PNAG_MAX_WAITING", "many")
    assert run("serve") == 1
    assert "PNAG_MAX_WAITING" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["supernet", "check", "--bundle", "b", "--records", "r.csv"], "pnag bench labels"),
        (["supernet", "train", "--val-images", "10"], "--validation-images"),
    ],
)
def test_what_was_renamed_names_what_to_type_now(
    capsys: pytest.CaptureFixture[str], arguments: list[str], new: str
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert new in captured.err
