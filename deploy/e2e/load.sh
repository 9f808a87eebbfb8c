#!/usr/bin/env bash
# Load on the real stack, and a soak: make load. Writes docs/load.md. Needs wrk beside what run.sh needs.
#   ROUND_S=15 SOAK_S=600 AROUND=COMMAND deploy/e2e/load.sh [FILE]
# AROUND goes in front of the rounds (not of the soak): a command of yours that keeps the machine quiet while it runs.
set -euo pipefail
SELF=$(readlink -f "${BASH_SOURCE[0]}")
export LOAD_OUT=${LOAD_OUT:-$(readlink -f "${1:-$(dirname "$SELF")/../../docs/load.md}")}
. "$(dirname "$SELF")/lib.sh"
command -v wrk >/dev/null || { echo "wrk is not installed: apt-get install wrk" >&2; exit 1; }
enter "$SELF" build
ROUND_S=${ROUND_S:-15} SOAK_S=${SOAK_S:-600}
cd "$SITE"
trap 'docker compose --profile "*" down --volumes --timeout 5 >/dev/null 2>&1 || true; [ -z "${PNAG_E2E_OWN_ENGINE:-}" ] || stop_engine' EXIT
export PNAG_LOG_REQUESTS_PER_S=0

follow deploy.md secrets
export COMPOSE_PROFILES=scale
docker compose up --detach --wait
one=$(address_of pnag)
gateway=127.0.0.1:8080
results=$WORK/results
: >"$results"

say "rounds of $ROUND_S s"
${AROUND:-} "$ROOT/deploy/load/rounds.sh" "$KEY" "$ROUND_S" "$results" "1 replica $one:8000" "2 replicas, nginx $gateway"

say "soak: $SOAK_S s at a modest rate, four of five budgets asked before"
memory() { # resident memory of a service's containers in MB, without what the kernel caches of files
  docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' | awk -v at="$1" '
    { unit = $2; sub(/[0-9.]+/, "", unit); size = $2 + 0
      if (unit == "GiB") size *= 1024; if (unit == "KiB") size /= 1024
      name = $1; sub(/^pnag-/, "", name); sub(/-1$/, "", name); printf "%d\t%s\t%.1f\n", at, name, size }'
}
open_files() { local pid; for s in pnag pnag-2; do
  pid=$(docker inspect -f '{{.State.Pid}}' "$(docker compose ps -q $s)"); echo -n "$(ls "/proc/$pid/fd" 2>/dev/null | wc -l) "; done; }
before_fds=$(open_files)
began=$(date +%s)
traffic "http://$gateway" --key "$KEY" --seconds "$SOAK_S" --workers 4 --pause-s .03 --fresh-every 5 --seed 4711 >"$WORK/soak" &
soak_pid=$!
: >"$WORK/memory"
while kill -0 $soak_pid 2>/dev/null; do memory $(($(date +%s) - began)) >>"$WORK/memory"; sleep 10; done
wait $soak_pid
sleep 3
say "soak: $(cut -c1-300 "$WORK/soak"), open files before $before_fds after $(open_files)"
python3 "$ROOT/deploy/load/report.py" --results "$results" --soak "$WORK/soak" --memory "$WORK/memory" \
  --open-files "$before_fds" "$(open_files)" --round-s "$ROUND_S" >"$LOAD_OUT"
say "written: $(basename "$LOAD_OUT")"
