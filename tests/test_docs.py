"""What the documentation tells people to type works, typed word for word in an empty folder."""

import csv
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pnag.cli import main as cli
from pnag.service.contract.problems import ServiceError

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
SITE = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.parent.name != "images")
"""Every page of the site."""
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
HEADINGS = ["Context", "Decision", "Evidence", "Consequences", "Where"]
WITH_FIGURES = ["benchmarks.md", "benchmarks-serving.md", "latency.md", "limits.md"]
NAMES_FILES = ["CONTRIBUTING.md", "docs/how-it-works.md", "docs/glossary.md"]
COMMANDS = typer.main.get_command(cli.app)


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
    assert sorted(nav) == SITE


def test_the_references_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "scripts/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run `python scripts/reference.py`"


def test_links_between_pages_lead_somewhere() -> None:
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:\s]+\.(?:md|json|png))", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


# ---- commands --------------------------------------------------------------------------------------------------------


def _blocks(text: str) -> Iterator[str]:
    """The lines of a page's code blocks, fenced and indented; a line that goes on after a backslash is one."""
    lines = re.sub(r" *\\\n\s*", " ", text).splitlines()
    is_fenced = False
    for line in lines:
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            yield line.strip()


def _typed(text: str) -> Iterator[tuple[list[str], bool]]:
    """Every `pnag` command line of a page as words after `pnag`, and whether it stands there whole, as one types it."""
    for line in _blocks(text):
        for part in re.split(r"&&|\|\||;| [|>] ", line.removeprefix("$ ").removeprefix("example: ")):
            found = re.match(r"\s*(?:torchrun .*-m |python -m )?pnag (.*)", part)
            if found:
                yield shlex.split(found[1], comments=True), True
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for quoted in re.findall(r"`pnag ([^`]+)`", prose):
        yield shlex.split(re.sub(r"[][]", " ", quoted)), False


