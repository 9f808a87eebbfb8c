"""Servers that are compared: how each is started, and what it is asked."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SERVERS = Path(__file__).resolve().parent / "servers"
"""Scripts for other interpreters, each in an environment of its own: no part of this package, never imported here."""

REPOSITORY = SERVERS.parents[2]
PYTHON = sys.executable

GENERATE = '{"budget_ms": %BUDGET%}'
BENTOML = '{"budgets_ms": [%BUDGET%]}'
KSERVE = '{"inputs": [{"name": "budget_ms", "shape": [1, 1], "datatype": "FP64", "data": [%BUDGET%]}]}'


PACKAGES = {
    "litserve": ["litserve"],
    "bentoml": ["bentoml"],
    "mlserver": ["mlserver", "uvloop<0.21"],  # with a newer uvloop the workers of MLServer 1.7.1 do not start
    "tritonclient": ["tritonclient[http]"],
}
LIBRARIES = ["numpy", "onnxruntime", "orjson", "cachetools", "pydantic"]
"""Libraries that the generator needs in each of these environments."""


@dataclass(frozen=True)
class Contender:
    """One server.

    Attributes:
        command: its arguments; `{port}` is filled in.
        package: what it needs in an environment of its own (see PACKAGES); empty for ours.
        is_cached: asked the same again and again, instead of budgets that all differ.
    """

    name: str
    command: tuple[str, ...]
    template: str = GENERATE
    path: str = "/generate"
    package: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    is_cached: bool = False


def contenders(bundle: Path, num_candidates: int, max_batch_size: int) -> list[Contender]:
    """List everybody, each as its own documentation says to run it on a small machine: one worker, its own batching."""
    common = {"BUNDLE": str(bundle), "NUM_CANDIDATES": str(num_candidates), "MAX_BATCH_SIZE": str(max_batch_size)}
    ours = (PYTHON, "-m", "pnag", "serve", "--bundle", str(bundle), "--port", "{port}")
    two_workers = {"PNAG_WORKERS": "2", "PNAG_INFERENCE_THREADS": "1"}
    settings = {"PNAG_NUM_CANDIDATES": str(num_candidates), "PNAG_MAX_BATCH_SIZE": str(max_batch_size)}
    uncached = {**settings, "PNAG_CACHE_ENTRIES": "0"}
    uvicorn: tuple[str, ...] = (
        PYTHON,
        "-m",
        "uvicorn",
        "--port",
        "{port}",
        "--no-access-log",
        "--log-level",
        "warning",
    )
    uvicorn += ("--app-dir", str(SERVERS))
    bentoml = ("bentoml", "serve", "bentoml_service:Pnag", "--working-dir", str(SERVERS), "--port", "{port}")
    compared = [
        Contender("bare uvicorn ASGI hello", (*uvicorn, "hello_asgi:app"), is_cached=True),
        Contender("FastAPI hello world", (*uvicorn, "hello_fastapi:app"), path="/hello", is_cached=True),
        Contender("FastAPI, request read", (*uvicorn, "hello_fastapi:app"), is_cached=True),
        Contender("pnag, cached", ours, environment=settings, is_cached=True),
        Contender("pnag, uncached", ours, environment=uncached),
        Contender("pnag, uncached, 2 workers", ours, environment={**uncached, **two_workers}),
    ]
    for workers in (1, 2):
        name = f", {workers} workers" if workers > 1 else ""
        environment = {**common, "WORKERS": str(workers)}
        compared += [
            Contender(
                f"LitServe{name}",
                ("python", str(SERVERS / "litserve_server.py")),
                package="litserve",
                environment={**environment, "BATCH_TIMEOUT_S": "0.002"},
            ),
            Contender(f"BentoML{name}", bentoml, template=BENTOML, package="bentoml", environment=environment),
            Contender(
                f"MLServer{name}",
                ("mlserver", "start", "{folder}"),
                template=KSERVE,
                path="/v2/models/pnag/infer",
                package="mlserver",
                environment=environment,
            ),
        ]
    return compared


def environment_of(package: str, folder: Path) -> Path:
    """A package's own virtual environment, made if it is not there."""
    path = folder.resolve() / package
    if not (path / "installed").exists():
        venv.create(path, with_pip=True)
        subprocess.run([path / "bin" / "pip", "install", "--quiet", *PACKAGES[package], *LIBRARIES], check=True)
        (path / "installed").touch()
    return path


def version_of(package: str, folder: Path) -> str:
    """Give the version of a package in its environment."""
    python = environment_of(package, folder) / "bin" / "python"
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def start(contender: Contender, port: int, environments: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a contender in a process group of its own."""
    environment = environment_of(contender.package, environments) if contender.package else None
    variables = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "ORT_DISABLE_TELEMETRY": "1",
        "BENTOML_DO_NOT_TRACK": "true",
        "PORT": str(port),
        **contender.environment,
    }
    folder = log.with_suffix("")
    command = [part.format(port=port, folder=folder) for part in contender.command]
    if environment is not None:
        command[0] = str(environment / "bin" / command[0])
        variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{variables['PATH']}"
    if "{folder}" in contender.command:
        _write_mlserver_model(folder, port, contender.environment)
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=variables, stdout=output, stderr=output, cwd=log.parent, start_new_session=True
        )


def _write_mlserver_model(folder: Path, port: int, environment: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runtime.py").write_bytes((SERVERS / "mlserver_runtime.py").read_bytes())
    workers = int(environment["WORKERS"])
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1000,
        "metrics_port": port + 2000,
        "parallel_workers": workers if workers > 1 else 0,  # 0: in the server's own process, which is faster than 1
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "pnag", "implementation": "runtime.PnagRuntime", "max_batch_time": 0.002}
    model["max_batch_size"] = int(environment["MAX_BATCH_SIZE"])
    (folder / "model-settings.json").write_text(json.dumps(model))
