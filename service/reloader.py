"""Reload of what may change while the service runs: bundles and API keys. A clock, SIGHUP, or /admin asks for it."""

import asyncio

import structlog

from pnag.models.errors import PnagError
from pnag.service.edge.security import ApiKeys
from pnag.service.engine.bundles import BundleStore, Reloaded

log = structlog.get_logger("pnag.reload")


class Reloader:
    """Reload bundles and keys, and never take anything away because the new one is wrong."""

    def __init__(self, bundles: BundleStore, keys: ApiKeys | None) -> None:
        self._bundles = bundles
        self._keys = keys
        self._task: asyncio.Task[None] | None = None

    async def reload(self) -> Reloaded:
        """Look at keys and bundles again.

        Raises:
            SettingsError: if a key is wrong; the old keys stay.
            BundleError: if a folder of bundles is gone; the old bundles stay.
        """
        if self._keys is not None:
            self._keys.reload()
        return await self._bundles.reload()

    def soon(self) -> None:
        """Reload in the background, for a signal."""
        self._task = asyncio.create_task(self._reload_or_tell())

    async def watch(self, interval_s: float) -> None:
        """Reload forever; what has not changed costs a look at its files' dates."""
        while True:
            await asyncio.sleep(interval_s)
            await self._reload_or_tell()

    async def _reload_or_tell(self) -> None:
        try:
            await self.reload()
        except (PnagError, OSError) as exc:
            log.error("reload failed, everything stays as it was", reason=str(exc))
