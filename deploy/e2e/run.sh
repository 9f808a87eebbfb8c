#!/usr/bin/env bash
# The whole stack, from nothing: make e2e. Exit code 77 if no container engine can be started here.
#   run.sh --prepare     only what takes long and is kept: packages, root file systems. CI does it beside its tests.
# It follows docs/deploy.md and docs/runbook.md block by block, and breaks things in between.
set -euo pipefail
SELF=$(readlink -f "${BASH_SOURCE[0]}")
. "$(dirname "$SELF")/lib.sh"
if [ "${1:-}" = --prepare ]; then prepare; exit; fi
enter "$SELF" build

NAME=ofa-mobilenetv3-w1.0-imagenet
GATEWAY=http://127.0.0.1:8080
# A new bundle within seconds, and a queue that can be filled from here.
export PNAG_WATCH_INTERVAL_S=1 PNAG_MAX_WAITING=32 PNAG_LOG_LEVEL=info
cd "$SITE"

on_exit() {
  local status=$?
  touch "$WORK/stop"
  if [ $status != 0 ]; then
    docker compose ps --all || true
    docker compose logs --no-log-prefix --tail 15 pnag pnag-2 gateway redis 2>&1 | cut -c1-300 || true
  fi
  docker compose --profile '*' down --volumes --timeout 5 >/dev/null 2>&1 || true
  if [ -n "${PNAG_E2E_OWN_ENGINE:-}" ]; then stop_engine; fi
  echo "$passed passed, $((status != 0)) failed"
}
trap on_exit EXIT

# traffic in the background, its report when it ends
begin_traffic() { rm -f "$WORK/stop"; traffic "$GATEWAY" --key "$KEY" --until "$WORK/stop" --seconds 120 "$@" >"$WORK/traffic.json" & traffic_pid=$!; sleep 1; }
end_traffic() { touch "$WORK/stop"; wait "$traffic_pid"; sed 's/^/        /' "$WORK/traffic.json"; }
reported() { python3 -c 'import json, sys; report = json.load(open(sys.argv[1])); print(eval(sys.argv[2], {}, report))' "$WORK/traffic.json" "$1"; }
expect() { # what was traffic's report to be, in Python
  [ "$(reported "$1")" = True ] || fail "traffic: expected $1"
}
ask() { # address, budget: headers and body
  curl -fsS -m 5 -i "http://$1:8000/generate" -H "authorization: Bearer $KEY" -H 'content-type: application/json' -d "{\"budget_ms\": $2}"
}
cache_of() { ask "$@" | tr -d '\r' | awk 'tolower($1) == "x-cache:" { print $2 }'; }
version_of() { ask "$@" | tail -n 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["bundle"]["version"])'; }
find_replicas() { one=$(address_of pnag) two=$(address_of pnag-2); }

# ---- what must be refused --------------------------------------------------------------------------------------------

say "Refusals"
if output=$(docker compose up --detach 2>&1); then fail "compose started without secrets"; fi
grep -q 'make_env.sh' <<<"$output" || fail "the message does not say what to do: $output"
ok "without secrets compose stops, and says how to make them"
if output=$(docker run --rm --network none "$IMAGE" 2>&1); then fail "an open service started"; fi
grep -q 'PNAG_API_KEYS' <<<"$output" || fail "$output"
ok "without keys the image refuses to be open to everybody"
if output=$(docker run --rm --network none -e PNAG_ALLOW_ANONYMOUS=true -e PNAG_BUNDLES=/bundles "$IMAGE" 2>&1); then fail "it started without a bundle"; fi
grep -q 'no bundle in' <<<"$output" || fail "$output"
ok "with nothing but an empty bundle volume it does not start, and says so"

# ---- docs/deploy.md: up ----------------------------------------------------------------------------------------------

say "docs/deploy.md"
follow deploy.md secrets
follow deploy.md up
ok "docker compose up: all healthy"
follow deploy.md ask >"$WORK/out"; cut -c1-400 "$WORK/out"
ok "a budget is answered on the service's port"
[ "$(curl -s -o /dev/null -w '%{http_code}' -m 5 http://127.0.0.1:8000/bundles)" = 401 ] || fail "no key was needed"
ok "without a key it is 401"
! curl -s -m 2 http://127.0.0.1:9000/metrics >/dev/null || fail "the metrics are published"
[ "$(curl -s -o /dev/null -w '%{http_code}' -m 5 http://127.0.0.1:8000/metrics)" = 404 ] || fail "the metrics are on the public port"
ok "metrics are on the inner network only"
follow deploy.md scale >"$WORK/out"; cut -c1-200 "$WORK/out"
ok "two replicas behind nginx: all healthy"
find_replicas

