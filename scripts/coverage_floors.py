"""Hold the coverage of each package at its floor: tool.pnag.coverage_floors of pyproject.toml.

In percent of lines and branches. Reads the data that the last `make coverage` left; exits 1 and names the packages
that fell below.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Compare every package."""
    floors: dict[str, float] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pnag"]["coverage_floors"]
    low = []
    for package, floor in floors.items():
        command = [
            sys.executable,
            "-m",
            "coverage",
            "report",
            "--format=total",
            "--precision=1",
            f"--include={package}/*",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            sys.exit(f"{package}: {done.stdout}{done.stderr}")
        print(f"{package}: {float(done.stdout):.1f} %, floor {floor} %")  # noqa: T201
        if float(done.stdout) < floor:
            low.append(package)
    sys.exit(f"below the floor: {', '.join(low)}" if low else 0)


if __name__ == "__main__":
    main()
