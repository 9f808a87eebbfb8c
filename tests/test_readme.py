"""The README's first screen is true: the answer it shows is the answer, what it names exists."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pnag.service.app import create_app
from pnag.service.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted({m[1] for m in re.finditer(r"pnag ((?:latency |bundle )?[a-z]+)(?= -| SPACE|`|\s*─)", README)})


SETTINGS = Settings(bundles=(ROOT / "bundles",), default_bundle="ofa-mobilenetv3-w1.0-imagenet")
"""As `make serve` has them."""


def _block(language: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert blocks, f"no {language} block"
    return str(blocks[0])


def test_the_answer_shown_is_the_true_answer() -> None:
    curl = shlex.split(next(line for line in README.splitlines() if line.startswith("curl")))
    with TestClient(create_app(SETTINGS)) as client:
        answer = client.post(
            "/" + curl[2].split("/", 1)[1],
            content=curl[curl.index("-d") + 1],
            headers=dict([curl[curl.index("-H") + 1].split(": ")]),
        )
    assert answer.status_code == 200
    assert answer.json() == json.loads(_block("json"))


def test_the_tree_names_what_is_there() -> None:
    tree = README.split("## Where things are")[1].split("```")[1]
    named = {line.split()[0].rstrip("/") for line in tree.strip().splitlines()}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert folders - named == set(), "folders that the README does not explain"


def test_the_files_to_read_first_exist() -> None:
    for path in re.findall(r"`((?:models|trainer|service)/[a-z_/]+\.py)`", README):
        assert (ROOT / path).is_file(), path


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_named_exists(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pnag", *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