# ---- the image -------------------------------------------------------------------------------------------------------

size() { docker image inspect -f '{{.Size}}' "$1" | awk '{ printf "%d", $1 / 1e6 }'; }
if [ -n "${BASE:-}" ]; then base_mb=$(size "$BASE"); else base_mb=0; fi
total_mb=$(size "$IMAGE")
[ "$(docker image inspect -f '{{.Config.User}}' "$IMAGE")" = 10001:10001 ] || fail "the image runs as root"
if docker compose exec -T pnag sh -c 'touch /app/x' 2>/dev/null; then fail "the root file system can be written"; fi
docker compose exec -T pnag python - <<'PY' || fail "what should not be in the image is"
import importlib.util, shutil
assert not any(map(importlib.util.find_spec, ("torch", "pip", "pnag.trainer", "pnag.bench", "onnx", "pandas"))), "a module too many"
assert not any(map(shutil.which, ("gcc", "cc", "make", "git"))), "a compiler"
PY
ok "image: $total_mb MB ($((total_mb - base_mb)) MB of it ours), uid 10001, read-only, no torch, no pip, no compiler"
[ "$total_mb" -lt 350 ] || fail "the image has grown too large"

# ---- one cache for both ----------------------------------------------------------------------------------------------

say "Cache"
[ "$(cache_of "$one" 20.125)" = miss ] || fail "the first answer was no miss"
sleep .5
[ "$(cache_of "$two" 20.125)" = redis ] || fail "the other replica did not find the answer in Redis"
[ "$(cache_of "$two" 20.125)" = memory ] || fail "it did not remember it"
ok "what one replica answered, the other finds in Redis"
[ "$(ask "$one" 21.5 | tail -n 1)" = "$(ask "$two" 21.5 | tail -n 1)" ] || fail "two replicas, two answers"
ok "both give the same answer, byte for byte"

# ---- failures under load ---------------------------------------------------------------------------------------------

say "A replica is killed under load"
begin_traffic --connections 3
sleep 2
pid=$(docker inspect -f '{{.State.Pid}}' "$(docker compose ps -q pnag-2)")
if [ -n "${PNAG_E2E_OWN_ENGINE:-}" ]; then kill -9 "$pid"; else docker compose kill pnag-2; sleep 1; docker compose start pnag-2; fi
wait_for 40 "the replica did not come back by itself" is_ready "$two"
sleep 2
end_traffic
expect 'failed == 0 and answered > 100'
ok "killed and back by itself: $(reported answered) requests, 0 failed"

say "Replicas are replaced under load"
begin_traffic --connections 3
sleep 1
follow deploy.md rolling
sleep 1
end_traffic
expect 'failed == 0 and answered > 100'
find_replicas
ok "both replaced, one after the other: $(reported answered) requests, 0 failed"

redis() { docker compose exec -T redis redis-cli "$@"; }
all_use_redis() { [ "$(metric "$one" pnag_redis_up)" = 1 ] && [ "$(metric "$two" pnag_redis_up)" = 1 ]; }
none_uses_redis() { [ "$(metric "$one" pnag_redis_up)" = 0 ] || [ "$(metric "$two" pnag_redis_up)" = 0 ]; }
wait_for 15 "Redis is not in use" all_use_redis

say "Redis fails in five ways"
seed=0
fails_with() { # how, command that breaks it, command that mends it
  local attempt
  for attempt in 1 2 3; do # a request may fail in none; a slow one may be the host's doing, but not in each of them
    seed=$((seed + 1))
    begin_traffic --connections 2 --pause-s .02 --seed $seed
    sleep .5
    eval "$2" >/dev/null
    sleep 3
    eval "$3" >/dev/null
    wait_for 20 "Redis is not used again after: $1" all_use_redis
    end_traffic
    expect 'failed == 0'
    if [ "$(reported 'max_ms < 300')" = True ]; then break; fi
    say "the slowest took $(reported max_ms) ms, load $(cut -d' ' -f1 /proc/loadavg): once more"
  done
  expect 'max_ms < 300'
  ok "Redis $1: $(reported answered) answers, 0 failed, p99 $(reported p99_ms) ms, slowest $(reported max_ms) ms (run $attempt)"
}
fails_with "stopped" "docker compose stop --timeout 1 redis" "docker compose start redis"
fails_with "paused" "docker compose pause redis" "docker compose unpause redis"
fails_with "full" "redis config set maxmemory 1 && redis config set maxmemory-policy noeviction" \
  "redis config set maxmemory-policy allkeys-lru && redis config set maxmemory 128mb"
