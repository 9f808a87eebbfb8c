#!/usr/bin/env bash
# What is in the image, package by package: make sbom. Writes build/sbom.cdx.json (CycloneDX) and build/licences.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-build}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv --without-pip "$scratch/image"
python3 -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install --quiet cyclonedx-bom pip-licenses
"$scratch/tools/bin/pip" install --quiet --upgrade pip
"$scratch/tools/bin/pip" --python "$scratch/image/bin/python" install --quiet --no-deps --require-hashes --requirement requirements/serve.txt
mkdir -p "$out"
"$scratch/tools/bin/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible --of JSON \
  --output-file "$out/sbom.cdx.json" "$scratch/image/bin/python"
"$scratch/tools/bin/pip-licenses" --python="$scratch/image/bin/python" --format=markdown --order=license --with-urls >"$out/licences.md"
python3 - "$out/sbom.cdx.json" "$out/licences.md" <<'PY'
import json, sys
components = json.load(open(sys.argv[1]))["components"]
rows = [line for line in open(sys.argv[2]) if line.startswith("|")][2:]
unknown = [line.split("|")[1].strip() for line in rows if "UNKNOWN" in line.split("|")[3]]
print(f"{len(components)} packages in the SBOM, {len(rows)} licences listed, unknown: {unknown or 'none'}")
PY