def _misuse(words: list[str], *, is_whole: bool) -> str | None:
    """What the command line would refuse of these words; None = nothing. Values may be placeholders."""
    command: Any = COMMANDS
    words = [word for word in words if word not in {"&", "...", "…"}]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        named = words[0].split("|")
        if unknown := [name for name in named if name not in command.commands]:
            return f"no command {unknown[0]}"
        command, words = command.commands[named[0]], words[1:]
    options = {name: p for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    given, places = set(), 0
    while words:
        word, *words = words
        name, _, value = word.partition("=")
        if not name.startswith("-") or name == "-":
            places += 1
        elif name not in {*options, "--help"}:
            return f"no option {name}"
        else:
            given.add(name)
            if name != "--help" and not options[name].is_flag and not value:
                words = words[1:]
    if not any(p.nargs == -1 for p in arguments) and places > len(arguments):
        return f"{places} arguments, {len(arguments)} are taken"
    missing = [p.name for p in command.params if p.required and p not in arguments and not {*p.opts} & given]
    return f"needs {missing}" if is_whole and missing and "--help" not in given else None


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{page}" for page in SITE)])
def test_every_command_line_of_a_page_is_one(page: str) -> None:
    wrong = {
        "pnag " + " ".join(words): found
        for words, is_whole in _typed((ROOT / page).read_text())
        if (found := _misuse(words, is_whole=is_whole)) is not None
    }
    assert wrong == {}


def test_command_lines_are_found_in_every_kind_of_block() -> None:
    text = """
    pnag serve --bundles b &
    pnag train --records r.csv \\
        --spaces s
    pnag generate --bundle b

```sh
curl localhost | pnag nonsense
pnag generate --bundle B --budget-ms 2 > answer.json  # this one is right
pnag inspect a b c
```

In prose `pnag latency fit --feed x` or `pnag bench serve|faults|soaked`.
"""
    assert [_misuse(words, is_whole=is_whole) for words, is_whole in _typed(text)] == [
        "no option --bundles",
        "no option --spaces",
        "needs ['budget_ms']",
        "no command nonsense",
        None,
        "3 arguments, 2 are taken",
        "no option --feed",
        "no command soaked",
    ]


# ---- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WITH_FIGURES)
def test_a_page_of_figures_names_the_command_that_made_them(page: str) -> None:
    assert re.search(r"\b(?:[Mm]ade|Written) by (?:`|this command)", (DOCS / page).read_text())


def test_every_picture_is_shown_and_has_a_command() -> None:
    pages = [page.read_text() for page in (*(DOCS / page for page in SITE), ROOT / "README.md")]
    listed = dict(
        re.findall(r"^\| `([^`]+)` \| `((?:make|pnag) [^`]+)`", (DOCS / "images/README.md").read_text(), re.M)
    )
    assert set(listed) == {picture.name for picture in (DOCS / "images").glob("*.png")}
    for picture in DOCS.rglob("*.png"):
        assert any(f"{picture.parent.name}/{picture.name}" in text for text in pages), (
            f"{picture.name} is shown nowhere"
        )


def test_the_figures_of_the_tables_that_ship_are_those_of_the_command() -> None:
    text = (DOCS / "latency.md").read_text()
    (script,) = re.findall(r"^    python - <<'PY'\n(.*?)^    PY$", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert done.stdout in text


# ---- decisions, and files that pages name ----------------------------------------------------------------------------


def test_the_index_of_decisions_is_that_of_the_files() -> None:
    rows = []
    for page in DECISIONS:
        text = page.read_text()
        title = re.match(r"# (\d{4})\. (.+)\n", text)
        status = re.search(r"^- Status: (accepted|superseded by (\d{4}))$", text, re.MULTILINE)
        date = re.search(r"^- Date: (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
        assert title, page.name
        assert status, page.name
        assert date, page.name
        assert page.name.startswith(f"{title[1]}-")
        assert status[2] is None or list((DOCS / "decisions").glob(f"{status[2]}-*.md")), page.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS, page.name
        assert "\n|---" in text.split("## Evidence")[1].split("## ")[0], f"{page.name}: evidence is a table"
        rows.append(f"| [{title[1]}]({page.name}) | {title[2]} | {status[1]} | {date[1]} |")
    index = (DOCS / "decisions/README.md").read_text()
    assert re.findall(r"^\| \[.*\|$", index, re.MULTILINE) == rows
    assert [page.name[:4] for page in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name[:4])
def test_a_decision_names_its_code_and_its_test(page: Path) -> None:
    where = page.read_text().split("## Where")[1]
    assert re.search(r"^Code: `", where, re.MULTILINE)
    assert re.search(r"Test:\s+`tests/", where)


@pytest.mark.parametrize("page", [*NAMES_FILES, *(f"docs/decisions/{page.name}" for page in DECISIONS)])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    rooms = "bench|cli|deploy|docs|examples|models|pnag|pnag_client|requirements|scripts|service|tests|trainer"
    named = re.findall(rf"`((?:{rooms})/[\w./-]*)`", (ROOT / page).read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_problem_of_the_service_is_explained() -> None:
    text = (DOCS / "service.md").read_text()
    kinds = list(ServiceError.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert f"`{kind.code}`" in text, kind.__name__


def test_the_log_is_dated_and_its_entries_say_how_it_ended() -> None:
    text = (DOCS / "lab-log.md").read_text()
    dates = re.findall(r"^## (\S{10}): ", text, re.MULTILINE)
    assert len(dates) == len(re.findall(r"^## ", text, re.MULTILINE))
    assert dates == sorted(dates, reverse=True), "newest first"
    entries = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert [entry for entry in entries if not re.search(r" \((?:adopted|negative)\)$", entry)] == []


def test_what_the_code_says_of_documents_is_there() -> None:
    pattern = r"docs/[a-z-]+(/[0-9]{4}[a-z0-9-]*|\.md)"
    search = ["git", "grep", "-ohIE", pattern, "--", "*.py", "*.md", "*.sh", "*.yml", "*.yaml"]
    listed = subprocess.run(search, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for named in set(listed):
        assert list(ROOT.glob(f"{named}*")), named
