#!/usr/bin/env bash
# Load in interleaved rounds, so that a busy minute of the machine spoils one round and not one row. Needs wrk.
#   rounds.sh KEY SECONDS RESULTS "1 replica HOST:PORT" "2 replicas, nginx HOST:PORT"
# Appends lines of "where <tab> mode <tab> JSON" to RESULTS.
set -euo pipefail
key=$1 round_s=$2 results=$3; shift 3
script=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/generate.lua

load() { # seconds, connections, address, mode, seed: wrk's line
  wrk -t 1 -c "$2" -d "$1" --timeout 10s -s "$script" "http://$3" -- "$4" "$key" "$5" | tail -n 1
}
seed=0
for round in 1 2 3; do
  for where in "$@"; do
    for mode in hit miss; do
      seed=$((seed + 1))
      [ "$mode" = miss ] || load 2 8 "${where##* }" hit 1 >/dev/null # every budget once
      line=$(load "$round_s" 64 "${where##* }" $mode $seed)
      printf '%s\t%s\t%s\n' "${where% *}" "$mode" "$line" | tee -a "$results"
    done
  done
done
