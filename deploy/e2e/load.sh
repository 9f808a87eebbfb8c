#!/usr/bin/env bash
# Load on the real stack, and a soak: make load. Writes docs/load.md. Needs wrk beside what run.sh needs.
#   ROUND_S=15 SOAK_S=600 deploy/e2e/load.sh [FILE]
set -euo pipefail
SELF=$(readlink -f "${BASH_SOURCE[0]}")
export LOAD_OUT=${LOAD_OUT:-$(readlink -f "${1:-$(dirname "$SELF")/../../docs/load.md}")}
. "$(dirname "$SELF")/lib.sh"
command -v wrk >/dev/null || { echo "wrk is not installed: apt-get install wrk" >&2; exit 1; }
enter "$SELF"
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

load() { # seconds, connections, address, mode, seed: wrk's line
  wrk -t 1 -c "$2" -d "$1" --timeout 10s -s "$ROOT/deploy/load/generate.lua" "http://$3" -- "$4" "$KEY" "$5" | tail -n 1
}
seed=0
for round in 1 2 3; do # interleaved, so that a busy minute of the machine spoils one round and not one row
  for where in "1 replica $one:8000" "2 replicas, nginx $gateway"; do
    for mode in hit miss; do
      seed=$((seed + 1))
      [ "$mode" = miss ] || load 2 8 "${where##* }" hit 1 >/dev/null # every budget once
      line=$(load "$ROUND_S" 64 "${where##* }" $mode $seed)
      say "$round: ${where% *}, $mode: $line"
      printf '%s\t%s\t%s\n' "${where% *}" "$mode" "$line" >>"$results"
    done
  done
done

say "soak: $SOAK_S s, four of five budgets asked before, 8 connections"
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
load "$SOAK_S" 8 "$gateway" mix 4711 >"$WORK/soak" &
soak_pid=$!
: >"$WORK/memory"
while kill -0 $soak_pid 2>/dev/null; do memory $(($(date +%s) - began)) >>"$WORK/memory"; sleep 10; done
wait $soak_pid
sleep 3
say "soak: $(cat "$WORK/soak"), open files before $before_fds after $(open_files)"
python3 "$ROOT/deploy/load/report.py" --results "$results" --soak "$WORK/soak" --memory "$WORK/memory" \
  --open-files "$before_fds" "$(open_files)" --round-s "$ROUND_S" >"$LOAD_OUT"
say "written: $(basename "$LOAD_OUT")"
