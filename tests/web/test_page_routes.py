"""GET /, the files of the page, and GET /bundles/{name}/known; over the wire, without a browser."""

import re
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pnag.models.bundle.bundle import Bundle
from pnag.service.routes.page import INDEX, MEDIA_TYPES, WEB, site

Service = Any
"""Of conftest.py, which cannot be imported by name."""


class Response(NamedTuple):
    status: int
    headers: Message
    body: bytes


def get(service: Service, path: str, **headers: str) -> Response:
    request = urllib.request.Request(service.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return Response(response.status, response.headers, response.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return Response(exc.code, exc.headers, exc.read())


def links(service: Service) -> list[str]:
    return re.findall(r'(?:href|src)="(/web/[^"]+)"', get(service, "/").body.decode())


def test_every_file_the_index_names_is_there_and_may_be_kept_for_good(service: Service) -> None:
    named = links(service)
    assert len(named) >= 5
    for path in named:
        response = get(service, path)
        assert response.status == 200, path
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert response.headers["content-type"] == MEDIA_TYPES[Path(path).suffix]


def test_a_changed_page_is_noticed_and_an_unchanged_one_not_sent_again(service: Service) -> None:
    response = get(service, "/")
    assert response.headers["cache-control"] == "no-cache"
    again = get(service, "/", if_none_match=response.headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_the_address_of_another_version_gets_this_one_but_not_to_keep(service: Service) -> None:
    response = get(service, "/web/0123456789abcdef/app.js")
    assert response.status == 200
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name", ["nothing.js", "index.html", "docs.html", "vendor/README.md", "../app.py", "%2e%2e/app.py", ""]
)
def test_what_is_no_file_of_the_page_is_not_found(service: Service, name: str) -> None:
    response = get(service, f"/web/{site().digest}/{name}")
    assert response.status == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/favicon.ico"])
def test_scripts_and_styles_come_from_this_service_alone(service: Service, path: str) -> None:
    policy = get(service, path).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_docs_run_scripts_of_this_service_alone(service: Service) -> None:
    response = get(service, "/docs")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';")
    assert "http" not in policy
    assert f"/web/{site().digest}/vendor/rapidoc/rapidoc-min.js".encode() in response.body


def test_the_page_names_no_other_host() -> None:
    ours = [path for path in WEB.iterdir() if path.suffix in MEDIA_TYPES]
    assert {path.name for path in ours} >= {INDEX, "app.js", "style.css"}
    for path in ours:
        hosts = set(re.findall(r"https?://[^\s'\"/)]+", path.read_text())) - {"http://www.w3.org"}
        assert not hosts, path.name


def test_vendored_files_come_with_their_licences() -> None:
    for folder in (WEB / "vendor").iterdir():
        assert not folder.is_dir() or (folder / "LICENSE").is_file()


def test_known_networks_are_the_bundles_records_by_rising_latency(service: Service, bundles_folder: Path) -> None:
    body = service.ask("/bundles/steady/known")
    records = {record.encoding: record.accuracy for record in Bundle.load(bundles_folder / "steady").known}
    assert len(body["encodings"]) == len(body["latency_ms"]) == len(body["top1_percent"]) == len(records)
    assert body["latency_ms"] == sorted(body["latency_ms"])
    for encoding, top1 in zip(body["encodings"], body["top1_percent"], strict=True):
        assert top1 == pytest.approx(records[encoding] * 100, abs=1e-4)
    # The same latency as /predict says, which asks the evaluator and the table again.
    some = body["encodings"][:: len(records) // 20]
    predicted = service.ask("/predict", {"encodings": some, "bundle": "steady"})["results"]
    wanted = dict(zip(body["encodings"], body["latency_ms"], strict=True))
    assert [p["predicted"]["latency_ms"] for p in predicted] == pytest.approx([wanted[e] for e in some], abs=1e-4)


def test_bounds_are_those_that_answers_come_with(service: Service) -> None:
    bounds = service.ask("/bundles/steady/known")["bounds"]
    assert bounds[0] == {"coverage": 0.5, "factor": 1.0}
    assert [bound["coverage"] for bound in bounds] == [0.5, 0.8, 0.9, 0.95]  # .99 needs more networks than the 40
    high = service.ask("/bundles")["bundles"][0]["largest_useful_ms"]
    for bound in bounds:
        answer = service.ask("/generate", {"budget_ms": high, "bundle": "steady", "coverage": bound["coverage"]})
        predicted = answer["predicted"]
        assert predicted["latency_upper_ms"] == pytest.approx(predicted["latency_ms"] * bound["factor"], rel=1e-4)


def test_references_are_named_and_predicted(service: Service) -> None:
    references = service.ask("/bundles/steady/known")["references"]
    assert [reference["name"] for reference in references] == ["Smallest", "Largest"]
    assert references[0]["predicted"]["top1_percent"] < references[1]["predicted"]["top1_percent"]


def test_a_bundle_without_records_knows_none(service: Service) -> None:
    body = service.ask("/bundles/tiny/known")
    assert (body["encodings"], body["latency_ms"], body["references"]) == ([], [], [])


def test_known_networks_of_an_unknown_bundle_are_not_found(service: Service) -> None:
    assert get(service, "/bundles/nobody/known").status == 404


def test_known_networks_are_not_sent_again_while_the_bundle_is_the_same(service: Service) -> None:
    etag = get(service, "/bundles/steady/known").headers["etag"]
    assert get(service, "/bundles/steady/known", if_none_match=etag).status == 304
    assert get(service, "/bundles/swift/known", if_none_match=etag).status == 200
