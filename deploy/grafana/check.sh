#!/usr/bin/env bash
# Is the dashboard what Grafana's own schema says? Needs npm; takes seconds. Not in CI, which has no other use for npm.
# Every panel's options and custom fields are checked against its own kind as well; the schema's Panel takes anything there.
set -euo pipefail
dashboard=$(readlink -f "${1:-$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/dashboards/pnag.json}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
echo '{"private": true}' >package.json
npm install --silent --no-audit --no-fund --ignore-scripts @grafana/schema@11.6.0 typescript@5.8.3
python3 - "$dashboard" >dashboard.ts <<'PY'
import json
import sys

dashboard = json.load(open(sys.argv[1]))
for annotation in dashboard["annotations"]["list"]:  # these are the data source's own, which the schema leaves open
    for own in ("expr", "titleFormat"):
        annotation.pop(own, None)
raw = "./node_modules/@grafana/schema/dist/esm/raw"
modules = {"heatmap": "Heatmap", "stat": "Stat", "table": "Table", "timeseries": "TimeSeries"}
print(f'import type {{ Dashboard }} from "{raw}/dashboard/x/dashboard_types.gen";')
for kind, name in modules.items():
    print(f'import type * as {kind} from "{raw}/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen";')
# JSON has strings where TypeScript has enums; an option that is left out has its default.
print("type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : "
      "T extends object ? { [K in keyof T]?: Json<T[K]> } : T;")
print("export const dashboard: Json<Dashboard> =", json.dumps(dashboard), ";")
for number, panel in enumerate(dashboard["panels"]):
    if panel["type"] == "row":
        continue
    kind = panel["type"]
    print(f"export const options{number}: Json<{kind}.Options> =", json.dumps(panel.get("options", {})), ";")
    custom = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
    if custom:
        print(f"export const custom{number}: Json<{kind}.FieldConfig> =", json.dumps(custom), ";")
PY
node_modules/.bin/tsc --noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler --target es2022 dashboard.ts
echo "$(basename "$dashboard"): $(grep -c '^export' dashboard.ts) objects agree with @grafana/schema 11.6.0"
