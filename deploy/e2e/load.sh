#!/usr/bin/env bash
# Load on the real stack, and a soak: make load. Needs wrk beside what run.sh needs. Writes serve.json and soak.json into
# FOLDER (runs/bench/serve/stack), from where `pnag bench serving-page` puts them on docs/benchmarks-serving.md.
#   ROUND_S=15 SOAK_S=600 AROUND=COMMAND deploy/e2e/load.sh [FOLDER]
# AROUND goes in front of the rounds (not of the soak): a command of yours that keeps the machine quiet while it runs.
set -euo pipefail
SELF=$(readlink -f "${BASH_SOURCE[0]}")
. "$(dirname "$SELF")/lib.sh"
export LOAD_OUT=${LOAD_OUT:-$(readlink -m "${1:-$ROOT/runs/bench/serve/stack}")}
command -v wrk >/dev/null || { echo "wrk is not installed: apt-get install wrk" >&2; exit 1; }
enter "$SELF" build
cd "$SITE"
trap 'docker compose --profile "*" down --volumes --timeout 5 >/dev/null 2>&1 || true; [ -z "${PNAG_E2E_OWN_ENGINE:-}" ] || stop_engine' EXIT
export PNAG_LOG_REQUESTS_PER_S=0

follow deploy.md secrets
export COMPOSE_PROFILES=scale
docker compose up --detach --wait
bundle=$SITE/bundles/ofa-mobilenetv3-w1.0-imagenet
gateway=http://127.0.0.1:8080

say "rounds of ${ROUND_S:-15} s"
# shellcheck disable=SC2086  # AROUND is a command with its arguments
${AROUND:-} "${PYTHON%/*}/pnag" bench serve --bundle "$bundle" --out "$LOAD_OUT" --rounds 3 --seconds "${ROUND_S:-15}" --key "$KEY" \
  --url "1 replica=http://$(address_of pnag):8000" --url "2 replicas, nginx=$gateway"

say "soak: ${SOAK_S:-600} s at a modest rate"
pids=()
for service in pnag pnag-2; do
  pids+=(--pid "$(docker inspect -f '{{.State.Pid}}' "$(docker compose ps -q $service)")")
done
bench soak --bundle "$bundle" --out "$LOAD_OUT" --minutes "$(awk -v s="${SOAK_S:-600}" 'BEGIN { print s / 60 }')" \
  --url "$gateway" --key "$KEY" "${pids[@]}"
say "written: $LOAD_OUT"
