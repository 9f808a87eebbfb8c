"""Access control: API keys with scopes, a rate limit, and an own port for the operator.

A key is 32 random bytes, so one round of sha256 protects it as well as a slow hash would; only that is configured.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from cachetools import LRUCache
from starlette.exceptions import HTTPException
from starlette.types import Scope

from pnag.service.contract.problems import ForbiddenError, RateLimitedError, UnauthorizedError
from pnag.service.request_state import RequestState
from pnag.service.settings import Settings, SettingsError
from pnag.service.telemetry.metrics import Metrics

READ, ADMIN = "read", "admin"
PREFIX = "pnag_"

OPEN_PATHS = frozenset(
    ("/", "/docs", "/openapi.json", "/favicon.ico", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
)
OPEN_PREFIX = "/web/"
"""Files of the page. They hold no data; the page asks for a key when it needs one."""
HEALTH_PATHS = frozenset(("/healthz", "/readyz"))


@dataclass(frozen=True)
class ApiKey:
    """One key as it is configured: who it belongs to, what it opens, and its hash."""

    name: str
    scope: str
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> "ApiKey":
        """Read `name:scope:sha256`.

        Raises:
            SettingsError: naming the part that is wrong.
        """
        name, _, rest = text.strip().partition(":")
        scope, _, digest = rest.partition(":")
        if not name or scope not in (READ, ADMIN):
            raise SettingsError(f"API key {name!r}: scope is {scope!r}; expected name:{READ}|{ADMIN}:sha256")
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            raw = b""
        if len(raw) != hashlib.sha256().digest_size:
            raise SettingsError(f"API key {name!r}: its hash is not 64 hex digits; `pnag api-key` prints the line")
        return cls(name, scope, raw)

    @classmethod
    def make(cls, name: str, scope: str) -> tuple[str, str]:
        """A new key, and the line to configure."""
        key = PREFIX + secrets.token_urlsafe(32)
        line = f"{name}:{scope}:{hashlib.sha256(key.encode()).hexdigest()}"
        cls.parse(line)
        return key, line


class ApiKeys:
    """The keys that are accepted now."""

    def __init__(self, settings: Settings) -> None:
        self._inline = settings.api_keys.get_secret_value().split(",") if settings.api_keys else []
        self._file: Path | None = settings.api_keys_file
        self._keys: tuple[ApiKey, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Read the file again.

        Raises:
            SettingsError: if a line is wrong, or no key is left; the keys stay as they were.
        """
        lines = [*self._inline]
        if self._file is not None:
            try:
                lines += [line for line in self._file.read_text().splitlines() if not line.startswith("#")]
            except (OSError, UnicodeDecodeError) as exc:
                raise SettingsError(f"{self._file}: cannot be read ({exc}); PNAG_API_KEYS_FILE names it") from None
        keys = tuple(ApiKey.parse(line) for line in lines if line.strip())
        if not keys:
            raise SettingsError("API keys are on, but none is given; `pnag api-key` makes one")
        self._keys = keys

    def find(self, sent: bytes) -> ApiKey | None:
        """The key that was sent, if it is one of ours; takes equally long whichever it is, and if it is none."""
        digest = hashlib.sha256(sent).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


class RateLimit:
    """A token bucket per caller that holds one second's worth, at least one."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._size = max(per_s, 1.0)
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(100_000)

    def wait_s(self, caller: str) -> float:
        """0 if the caller may go on, else how long until it may."""
        now = monotonic()
        tokens, since = self._buckets.get(caller, (self._size, now))
        tokens = min(self._size, tokens + (now - since) * self._per_s)
        if tokens >= 1:
            self._buckets[caller] = (tokens - 1, now)
            return 0.0
        self._buckets[caller] = (tokens, now)
        return (1 - tokens) / self._per_s


class Guard:
    """Reject requests that the caller may not make on this port (401, 403, 404, 429)."""

    def __init__(self, settings: Settings, keys: ApiKeys | None, metrics: Metrics) -> None:
        self._keys = keys
        self._admin_port = settings.admin_port
        self._is_local = settings.is_local
        self._limit = RateLimit(settings.rate_limit_per_s) if settings.rate_limit_per_s else None
        self._failures, self._limited = metrics.auth_failures, metrics.rate_limited

    def check(self, scope: Scope, state: RequestState) -> None:
        """Look at a request's path, port, key and rate; note the key's name.

        Raises:
            UnauthorizedError, ForbiddenError, RateLimitedError: why it may not go on.
            HTTPException: 404, if what it wants is on the other port.
        """
        path: str = scope["path"]
        is_admin = path.startswith("/admin/")
        if self._admin_port is not None and path not in HEALTH_PATHS:
            on_admin_port = scope["server"][1] == self._admin_port
            if on_admin_port != (is_admin or path == "/metrics"):
                raise HTTPException(404, "not on this port")
            if on_admin_port and not is_admin:
                return  # whoever reaches the operator's port may read its metrics
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return
        if self._keys is not None:
            self._check_key(self._keys, state, ADMIN if is_admin else READ)
        elif is_admin and not self._is_local:
            raise ForbiddenError("/admin needs an API key of scope admin: set PNAG_API_KEYS")
        if self._limit is not None:
            wait_s = self._limit.wait_s(state.api_key or (scope["client"] or ("", 0))[0])
            if wait_s:
                self._limited.inc()
                raise RateLimitedError("more requests per second than this caller may make", wait_s)

    def _check_key(self, keys: ApiKeys, state: RequestState, needed: str) -> None:
        sent = state.headers.get(b"x-api-key") or state.headers.get(b"authorization", b"")
        key = keys.find(sent.removeprefix(b"Bearer ").strip())
        if key is None:
            self._failures.labels("unknown" if sent else "missing").inc()
            raise UnauthorizedError(
                "the API key is unknown" if sent else "send an API key: Authorization: Bearer <key>, or X-API-Key"
            )
        state.api_key = key.name
        if needed == ADMIN and key.scope != ADMIN:
            self._failures.labels("scope").inc()
            raise ForbiddenError(f"key {key.name!r} has scope {key.scope}; this needs {needed}")


def needs_guard(settings: Settings) -> bool:
    """True if there is anything to guard: a plain local service saves the trouble."""
    return (
        settings.has_keys or settings.admin_port is not None or bool(settings.rate_limit_per_s) or not settings.is_local
    )
