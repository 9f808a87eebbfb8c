"""The bundles that are being served: found in folders, looked up by name and version, replaced while requests run.

A bundle is never changed in place. A reload builds a new catalogue beside the old one and swaps the two in one
assignment; requests that hold an old bundle finish with it.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import structlog

from pnag.models.bundle.bundle import MANIFEST
from pnag.models.errors import BundleError, PnagError, UnknownBundleError
from pnag.service.contract.problems import BundleRequiredError
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.engine.memory import give_back_memory
from pnag.service.telemetry.metrics import Metrics

log = structlog.get_logger("pnag.bundles")

Signature = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and modification time of every file: what changes when a bundle is replaced."""


@dataclass(frozen=True)
class Catalogue:
    """The bundles that are served at one moment."""

    bundles: tuple[LoadedBundle, ...] = ()
    default: str | None = None

    def get(self, wanted: str | None) -> LoadedBundle:
        """The bundle that `name`, `name@version` or None asks for; of several versions the newest.

        Raises:
            UnknownBundleError: listing what there is.
            BundleRequiredError: if None leaves a choice.
        """
        wanted = wanted if wanted is not None else self.default if self.default is not None else self._only_name
        bundle = self._by_name.get(wanted)
        if bundle is None:
            raise UnknownBundleError(f"bundle {wanted!r} is not loaded; choose from {self.names}")
        return bundle

    def is_default(self, bundle: LoadedBundle) -> bool:
        """True if requests that name this bundle without a version get this one."""
        return self._by_name[bundle.name] is bundle

    def answers_unnamed(self, bundle: LoadedBundle) -> bool:
        """True if it is the one chosen for requests that name no bundle."""
        return self.default is not None and self._by_name.get(self.default) is bundle

    @property
    def names(self) -> list[str]:
        """Every `name@version`."""
        return [f"{b.name}@{b.version}" for b in self.bundles]

    @cached_property
    def digest(self) -> str:
        """Equal for two catalogues that answer every request alike; to keep it does not keep the bundles alive."""
        names = {name: bundle.digest for name, bundle in self._by_name.items()}
        return hashlib.sha256(repr((self.default, sorted(names.items()))).encode()).hexdigest()

    @cached_property
    def _by_name(self) -> dict[str, LoadedBundle]:
        by_age = sorted(self.bundles, key=lambda b: (str(b.bundle.manifest.get("created_at", "")), b.version))
        return {b.name: b for b in by_age} | {f"{b.name}@{b.version}": b for b in by_age}

    @property
    def _only_name(self) -> str:
        names = {b.name for b in self.bundles}
        if len(names) != 1:
            raise BundleRequiredError(
                f"{len(names)} bundles are loaded: say which one in `bundle` (or set PNAG_DEFAULT_BUNDLE); "
                f"choose from {self.names}"
            )
        return next(iter(names))


@dataclass
class Reloaded:
    """Result of a reload, by folder."""

    loaded: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Why a folder's bundle is not served. Where an older one was loaded from it, that one still is."""


@dataclass(frozen=True)
class _Seen:
    """A folder as it was last looked at, and the bundle or the complaint that came of it."""

    signature: Signature
    result: LoadedBundle | str


