"""Ask a Prometheus everything a dashboard would, and complain about each panel that would stay empty.

panels.py http://address:9090 dashboard.json --replicas 2
"""

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

RATE_INTERVAL = "1m"
"""Value that Grafana puts for $__rate_interval: four scrape intervals at least."""


class Prometheus:
    """Its HTTP interface, as far as needed."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """`data` of an answer."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """Evaluate an expression now."""
        result = self.ask("query", query=expression.replace("$__rate_interval", RATE_INTERVAL))
        return [float(series["value"][1]) for series in result["result"]]


def problems(prometheus: Prometheus, dashboard: dict[str, Any], replicas: int) -> list[str]:
    """Say in words what is not as it should be."""
    found = []
    targets = [t for t in prometheus.ask("targets")["activeTargets"] if t["labels"]["job"] == "pnag"]
    if [t["health"] for t in targets] != ["up"] * replicas:
        found.append(f"targets: {[(t['scrapeUrl'], t['health'], t['lastError']) for t in targets]}")
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    found += [f"rule {rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    if len(rules) < 20:
        found.append(f"only {len(rules)} rules are loaded")
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            values = prometheus.values(target["expr"])
            if not any(map(math.isfinite, values)):
                found.append(f"panel {panel['title']}: {target['expr']} is {values or 'empty'}")
    return found


def main() -> int:
    """0 if all is well within the time given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("dashboard", type=Path)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--within-s", type=float, default=60)
    options = parser.parse_args()
    prometheus, dashboard = Prometheus(options.url), json.loads(options.dashboard.read_text())
    until = time.monotonic() + options.within_s
    while True:
        found = problems(prometheus, dashboard, options.replicas)
        if not found or time.monotonic() > until:
            break
        time.sleep(2)  # for the next scrape
    for line in found:
        print(line, file=sys.stderr)  # noqa: T201
    num_queries = sum(len(panel.get("targets", ())) for panel in dashboard["panels"])
    print(f"        {num_queries} queries of {len(dashboard['panels'])} panels, {len(found)} problems")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
