"""What the documentation tells people to type works, typed word for word in an empty folder."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(sh|python|yaml)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PAGES = (
    "index.md", "from-your-measurements.md", "from-your-device.md", "write-a-search-space.md", "python-client.md",
    "migration.md",
)  # fmt: skip
"""Pages whose every fenced block is executed here."""
ELSEWHERE = {"deploy.md", "runbook.md"}
"""Pages with blocks that tests/deploy and deploy/e2e run."""


def _script(page: str) -> str:
    """The page as one shell script: files are written where they stand, Python is run."""
    parts = ["set -euo pipefail"]
    for language, title, body in BLOCK.findall((DOCS / page).read_text()):
        if language == "sh":
            parts.append(body)
        elif language == "python":
            parts.append(f"python - <<'__PY__'\n{body}__PY__")
        else:
            assert title, f"{page}: a yaml block needs a title to be written to"
            parts.append(f"cat > {title} <<'__YAML__'\n{body}__YAML__")
    return "\n".join(parts)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PNAG_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT), "PNAG_ROOT": str(ROOT), "PORT": str(port), "ORT_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{_script(page)}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    if page == "from-your-measurements.md":
        assert '"device":"my phone"' in done.stdout, "the curl got no answer"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_larger_table_of_the_tutorial_becomes_a_bundle(tmp_path: Path) -> None:
    text = (DOCS / "from-your-measurements.md").read_text().partition("## A larger table")[2]
    script = "".join(re.findall(r"^    (.*\n)", text, re.MULTILINE))
    assert "pnag train" in script
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environment, check=True, timeout=800)
    front = json.loads((tmp_path / "bundle/pareto_front.json").read_text())["points"]
    with (tmp_path / "all.csv").open() as file:
        rows = [(float(row["latency_ms"]), float(row["accuracy"])) for row in csv.DictReader(file)]
    assert len(rows) == 26_206
    for point in front:
        best = max(accuracy for latency_ms, accuracy in rows if latency_ms <= point["latency_ms"])
        assert point["accuracy"] == best, "the front of the records is the front of the bundle"


def _nav(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for value in (entry.values() if isinstance(entry, dict) else entry) for page in _nav(value)]


def test_every_page_with_blocks_is_executed_somewhere() -> None:
    fenced = {page.name for page in DOCS.glob("*.md") if re.search(r"^```", page.read_text(), re.MULTILINE)}
    assert fenced == {*PAGES, *ELSEWHERE}


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_a_page_is_in_a_language_that_is_not_run(page: str) -> None:
    text = (DOCS / page).read_text()
    assert 2 * len(BLOCK.findall(text)) == len(re.findall(r"^ *```", text, re.MULTILINE))


def test_the_navigation_and_the_folder_agree() -> None:
    nav = _nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_references_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "scripts/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run `python scripts/reference.py`"


def test_links_between_pages_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:\s]+\.(?:md|json|png))", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
