#!/usr/bin/env bash
# Stand-ins for the images that compose names, where no container registry can be reached: two root file systems from
# Debian packages, the second a superset of the first. Sourced by lib.sh; expects CACHE, WORK and a running engine.
# Their names say what they are: standin/..., never the tag of somebody else's image.

# Kept between runs and outside the repository: making them takes two minutes, importing them seconds.
make_rootfs() {
  local slim=$CACHE/standin-python.tar full=$CACHE/standin-servers.tar recipe=$CACHE/recipe
  local wanted; wanted=$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1)
  if [ -s "$slim" ] && [ -s "$full" ] && [ "$(cat "$recipe" 2>/dev/null)" = "$wanted" ]; then return; fi
  mkdir -p "$CACHE"
  rm -f "$recipe"
  local sources=()
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
    if grep -qs '^\(deb\|Types\)' "$file"; then sources=("$file"); break; fi
  done
  # The list of hosts stays out of the images. pip must trust what this machine trusts: the build has its network.
  # Merged /usr as the official images have it: by default it comes with a package that needs 50 MB of perl.
  # shellcheck disable=SC2016  # $1 is the hook's own
  mmdebstrap --quiet --format=tar --variant=minbase --include=ca-certificates,python3.11,python3-pip,python3-venv \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='ln -sf python3.11 "$1/usr/bin/python"; rm -f "$1/usr/lib/python3.11/EXTERNALLY-MANAGED"' \
    --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs' \
    --customize-hook="tar -C \"\$1\" --one-file-system --exclude=./var/lib/apt/lists/* --exclude=./var/cache/apt/* \
      --exclude=./etc/apt/sources.list* --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -cf '$slim.part' ." \
    --customize-hook='chroot "$1" apt-get install -y -qq --no-install-recommends redis-server prometheus nginx-light wget' \
    --customize-hook='rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*; mkdir -p "$1/prometheus"; chmod 1777 "$1/prometheus"' \
    bookworm "$full.part" "${sources[@]}" >"$WORK/mmdebstrap.log" 2>&1 || { tail -n 30 "$WORK/mmdebstrap.log" >&2; return 1; }
  mv "$slim.part" "$slim"
  mv "$full.part" "$full"
  echo "$wanted" >"$recipe"
}

# Imports the root file systems, builds the servers' images on them, and tells compose to use them.
make_standins() {
  make_rootfs
  local paths=(-c 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' -c 'ENV LANG=C.UTF-8')
  local pip=(-c 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' -c 'ENV PIP_DEFAULT_TIMEOUT=180')
  local recipe; recipe=$(cat "$CACHE/recipe")
  # An engine whose layers were kept (PNAG_E2E_DATA) has them already; imported again they would be new to its cache.
  if [ "$(docker image inspect -f '{{index .Config.Labels "recipe"}}' standin/debian-servers 2>/dev/null)" != "$recipe" ]; then
    docker import "${paths[@]}" "${pip[@]}" -c 'CMD ["python3"]' "$CACHE/standin-python.tar" standin/debian-python3.11 >/dev/null
    docker import "${paths[@]}" -c "LABEL recipe=$recipe" "$CACHE/standin-servers.tar" standin/debian-servers >/dev/null
  fi
  local folder=$WORK/standins
  mkdir -p "$folder"
  cp "$ROOT/deploy/e2e/not_grafana.py" "$folder/"
  _standin redis 'USER redis' 'WORKDIR /data' 'CMD ["redis-server"]'
  _standin prometheus 'USER nobody' 'ENTRYPOINT ["/usr/bin/prometheus"]' \
    'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
  _standin nginx 'CMD ["nginx", "-g", "daemon off;"]'
  _standin not-grafana 'COPY not_grafana.py /' 'USER nobody' 'ENTRYPOINT ["python3", "/not_grafana.py"]'
  export BASE=standin/debian-python3.11 REDIS_IMAGE=standin/redis PROMETHEUS_IMAGE=standin/prometheus
  export NGINX_IMAGE=standin/nginx GRAFANA_IMAGE=standin/not-grafana
}

_standin() { # name, then the lines of its Dockerfile
  local name=$1; shift
  { echo 'FROM standin/debian-servers'; printf '%s\n' "$@"; } >"$WORK/standins/$name.Dockerfile"
  docker build -q -t "standin/$name" -f "$WORK/standins/$name.Dockerfile" "$WORK/standins" >"$WORK/$name.log" 2>&1 ||
    { cat "$WORK/$name.log" >&2; return 1; }
}
