"""Check that the version stands everywhere as in service/version.py, or set it everywhere.

python scripts/version.py              # exit 1 and say where another stands
python scripts/version.py --set 0.2.0
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

_IMAGE = r"\bpnag(?:-trainer)?:(\d[\w.+-]*)"
PLACES = {
    "service/version.py": r'^VERSION = "(.+)"',
    "pyproject.toml": r'^name = "pnag"\nversion = "(.+)"',
    "Dockerfile": rf"{_IMAGE}|^ARG VERSION=(\S+)",
    "docker-compose.yml": _IMAGE,
    "deploy/helm/pnag/Chart.yaml": r'^(?:version: |appVersion: ")([\w.+-]+)',
    "docs/deploy.md": _IMAGE,
    "docs/openapi.json": r'^  "version": "(.+)"',
}
"""File -> regular expression; the group that matched is the version."""


def find(root: Path) -> Iterator[tuple[str, str]]:
    """Yield every place, as file and line, with the version that stands there."""
    for name, pattern in PLACES.items():
        text = (root / name).read_text()
        for match in re.finditer(pattern, text, re.MULTILINE):
            yield f"{name}:{text.count(chr(10), 0, match.start()) + 1}", match[match.lastindex or 0]


def change(root: Path, version: str) -> None:
    """Put a version into every place."""
    for name, pattern in PLACES.items():
        path, text = root / name, (root / name).read_text()
        for match in reversed([*re.finditer(pattern, text, re.MULTILINE)]):
            start, end = match.span(match.lastindex or 0)
            text = text[:start] + version + text[end:]
        path.write_text(text)


def main() -> None:
    """Check, or set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", metavar="VERSION", dest="version")
    options = parser.parse_args()
    if options.version:
        change(ROOT, options.version)
    (_, wanted), *others = find(ROOT)
    wrong = [f"{place}: {version}, not {wanted}" for place, version in others if version != wanted]
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
