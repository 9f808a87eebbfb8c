#!/bin/sh
# Fresh secrets for docker compose: deploy/make_env.sh > .env
# The two API keys are shown here once; .env holds only their hashes.
set -eu
random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
hash() { printf %s "$1" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -d' ' -f1; }

read_key=pnag_$(random)
admin_key=pnag_$(random)
cat <<END
# Made by deploy/make_env.sh. Who has this file has the passwords: chmod 600, keep it out of version control.
PNAG_API_KEYS=clients:read:$(hash "$read_key"),operator:admin:$(hash "$admin_key")
REDIS_PASSWORD=$(random)
GRAFANA_PASSWORD=$(random)
END
cat >&2 <<END
API key for clients:     $read_key
API key for operators:   $admin_key
Grafana: user admin, the password is in .env
END
