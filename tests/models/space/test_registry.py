"""Search spaces from other packages: found by entry point, refused with the plug-in named."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from pnag.cli import main as cli
from pnag.models.errors import SearchSpaceError
from pnag.models.space.registry import ENTRY_POINTS, get_space, space_from_dict, space_names

EXAMPLE = Path(__file__).parents[3] / "examples" / "resnet_space"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, points: dict[str, str], name: str = "plugin") -> None:
    """What pip leaves behind of a package with these entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{point} = {value}\n" for point, value in points.items())
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def resnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The worked example, installed as its pyproject.toml says."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    points = project["entry-points"][ENTRY_POINTS]
    install(tmp_path, monkeypatch, points)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    (name,) = points
    return name


def test_an_installed_space_is_one_more_name(resnet: str) -> None:
    assert resnet in space_names()
    space = get_space(resnet)
    assert space_from_dict(space.to_dict()).to_dict() == space.to_dict()


def test_the_worked_example_passes_the_check(resnet: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["spaces", "check", resnet, "--json"])
    assert not caught.value.code
    results = json.loads(capsys.readouterr().out)
    assert {r["check"] for r in results} >= {"built networks match their layers", "costs add up over layers"}


def test_a_space_with_a_wrong_formula_fails_the_check(
    resnet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    get_space(resnet)
    module = sys.modules["resnet_space.space"]
    right = module.ResidualBlock.macs.func
    monkeypatch.setattr(module.ResidualBlock, "macs", property(lambda self: right(self) + 1))
    with pytest.raises(SystemExit) as caught:
        cli.main(["spaces", "check", resnet])
    assert caught.value.code == 1
    assert "FAILED built networks match their layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('boom')", "boom"),
        ("def make(): return 3", "it must give a pnag.models.space.search_space.SearchSpace"),
        (
            "from pnag.models.space.nas_bench_macro import NasBenchMacro as make",
            "gives 'nas-bench-macro'",
        ),
    ],
)
def test_a_plug_in_that_does_not_work_is_named(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text(code)
    install(tmp_path, monkeypatch, {"broken": "broken_plugin:make"})
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    with pytest.raises(SearchSpaceError) as caught:
        get_space("broken")
    assert "broken_plugin:make" in str(caught.value)
    assert said in str(caught.value)


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, {"twice": "a:b"}, "one")
    install(tmp_path, monkeypatch, {"twice": "c:d"}, "two")
    with pytest.raises(SearchSpaceError, match="uninstall all but one"):
        get_space("twice")