password=$(sed -n 's/^REDIS_PASSWORD=//p' .env)
fails_with "with another password" "redis config set requirepass other && docker compose exec -T -e REDISCLI_AUTH=other redis redis-cli client kill type normal skipme yes" \
  "docker compose exec -T -e REDISCLI_AUTH=other redis redis-cli config set requirepass $password"
fails_with "emptied and restarted" "redis flushall" "follow runbook.md redis-restart"

say "The disk is full"
docker compose exec -T pnag sh -c 'head -c 100000000 /dev/zero > /tmp/full 2>/dev/null; ! touch /tmp/more 2>/dev/null || echo x > /tmp/more' 2>/dev/null || true
ask "$one" 20.777 >/dev/null
docker compose exec -T pnag rm -f /tmp/full /tmp/more
ok "with /tmp full it answers"

# ---- bundles ---------------------------------------------------------------------------------------------------------

say "A new bundle under load"
mkdir -p mine
cp -r "bundles/$NAME/." mine
python3 - mine/manifest.json <<'PY'
import json, sys
manifest = json.load(open(sys.argv[1]))
manifest |= {"version": "2", "created_at": "2100-01-01T00:00:00+00:00"}
json.dump(manifest, open(sys.argv[1], "w"))
PY
chmod -R a+rX mine
begin_traffic --connections 3 --seed 7
sleep 1
follow deploy.md new-bundle
serves() { [ "$(version_of "$one" "$1")" = "$2" ] && [ "$(version_of "$two" "$1")" = "$2" ]; }
wait_for 30 "the new bundle is not served" serves 20.5 2
sleep 1
end_traffic
expect 'failed == 0 and set(versions) == {"1", "2"}'
ok "rolled out: $(reported answered) requests, 0 failed, versions seen $(reported versions)"
if docker compose run --rm --volume ./mine:/new:ro install-bundle >/dev/null 2>&1; then fail "a bundle was replaced in place"; fi
ok "the same version again is refused"
rm -rf broken && cp -r mine broken && head -c 1000 mine/generator.onnx >broken/generator.onnx
if docker compose run --rm --volume ./broken:/new:ro install-bundle >/dev/null 2>&1; then fail "a broken bundle was installed"; fi
ok "a broken bundle is not installed"

say "A bundle is half copied"
tool() { docker compose run --rm -T --entrypoint sh install-bundle -c "$1"; }
tool 'mkdir /bundles/half && cp /bundles/*@2/manifest.json /bundles/half/' >/dev/null
refused() { [ "$(metric "$one" pnag_bundles_refused)" = 1 ] && [ "$(metric "$two" pnag_bundles_refused)" = 1 ]; }
wait_for 15 "the half bundle is not refused" refused
[ "$(version_of "$one" 20.6)" = 2 ] || fail "what was served is not served any more"
is_ready "$one" >/dev/null
follow runbook.md refused >"$WORK/out"; cut -c1-300 "$WORK/out"
tool 'rm -r /bundles/half' >/dev/null
not_refused() { ! refused; }
wait_for 15 "it is refused although it is gone" not_refused
ok "refused, told by metric and log; what was served still is, and /readyz says yes"

say "Replicas with different bundles"
cat >older.yml <<'X'
services:
  pnag-2:
    environment: {PNAG_BUNDLES: /app/bundles}
X
docker compose -f docker-compose.yml -f older.yml up --detach --wait --no-deps pnag-2
find_replicas
sleep 1
versions="$(version_of "$one" 22.25) $(version_of "$two" 22.25) $(version_of "$one" 22.25)"
[ "$versions" = "2 1 2" ] || fail "answers mixed: $versions"
docker compose up --detach --wait --no-deps pnag-2
find_replicas
ok "each answers by its own bundle, whatever the other put into Redis"
follow deploy.md remove-bundle
wait_for 15 "the old bundle is not served again" serves 20.5 1
ok "taken away again: version 1 answers"

# ---- overload --------------------------------------------------------------------------------------------------------

