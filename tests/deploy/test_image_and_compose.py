"""Image and compose file: what they must never lose, and the small scripts in them."""

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pnag.service.edge.security import ApiKeys
from pnag.service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name, service in SERVICES.items() if service["restart"] != "no"]
DOCS = ("deploy.md", "runbook.md")


def test_hadolint_finds_nothing(run: Callable[..., str]) -> None:
    run("hadolint", "Dockerfile")


def test_compose_accepts_the_file_once_the_secrets_are_there(run: Callable[..., str], tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text(subprocess.run([ROOT / "deploy/make_env.sh"], capture_output=True, text=True, check=True).stdout)
    run("docker-compose", "--env-file", env, "--profile", "*", "config", "--quiet")


def test_compose_refuses_to_start_without_secrets(run: Callable[..., str], tmp_path: Path) -> None:
    empty = tmp_path / "env"
    empty.touch()
    assert "make_env.sh" in run("docker-compose", "--env-file", empty, "config", "--quiet", expect=1)


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_container_is_confined_checked_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["restart"] == "unless-stopped"
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert "healthcheck" in service or name.startswith("pnag")  # theirs is in the image


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_and_can_be_replaced(name: str) -> None:
    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[\w./-]+:[\w.-]*\d[\w.-]*\}", SERVICES[name]["image"])


def test_only_service_gateway_and_grafana_are_published_and_only_here() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports.keys() == {"pnag", "gateway", "grafana"}
    assert all(re.match(r"\$\{\w+:-127\.0\.0\.1:\d+\}:\d+$", port) for some in ports.values() for port in some)


def test_secrets_have_no_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = re.findall(r"\$\{(\w*(?:PASSWORD|KEYS|SECRET)\w*)(\W+)", text)
    assert used
    assert all(operator == ":?" for _, operator in used)


def test_compose_sets_only_settings_that_exist() -> None:
    fields = {f"PNAG_{name.upper()}" for name in Settings.model_fields}
    assert SERVICES["pnag"]["environment"].keys() <= fields
    image = set(re.findall(r"\b(PNAG_\w+)=", (ROOT / "Dockerfile").read_text()))
    assert image <= fields


def test_the_secrets_that_are_made_let_their_owners_in() -> None:
    made = subprocess.run([ROOT / "deploy/make_env.sh"], capture_output=True, text=True, check=True)
    env = dict(line.split("=", 1) for line in made.stdout.splitlines() if "=" in line and not line.startswith("#"))
    keys = ApiKeys(Settings.model_validate({"api_keys": env["PNAG_API_KEYS"]}))
    shown = re.findall(r"pnag_[0-9a-f]{64}", made.stderr)
    assert [key.scope for text in shown if (key := keys.find(text.encode()))] == ["read", "admin"]
    assert len({env["REDIS_PASSWORD"], env["GRAFANA_PASSWORD"]}) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", env[name]) for name in ("REDIS_PASSWORD", "GRAFANA_PASSWORD"))


def test_the_build_context_holds_no_more_than_the_image_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    copied = set(re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    sources = {source.split("/")[0] for line in copied for source in line.split()[:-1]}
    assert sources <= {line[1:] for line in lines if line.startswith("!")}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put what the Dockerfile puts into the site-packages of the service's image into a folder."""
    folder = tmp_path_factory.mktemp("image")
    service, _, _ = (ROOT / "Dockerfile").read_text().partition("AS trainer-build")
    copies = re.findall(r"^COPY (?!--from)(.+) /opt/venv/lib/python3.11/site-packages/(.*)$", service, re.MULTILINE)
    for sources, target in copies:
        for source in (path for pattern in sources.split() for path in ROOT.glob(pattern)):
            if source.is_dir():
                shutil.copytree(source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / target)
    return folder


def _pnag_in_image(image: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    # -P: the current folder holds the whole of it, bench and trainer too.
    command = [sys.executable, "-P", "-m", "pnag", *arguments]
    environment = os.environ | {"PYTHONPATH": str(image)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ("train --space x --records y --latency-table z --out o", "use the trainer's image"),
        ("bench serve --bundle x --out y", "run it in a checkout"),
    ],
)
def test_the_image_of_the_service_says_in_one_line_what_it_lacks(image: Path, arguments: str, advice: str) -> None:
    done = _pnag_in_image(image, *arguments.split())
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert advice in done.stderr


def test_the_image_of_the_service_can_check_a_bundle(image: Path) -> None:
    done = _pnag_in_image(image, "bundle", "verify", ROOT / "bundles" / "nas-bench-macro-cifar10")
    assert done.returncode == 0, done.stderr
    assert "recorded answers met" in done.stdout


@contextmanager
def _answering(status: int) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _healthcheck(port: int) -> int:
    script = ROOT / "deploy/image/healthcheck.py"
    environment = os.environ | {"PNAG_PORT": str(port)}
    return subprocess.run([sys.executable, "-I", "-S", script], env=environment, capture_output=True).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_readyz_says(status: int, code: int) -> None:
    with _answering(status) as port:
        assert _healthcheck(port) == code


def test_the_health_check_fails_where_nobody_listens() -> None:
    with _answering(200) as port:
        pass
    assert _healthcheck(port) == 1


@pytest.mark.parametrize(
    "script", [*(ROOT / "deploy").rglob("*.sh"), *(ROOT / "deploy/image").glob("[!h]*")], ids=lambda path: path.name
)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("name", DOCS)
def test_blocks_that_are_run_parse_and_are_all_run(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    blocks = dict(re.findall(r"^<!-- run: (\S+) -->\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert blocks.keys() == set(re.findall(r"<!-- run: (\S+) -->", text)) - {"-->"}
    scripts = "".join(path.read_text() for path in (ROOT / "deploy/e2e").glob("*.sh"))
    for block, code in blocks.items():
        subprocess.run(["bash", "-n"], input=code, text=True, check=True)
        assert re.search(rf"\b{block}\b", scripts), f"docs/{name}: {block} is not run by deploy/e2e"


NO_SKIP = os.environ.get("PNAG_NO_SKIP")
"""As it was when this file was read."""


def test_what_tells_the_tests_not_to_skip_reaches_them() -> None:
    assert os.environ.get("PNAG_NO_SKIP") == NO_SKIP
