"""Stands where Grafana would, which no package registry has. It draws nothing: it checks what it is given, as Grafana
would find it, and says it is well."""

import http.server
import json
import os
import pathlib
import sys

if not os.environ.get("GF_SECURITY_ADMIN_PASSWORD"):
    sys.exit("not-grafana: no admin password")
for name in ("provisioning/datasources/prometheus.yml", "provisioning/dashboards/pnag.yml"):
    pathlib.Path("/etc/grafana", name).read_text()
for path in sorted(pathlib.Path("/etc/grafana/dashboards").glob("*.json")):
    json.loads(path.read_text())
pathlib.Path(os.environ["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).read_text()


class Handler(http.server.BaseHTTPRequestHandler):
    """Well, always."""

    def do_GET(self) -> None:
        """Answer the health check."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"this is not Grafana\n")

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
