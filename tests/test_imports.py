"""What is really loaded: import-linter reads the source, this looks at `sys.modules` of a fresh process."""

import json
import subprocess
import sys

import pytest

NOT_FOR_SERVING = {
    "torch", "pnag.trainer", "onnx", "pandas", "sklearn", "gpytorch", "matplotlib", "pymoo", "pyarrow", "scipy",
    "psutil", "yaml",
}  # fmt: skip


def _loaded_by(code: str) -> set[str]:
    """Modules in a process that ran this code."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def _run(*arguments: str) -> str:
    return f"from pnag.cli.main import main\ntry: main({list(arguments)})\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "code",
    [
        "import pnag.service.app, pnag.service.server",
        "from pnag.service.settings import Settings; from pnag.service.app import create_app; create_app(Settings())",
        _run("serve", "--help"),
        _run("inspect", "nas-bench-macro", "02012100", "--json"),
    ],
)
def test_serving_loads_nothing_that_trains(code: str) -> None:
    assert not _loaded_by(code) & NOT_FOR_SERVING


def test_the_help_loads_neither_torch_nor_the_runtime() -> None:
    loaded = _loaded_by(_run("--help"))
    assert not loaded & {"torch", "onnxruntime", "fastapi"}


def test_a_missing_library_names_the_extra_that_brings_it() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "gpytorch"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from pnag.cli.main import main
main(["supernet", "train", "--space", "nas-bench-macro", "--images", "none", "--out", "none"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'pnag[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_telemetry_of_the_runtime_is_off_before_it_is_loaded() -> None:
    code = """
import os, sys
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "loaded with its telemetry on"
sys.meta_path.insert(0, Watch())
import pnag.models.answer.runtime
"""
    assert "onnxruntime" in _loaded_by(code)
