"""The bundles that are being served: found in folders, tried before use, looked up by name and version.

A bundle is never changed in place. `BundleStore.reload` builds a new catalogue beside the old one and swaps the two in
one assignment; requests that hold an old bundle finish with it, and with the last of them it is freed.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cachetools import LRUCache

from models.bundle import MANIFEST, Bundle
from models.errors import BudgetError, BundleError, UnknownBundleError
from models.runtime import DEFAULT_NUM_CANDIDATES, Answer, OnnxGenerator, Query
from models.search_space import SearchSpace
from service.batcher import Batcher
from service.errors import BundleRequiredError

T = TypeVar("T")

MAX_RECENT = 20_000
"""Answered networks that each bundle remembers by id, beside those of its front."""

SELF_TEST_TOLERANCE = 1e-3
"""Accuracy (a fraction) by which an answer may miss the recorded one: processors differ a little."""


class LoadedBundle:
    """One bundle with its generator, its queue, and the networks it has named by id."""

    def __init__(self, generator: OnnxGenerator, executor: Executor, *, max_batch_size: int, max_waiting: int) -> None:
        self.generator = generator
        self._executor = executor
        self.batcher = Batcher[Query, Answer | BudgetError](
            self._generate_many, max_batch_size=max_batch_size, max_waiting=max_waiting
        )
        self._recent: LRUCache[str, str] = LRUCache(MAX_RECENT)
        architectures = [self.space.architecture(point.encoding) for point in self.bundle.front]
        self._front = {architecture.id: architecture.encoding for architecture in architectures}

    @property
    def bundle(self) -> Bundle:
        return self.generator.bundle

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def version(self) -> str:
        return self.bundle.version

    @property
    def digest(self) -> str:
        return self.bundle.digest

    @property
    def space(self) -> SearchSpace:
        return self.bundle.space

    @property
    def device(self) -> str:
        return self.bundle.latency_table.device.name

    @property
    def table_age_days(self) -> float | None:
        """Days since the latency table was measured; None where it does not say."""
        measured_at = self.bundle.latency_table.measured_at
        if measured_at is None:
            return None
        moment = datetime.fromisoformat(measured_at)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (datetime.now(UTC) - moment).total_seconds() / 86400

    async def generate(self, query: Query) -> Answer:
        """Answer one query, together with those that wait beside it.

        Raises:
            BudgetError: as the runtime does.
            OverloadedError: if too many wait.
        """
        result = await self.batcher.ask(query)
        if isinstance(result, BudgetError):
            raise result
        return result

    async def run(self, call: Callable[[], T]) -> T:
        """Any other question to the generator, on the same thread: requests must not fight over the cores."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def remember(self, architecture_id: str, encoding: str) -> None:
        """Let an answered network be looked up by its id."""
        self._recent[architecture_id] = encoding

    def encoding_of(self, architecture_id: str) -> str | None:
        """The network behind an id, if it is on the front or was answered lately."""
        return self._front.get(architecture_id) or self._recent.get(architecture_id)

    async def _generate_many(self, queries: Sequence[Query]) -> Sequence[Answer | BudgetError]:
        return await self.run(lambda: self.generator.generate_many(queries))


@dataclass(frozen=True)
class Catalogue:
    """What is served at one moment."""

    bundles: tuple[LoadedBundle, ...] = ()
    default: str | None = None

    def get(self, wanted: str | None) -> LoadedBundle:
        """The bundle that `name`, `name@version` or None asks for; of several versions the newest.

        Raises:
            UnknownBundleError: listing what there is.
            BundleRequiredError: if None leaves a choice.
        """
        if wanted is None:
            wanted = self.default or self._only_name()
        name, _, version = wanted.partition("@")
        found = [b for b in self.bundles if b.name == name and version in ("", b.version)]
        if not found:
            raise UnknownBundleError(f"bundle {wanted!r} is not loaded; choose from {self.names()}")
        return max(found, key=_age_order)

    def is_default(self, bundle: LoadedBundle) -> bool:
        """Whether requests that name no version of this bundle get it."""
        return self.get(bundle.name) is bundle

    def names(self) -> list[str]:
        """Every `name@version`."""
        return [f"{b.name}@{b.version}" for b in self.bundles]

    def _only_name(self) -> str:
        names = {b.name for b in self.bundles}
        if len(names) != 1:
            raise BundleRequiredError(
                f"{len(names)} bundles are loaded: say which one in `bundle` (or set PNAG_DEFAULT_BUNDLE); "
                f"choose from {self.names()}"
            )
        return names.pop()


class BundleStore:
    """Loads what its folders hold, and keeps the catalogue.

    Args:
        roots: bundle folders, or folders that hold bundle folders.
        load: verifies, tries and readies the bundle in a folder.
    """

    def __init__(self, roots: Sequence[Path], load: Callable[[Path], LoadedBundle], default: str | None = None) -> None:
        self._roots = roots
        self._load = load
        self.catalogue = Catalogue(default=default)

    def load_all(self) -> None:
        """Load everything, or nothing.

        Raises:
            BundleError: naming the folder and what is wrong with it.
        """
        folders = list(find_bundles(self._roots))
        if not folders:
            raise BundleError(
                f"no bundle in {', '.join(map(str, self._roots))}; name a folder that holds a {MANIFEST} "
                "(--bundle or PNAG_BUNDLES), or train one with `pnag train`"
            )
        loaded = tuple(self._load(folder) for folder in folders)
        twins = [b for b in loaded if sum((o.name, o.version) == (b.name, b.version) for o in loaded) > 1]
        if twins:
            raise BundleError(f"{twins[0].name}@{twins[0].version} is in two folders; keep one")
        catalogue = Catalogue(loaded, self.catalogue.default)
        if catalogue.default is not None:
            catalogue.get(catalogue.default)
        self.catalogue = catalogue


def find_bundles(roots: Iterable[Path]) -> Iterable[Path]:
    """Folders with a manifest: each root itself, or else the folders in it, by name."""
    for root in roots:
        if (root / MANIFEST).exists():
            yield root
        elif root.is_dir():
            yield from sorted(folder for folder in root.iterdir() if (folder / MANIFEST).is_file())
        else:
            raise BundleError(f"{root}: no such folder; give a bundle folder, or a folder that holds some")


def open_bundle(folder: Path, *, num_candidates: int = DEFAULT_NUM_CANDIDATES) -> OnnxGenerator:
    """A verified bundle that has answered its recorded questions as it should.

    Raises:
        BundleError: if a file is wrong, or an answer is worse than the recorded one.
    """
    generator = OnnxGenerator(Bundle.load(folder))
    self_test(generator)
    generator.num_candidates = num_candidates
    return generator


def self_test(generator: OnnxGenerator) -> None:
    """Ask what the bundle recorded at training (`self_test` in its manifest), and compare.

    Raises:
        BundleError: if an answer differs and is worse than the recorded network.
    """
    for entry in generator.bundle.manifest.get("self_test", ()):
        best = generator.generate(Query(entry["budget_ms"])).best
        if best.architecture.encoding == entry["encoding"]:
            continue
        (recorded,) = generator.predict([entry["encoding"]])
        if best.predicted.accuracy < recorded.predicted.accuracy - SELF_TEST_TOLERANCE:
            raise BundleError(
                f"{generator.bundle.name}: self-test at {entry['budget_ms']} ms gives {best.architecture.encoding}, "
                f"which is worse than the recorded {entry['encoding']}; train or copy the bundle again"
            )


def _age_order(bundle: LoadedBundle) -> tuple[str, str]:
    return str(bundle.bundle.manifest.get("created_at", "")), bundle.version