class BundleStore:
    """Load what the folders hold, and keep the catalogue.

    Args:
        roots: bundle folders, or folders that hold bundle folders.
        load: verifies, tries and readies the bundle in a folder; a reload calls it in a thread.
    """

    def __init__(
        self, roots: Sequence[Path], load: Callable[[Path], LoadedBundle], metrics: Metrics, default: str | None = None
    ) -> None:
        self.catalogue = Catalogue(default=default)
        self._roots = roots
        self._load = load
        self._metrics = metrics
        self._seen: dict[Path, _Seen] = {}
        self._served: dict[Path, LoadedBundle] = {}
        self._reloading = asyncio.Lock()

    def load_all(self) -> None:
        """Load everything, or nothing; for the start, where a bad bundle must stop the service.

        Raises:
            BundleError: naming the folder and what is wrong with it.
        """
        served: dict[Path, LoadedBundle] = {}
        for folder in find_bundles(self._roots):
            before = signature(folder)
            served[folder] = bundle = self._load_another(folder, served.values())
            self._seen[folder] = _Seen(before, bundle)
        if not served:
            raise BundleError(
                f"no bundle in {', '.join(map(str, self._roots))}; name a folder that holds a {MANIFEST} "
                "(--bundle or PNAG_BUNDLES), or train one with `pnag train`"
            )
        self._serve(served)

    async def reload(self) -> Reloaded:
        """Load what is new or changed, keep what is not, let go of what is gone.

        A folder that cannot be loaded is reported, and what was served from it before still is. The last bundle is
        never let go.
        """
        async with self._reloading:
            done = Reloaded()
            served: dict[Path, LoadedBundle] = {}
            folders = list(find_bundles(self._roots))
            for folder in folders:
                seen = await self._look(folder, {f: b for f, b in self._served.items() if f != folder}, done)
                if isinstance(seen.result, LoadedBundle):
                    served[folder] = seen.result
                    continue
                done.refused[str(folder)] = seen.result
                if folder in self._served:
                    served[folder] = self._served[folder]
            self._seen = {folder: seen for folder, seen in self._seen.items() if folder in folders}
            gone = [folder for folder in self._served if folder not in folders]
            if served:
                done.removed.extend(map(str, gone))
                self._serve(served)
            elif gone:
                log.error("no bundle would be left, the old ones stay", gone=[str(folder) for folder in gone])
            self._metrics.reloads.labels("removed").inc(len(done.removed))
            self._metrics.refused.set(len(done.refused))
            if done.loaded or done.removed:
                give_back_memory()
                log.info("bundles reloaded", loaded=done.loaded, removed=done.removed, serving=self.catalogue.names)
            return done

    async def _look(self, folder: Path, others: Mapping[Path, LoadedBundle], done: Reloaded) -> _Seen:
        """Load a folder's bundle if it is not as it was when last seen."""
        now = signature(folder)
        seen = self._seen.get(folder)
        if seen is not None and seen.signature == now:
            return seen
        try:
            result: LoadedBundle | str = await asyncio.to_thread(self._load_another, folder, others.values())
            done.loaded.append(str(folder))
            self._metrics.reloads.labels("loaded").inc()
        except PnagError as exc:
            result = str(exc)
            log.error("bundle refused", folder=str(folder), reason=result, old_one_stays=folder in self._served)
            self._metrics.reloads.labels("refused").inc()
        self._seen[folder] = seen = _Seen(now, result)
        return seen

    def _load_another(self, folder: Path, others: Iterable[LoadedBundle]) -> LoadedBundle:
        bundle = self._load(folder)
        if any((other.name, other.version) == (bundle.name, bundle.version) for other in others):
            raise BundleError(f"{folder}: {bundle.name}@{bundle.version} is in another folder too; keep one of them")
        return bundle

    def _serve(self, served: dict[Path, LoadedBundle]) -> None:
        if served == self._served:
            return  # the same catalogue: whoever keeps answers by it need not forget them at every look
        catalogue = Catalogue(tuple(served.values()), self.catalogue.default)
        if catalogue.default is not None:
            catalogue.get(catalogue.default)
        gone = set(self._served.values()) - set(served.values())
        self._served, self.catalogue = served, catalogue
        for bundle in gone:
            self._metrics.bundle_info.labels(*_labels(bundle)).set(0)
            self._metrics.table_measured.labels(bundle.name, bundle.version).set(float("nan"))
        for bundle in served.values():
            self._metrics.bundle_info.labels(*_labels(bundle)).set(1)
            measured_at = bundle.table_measured_at
            if measured_at is not None:
                self._metrics.table_measured.labels(bundle.name, bundle.version).set(measured_at.timestamp())


def find_bundles(roots: Iterable[Path]) -> Iterator[Path]:
    """Folders with a manifest: each root itself, or else the folders in it, by name.

    Raises:
        BundleError: if a root is no folder, or a folder or file in one is a link that leaves it.
    """
    for root in roots:
        if not root.is_dir():
            raise BundleError(f"{root}: no such folder; give a bundle folder, or a folder that holds some")
        if (root / MANIFEST).exists():
            folders = [root]
        else:
            folders = sorted(folder for folder in root.iterdir() if (folder / MANIFEST).is_file())
        for folder in folders:
            for path in (folder, *folder.iterdir()):
                if not path.resolve().is_relative_to(root.resolve()):
                    raise BundleError(f"{path} leads out of {root}; put a copy there instead of a link")
            yield folder


def signature(folder: Path) -> Signature:
    """The state of a folder without reading its files, to compare with a later one."""
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _labels(bundle: LoadedBundle) -> tuple[str, ...]:
    return bundle.name, bundle.version, bundle.space.name, bundle.device
