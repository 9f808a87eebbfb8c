"""The chart, by real helm: it renders for every combination that matters, and Kubernetes would take the result."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "deploy/helm/pnag"
KUBERNETES = ("1.27", "1.36")
"""The oldest that the chart allows, and a recent one."""
KEY = f"clients:read:{'0' * 64}"

Run = Callable[..., str]

COMBINATIONS = {
    "anonymous": ["apiKeys.anonymous=true"],
    "keys in a secret": ["apiKeys.existingSecret=keys"],
    "keys in values": [f"apiKeys.lines[0]={KEY}"],
    "no redis": ["apiKeys.anonymous=true", "redis.mode=none"],
    "external redis": ["apiKeys.anonymous=true", "redis.mode=external", "redis.external.existingSecret=redis"],
    "redis with a secret": ["apiKeys.anonymous=true", "redis.bundled.existingSecret=redis"],
    "bundles in a claim": ["apiKeys.anonymous=true", "bundles.source=claim", "bundles.claim.existingClaim=b"],
    "bundles in an image": ["apiKeys.anonymous=true", "bundles.source=init", "bundles.init.image=mine:1"],
    "cpu scaling": ["apiKeys.anonymous=true", "autoscaling.enabled=true"],
    "queue scaling": ["apiKeys.anonymous=true", "autoscaling.enabled=true", "autoscaling.queue.enabled=true"],
    "closed": [
        "apiKeys.existingSecret=keys",
        "networkPolicy.enabled=true",
        "networkPolicy.from[0].podSelector.matchLabels.app=front",
    ],
    "closed, external redis": [
        "apiKeys.existingSecret=keys",
        "networkPolicy.enabled=true",
        "redis.mode=external",
        "redis.external.existingSecret=redis",
    ],
    "ingress with tls": [
        "apiKeys.existingSecret=keys",
        "ingress.enabled=true",
        "ingress.className=nginx",
        "ingress.tlsSecret=cert",
        "ingress.host=pnag.example.com",
    ],
    "everything": [
        "apiKeys.existingSecret=keys",
        "autoscaling.enabled=true",
        "autoscaling.queue.enabled=true",
        "bundles.source=claim",
        "bundles.claim.existingClaim=b",
        "image.digest=sha256:" + "a" * 64,
        "ingress.enabled=true",
        "metrics.dashboard.enabled=true",
        "metrics.prometheusRule.enabled=true",
        "metrics.prometheusRule.runbookBase=https://example.com/",
        "metrics.serviceMonitor.enabled=true",
        "networkPolicy.enabled=true",
        "imagePullSecrets[0].name=pull",
        "tolerations[0].operator=Exists",
        "nodeSelector.disk=ssd",
        "settings.PNAG_NUM_CANDIDATES=64",
    ],
    "nothing extra": ["apiKeys.anonymous=true", "redis.mode=none", "podDisruptionBudget.enabled=false"],
}


def _flags(values: list[str]) -> list[str]:
    # PNAG_ settings are text, and --set would make a number of 64.
    return [word for value in values for word in ("--set-string" if value.startswith("settings") else "--set", value)]


@pytest.fixture(scope="module")
def rendered(tools: Path) -> dict[str, str]:
    """Every combination, as YAML."""
    done = {}
    for name, values in COMBINATIONS.items():
        command: list[Path | str] = [tools / "helm", "template", "test", CHART, *_flags(values)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, f"{name}: {result.stderr}"
        done[name] = result.stdout
    return done


def _objects(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(text) if o}


def test_helm_lint_finds_nothing(run: Run) -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", CHART, *_flags(COMBINATIONS["everything"]))


def test_the_chart_packages_with_its_rules_and_dashboard(run: Run, tmp_path: Path) -> None:
    run("helm", "package", CHART, "--destination", tmp_path)
    (archive,) = tmp_path.glob("*.tgz")
    text = run("helm", "template", "test", archive, *_flags(COMBINATIONS["everything"]))
    assert "PnagDown" in text
    assert '"uid": "pnag"' in text


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_would_take_every_combination(
    version: str, rendered: dict[str, str], run: Run, tmp_path: Path
) -> None:
    files = []
    for name, text in rendered.items():
        # The operator's kinds have no schema there.
        documents = [o for o in yaml.safe_load_all(text) if o and not o["apiVersion"].startswith("monitoring.coreos")]
        files.append(tmp_path / f"{name.replace(' ', '-')}.yaml")
        files[-1].write_text(yaml.safe_dump_all(documents))
    output = run("kubernetes-validate", "--strict", "--kubernetes-version", version, *files)
    assert "WARN" not in output


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "nobody could ask"),
        (["apiKeys.anonymous=true", f"apiKeys.lines[0]={KEY}"], "choose one"),
        (["apiKeys.lines[0]=nonsense"], "apiKeys/lines/0"),
        (["apiKeys.anonymous=true", "bundles.source=claim"], "existingClaim"),
        (["apiKeys.anonymous=true", "bundles.source=init"], "bundles.init.image"),
        (["apiKeys.anonymous=true", "redis.mode=external"], "redis.external.existingSecret"),
        (["apiKeys.anonymous=true", "redis.mode=cluster"], "redis/mode"),
        (["apiKeys.anonymous=true", "replica=3"], "replica"),
        (["apiKeys.anonymous=true", "settings.PNAG_PORT=1"], "PNAG_PORT"),
        (["apiKeys.anonymous=true", "settings.OTHER=1"], "OTHER"),
        (["apiKeys.anonymous=true", "autoscaling.enabled=true", "autoscaling.maxReplicas=1"], "below"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_reason(values: list[str], message: str, run: Run) -> None:
    assert message in run("helm", "template", "test", CHART, *_flags(values), expect=1)


def test_no_container_may_do_more_than_it_needs(rendered: dict[str, str]) -> None:
    for text in rendered.values():
        for (kind, _), thing in _objects(text).items():
            if kind != "Deployment":
                continue
            pod = thing["spec"]["template"]["spec"]
            assert pod["automountServiceAccountToken"] is False
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                security = container["securityContext"]
                assert security["readOnlyRootFilesystem"]
                assert security["runAsNonRoot"]
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert "memory" in container["resources"]["limits"]


def test_a_pod_that_goes_away_has_time_to_drain(rendered: dict[str, str]) -> None:
    pod = _objects(rendered["anonymous"])["Deployment", "test-pnag"]["spec"]["template"]["spec"]
    env = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    needed = 5 + float(env["PNAG_DRAIN_S"]) + float(env["PNAG_GRACE_S"])
    assert pod["terminationGracePeriodSeconds"] > needed


def test_the_autoscaler_owns_the_number_of_replicas(rendered: dict[str, str]) -> None:
    deployment = ("Deployment", "test-pnag")
    assert "replicas" not in _objects(rendered["cpu scaling"])[deployment]["spec"]
    assert _objects(rendered["anonymous"])[deployment]["spec"]["replicas"] == 2


def test_rules_in_the_cluster_are_those_of_compose_with_the_runbook_where_it_is(rendered: dict[str, str]) -> None:
    rule = _objects(rendered["everything"])["PrometheusRule", "test-pnag"]
    text = (CHART.parents[1] / "prometheus/rules.yml").read_text().replace("docs/", "https://example.com/docs/")
    assert rule["spec"] == yaml.safe_load(text)


def test_settings_reach_the_container_as_text(rendered: dict[str, str]) -> None:
    pod = _objects(rendered["everything"])["Deployment", "test-pnag"]["spec"]["template"]["spec"]
    assert {"name": "PNAG_NUM_CANDIDATES", "value": "64"} in pod["containers"][0]["env"]