say "Overload"
rm -f "$WORK/stop"
traffic "$GATEWAY" --key "$KEY" --seconds 5 --connections 400 --allow 503 --allow 429 --seed 11 >"$WORK/traffic.json"
sed 's/^/        /' "$WORK/traffic.json"
expect 'failed == 0 and statuses.get("503", 0) > 0 and statuses.get("200", 0) > 0 and without_retry_after == 0'
traffic "$GATEWAY" --key "$KEY" --seconds 2 --connections 2 --seed 12 >"$WORK/traffic.json"
expect 'failed == 0 and set(statuses) == {"200"}'
ok "told to come back later, with Retry-After; afterwards every request is answered (p99 $(reported p99_ms) ms)"

# ---- what operators see ----------------------------------------------------------------------------------------------

say "Prometheus and the dashboard"
post() { curl -fsS -m 5 "$GATEWAY$1" -H "authorization: Bearer $KEY" -H 'content-type: application/json' -d "$2"; }
field() { python3 -c 'import json, sys; print(eval(sys.argv[1], {}, json.load(sys.stdin)))' "$1"; }
id=$(post /generate '{"budget_ms": 20}' | field 'architecture["id"]')
for latency_ms in 12.5 17.25 29; do post /feedback "{\"id\": \"$id\", \"device\": \"e2e\", \"latency_ms\": $latency_ms}" >/dev/null; done
traffic "$GATEWAY" --key "$KEY" --seconds 25 --connections 2 --pause-s .01 --fresh-every 0 >/dev/null &
traffic_pid=$!
follow runbook.md feedback >"$WORK/feedback.json"
[ "$(field 'num_reports' <"$WORK/feedback.json")" = 3 ] || fail "$(cat "$WORK/feedback.json")"
ok "reports from the field are counted by both replicas together"
panels() { python3 "$ROOT/deploy/e2e/panels.py" "http://$(address_of prometheus):9090" "$ROOT/deploy/grafana/dashboards/pnag.json" --replicas 2; }
# Rates need two scrapes of every series, and the reports came just now: some more, a scrape later.
sleep 11
for latency_ms in 13 18 30; do post /feedback "{\"id\": \"$id\", \"device\": \"e2e\", \"latency_ms\": $latency_ms}" >/dev/null; done
panels
wait "$traffic_pid"
ok "both replicas are scraped, every rule is loaded and healthy, every panel has finite values"

say "docs/runbook.md"
for block in first-look start-again failures redis; do follow runbook.md "$block" >"$WORK/out"; cut -c1-200 "$WORK/out"; done
follow runbook.md reload
ok "every command of the runbook works"
follow deploy.md look

# ---- figures ---------------------------------------------------------------------------------------------------------

say "Figures"
docker compose restart --timeout 5 pnag-2
started=$(date -d "$(docker inspect -f '{{.State.StartedAt}}' "$(docker compose ps -q pnag-2)")" +%s.%N)
for _ in $(seq 500); do if is_ready "$two" >/dev/null 2>&1; then break; fi; sleep .02; done
python3 -c 'import sys, time; print(f"  start: {time.time() - float(sys.argv[1]):.1f} s from the start of the container to ready")' "$started"
echo "  image: $total_mb MB, $((total_mb - base_mb)) MB on top of ${BASE:-its base} ($base_mb MB)"
docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' | sort >"$WORK/memory"
sed 's/^/  memory: /' "$WORK/memory"
python3 - "$WORK/memory" <<'PY'
import re, sys
units = {"B": 1e-6, "KiB": 1.024e-3, "MiB": 1.048576, "GiB": 1073.741824}
sizes = [re.search(r" ([\d.]+)(\w+) / ", line) for line in open(sys.argv[1])]
print(f"  memory: {sum(float(size[1]) * units[size[2]] for size in sizes):.0f} MB for the whole stack")
PY

say "SIGTERM"
docker compose stop pnag
code=$(docker inspect -f '{{.State.ExitCode}}' "$(docker compose ps --all -q pnag)")
[ "$code" = 0 ] || fail "on SIGTERM it exits $code"
ok "on SIGTERM it drains and exits 0"
follow deploy.md down
[ -z "$(docker compose --profile '*' ps --all -q)" ] || fail "something is left"
ok "docker compose down leaves nothing"
check_all_followed
ok "every marked block of docs/deploy.md and docs/runbook.md was run"
say "done"
