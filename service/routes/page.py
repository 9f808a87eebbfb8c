"""`GET /`: the page, and the files it is made of (service/web).

Everything is read once, when first asked for. Files stand under `/web/<digest>/`, where the digest is that of all of
them together: modules find each other by relative address, so one part in the path lets a browser keep them for good.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from pnag.service.contract.etag import not_modified

WEB = Path(__file__).parent.parent / "web"
INDEX, DOCS, ICON = "index.html", "docs.html", "favicon.svg"
PLACE = b"{{web}}"
"""Where index and docs want the address of the other files."""

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""What is served at all: licences and notes beside the files are not."""

SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
}
"""The page runs its own scripts, talks to its own service, and nothing else."""

DOCS_SECURITY = SECURITY | {
    "content-security-policy": SECURITY["content-security-policy"].replace(
        "style-src 'self'", "style-src 'self' 'unsafe-inline'"
    )
}
"""RapiDoc, which draws /docs, styles itself in its own elements."""

FOR_GOOD, ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Site:
    """The files by their path below service/web, and one digest over all of them."""

    files: dict[str, bytes]
    digest: str

    def entry(self, name: str) -> bytes:
        """A page that others lead to, pointing at this version of the files."""
        return self.files[name].replace(PLACE, f"/web/{self.digest}".encode())


@cache
def site() -> Site:
    """The files of service/web."""
    paths = sorted(path for path in WEB.rglob("*") if path.suffix in MEDIA_TYPES)
    files = {path.relative_to(WEB).as_posix(): path.read_bytes() for path in paths}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(b"%d %b\n%d\n" % (len(name), name.encode(), len(content)) + content)
    return Site(files, digest.hexdigest()[:16])


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page."""
    return _response(request, site().entry(INDEX), INDEX, ASK_AGAIN)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """Every request and answer, from /openapi.json, to read and to try."""
    return _response(request, site().entry(DOCS), DOCS, ASK_AGAIN, DOCS_SECURITY)


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
async def favicon(request: Request) -> Response:
    """For browsers that ask before they have read the page."""
    return _response(request, site().files[ICON], ICON, ASK_AGAIN)


@router.api_route("/web/{digest}/{name:path}", methods=["GET", "HEAD"])
async def file(request: Request, digest: str, name: str) -> Response:
    """A file of the page; by the address of another version too, as replicas are replaced one by one."""
    content = site().files.get(name)
    if content is None or name in (INDEX, DOCS):
        raise HTTPException(404, f"the page has no file {name!r}")
    return _response(request, content, name, FOR_GOOD if digest == site().digest else ASK_AGAIN)


def _response(
    request: Request, content: bytes, name: str, caching: str, security: Mapping[str, str] = SECURITY
) -> Response:
    etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    headers = {**security, "cache-control": caching, "etag": etag}
    return not_modified(request, headers) or Response(
        content, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers
    )
