"""A bundle: the folder that `pnag train` writes and the service loads, whole or not at all.

manifest.json        what it is, and the sha256 of every other file
generator.onnx       limits_BK, noise_BSDC -> tokens_BSD        (models/answer/runtime.py)
evaluator.onnx       features_NF -> accuracy_N
latency_table.json   ms per layer on the device it answers for
pareto_front.json    the front found in training, and the known architectures behind it
table_costs.json     only of table-only spaces: what records say of costs (models/cost/tabular.py)
weights.npz          only where networks can be handed out: their weights (models/bundle/weights.py)
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pnag.models.bundle.weights import WeightsIndex, read_index
from pnag.models.cost.latency_table import LatencyTable
from pnag.models.cost.tabular import NetworkCosts, TableCosts
from pnag.models.errors import BundleError, EncodingError, PnagError
from pnag.models.files import Number, check_version, parse_object, read_json_object, to_json, write_atomic
from pnag.models.space.metric import Metric
from pnag.models.space.registry import space_from_dict
from pnag.models.space.search_space import SearchSpace, Tokens

FORMAT_VERSION = 1
MANIFEST, GENERATOR, EVALUATOR = "manifest.json", "generator.onnx", "evaluator.onnx"
LATENCY_TABLE, PARETO_FRONT, TABLE_COSTS = "latency_table.json", "pareto_front.json", "table_costs.json"
WEIGHTS = "weights.npz"
FILES = (GENERATOR, EVALUATOR, LATENCY_TABLE, PARETO_FRONT)


@dataclass(frozen=True)
class FrontPoint:
    """One network of the front found in training; `latency_ms` is the plain prediction, `accuracy` a fraction."""

    encoding: str
    latency_ms: Number
    accuracy: Number


@dataclass(frozen=True)
class KnownArchitecture:
    """One record that the evaluator was trained on; `accuracy` as measured."""

    encoding: str
    accuracy: Number


@dataclass(frozen=True)
class _Front:
    points: Annotated[tuple[FrontPoint, ...], Field(min_length=1)]
    known: tuple[KnownArchitecture, ...] = ()


@dataclass(frozen=True)
class _File:
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    """Keys that every manifest has; what the dictionaries hold is for those who read them."""

    name: str
    version: str
    search_space: dict[str, Any]
    accuracy: dict[str, Any]
    generator: dict[str, Any]
    files: dict[str, _File]


@dataclass(frozen=True)
class BundleWeights:
    """Weights that stay on disk until a network is asked for: they are larger than all the rest."""

    path: Path
    sha256: str
    index: WeightsIndex

    def read(self) -> bytes:
        """The whole file.

        Raises:
            BundleError: if it is not what it was when the bundle was loaded.
        """
        where = f"{self.path.parent.name}/{self.path.name}"
        content = _read(self.path.parent, self.path.name)
        _check_content(content, self.sha256, where)
        return content


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle in memory. Build with `Bundle.load`."""

    manifest: Mapping[str, Any]
    contents: Mapping[str, bytes]
    space: SearchSpace
    latency_table: LatencyTable
    front: tuple[FrontPoint, ...]
    front_FD: Tokens
    """The networks of `front`, shape [points, decisions]; decoded once, which is most of what loading takes."""
    known: tuple[KnownArchitecture, ...]
    table_costs: TableCosts | None = None
    weights: BundleWeights | None = None
    """Not among `contents`."""

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        return str(self.manifest["version"])

    @cached_property
    def digest(self) -> str:
        """sha256 of the manifest, which holds every other file's: two bundles answer alike iff it is equal."""
        return hashlib.sha256(self.contents[MANIFEST]).hexdigest()

    @property
    def interval(self) -> tuple[float, float] | None:
        """(coverage, half width of -log(1 - accuracy)) of the evaluator's accuracy interval, None if uncalibrated."""
        raw = self.manifest["accuracy"].get("interval")
        return (float(raw["coverage"]), float(raw["half_width"])) if raw else None

    @property
    def metric(self) -> Metric | None:
        """Metric that stands for accuracy, None for accuracy itself."""
        raw = self.manifest["accuracy"].get("metric")
        return Metric.from_dict(raw) if isinstance(raw, dict) else None

    def has_weights_of(self, encoding: str) -> bool:
        """Tell whether a network can be built and run, not only described."""
        return self.weights is not None and encoding in self.weights.index.accuracies

    def costs(self) -> NetworkCosts:
        """Costs that architectures of the bundle are limited by."""
        return NetworkCosts.of(self.space, self.latency_table, self.table_costs)

    @classmethod
    def load(cls, folder: Path) -> "Bundle":
        """Read and verify a bundle.

        Raises:
            BundleError: naming the file that is missing, altered, or from a newer version.
        """
        if not folder.is_dir():
            raise BundleError(f"{folder}: no such bundle folder; `pnag train` writes one")
        contents = {MANIFEST: _read(folder, MANIFEST)}
        manifest = read_json_object(contents[MANIFEST], f"{folder.name}/{MANIFEST}", BundleError)
        for name, file in _check_manifest(manifest, folder.name).files.items():
            if Path(name).name != name or name == MANIFEST:
                raise BundleError(f"{folder.name}/{MANIFEST}: file name {name!r} must be a plain name in the folder")
            contents[name] = _read(folder, name)
            _check_content(contents[name], file.sha256, f"{folder.name}/{name}")
        weights = contents.pop(WEIGHTS, None)
        bundle = cls.assemble(manifest, contents, folder.name)
        return bundle if weights is None else replace(bundle, weights=_index_weights(folder, weights, bundle.space))

    @classmethod
    def assemble(cls, manifest: Mapping[str, Any], contents: Mapping[str, bytes], folder: str = "bundle") -> "Bundle":
        """A bundle from contents in memory whose hashes are known to be right.

        Raises:
            BundleError: naming the file that does not fit the others.
        """
        try:
            space = space_from_dict(manifest["search_space"])
            table = LatencyTable.parse(contents[LATENCY_TABLE], LATENCY_TABLE)
            table.predictor(space)  # every layer is there
        except PnagError as exc:
            raise BundleError(f"{folder}: {exc}") from exc
        front, front_FD, known = _parse_front(contents[PARETO_FRONT], space, f"{folder}/{PARETO_FRONT}")
        raw_costs = contents.get(TABLE_COSTS)
        costs = None if raw_costs is None else TableCosts.parse(raw_costs, space, f"{folder}/{TABLE_COSTS}")
        return cls(manifest, contents, space, table, front, front_FD, known, costs)


def write_bundle(folder: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> Bundle:
    """Write a bundle beside its place, load it back, then rename the whole folder into place; returns the bundle.

    `manifest` comes without `format_version` and `files`, which are filled in here. What was at `folder` is replaced.

    Raises:
        BundleError: if what was written does not load; `folder` is then as it was.
    """
    files = {n: {"sha256": hashlib.sha256(c).hexdigest(), "size_bytes": len(c)} for n, c in sorted(contents.items())}
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        for name, content in contents.items():
            write_atomic(fresh / name, content)
        write_atomic(fresh / MANIFEST, to_json({"format_version": FORMAT_VERSION, **manifest, "files": files}))
        Bundle.load(fresh)
        if folder.exists():
            retired = fresh.with_name(f"{fresh.name}.old")
            folder.rename(retired)
            fresh.rename(folder)
            shutil.rmtree(retired)
        else:
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Bundle.load(folder)


def write_weights(folder: Path, bundle: Bundle, content: bytes) -> Bundle:
    """Give the bundle in a folder other weights, or its first; killed at any point, a whole bundle is left.

    Raises:
        WeightsError, BundleError: if the content is no weights file of the bundle's space; nothing is written then.
    """
    weights = _index_weights(folder, content, bundle.space)
    files = {name: entry for name, entry in bundle.manifest["files"].items() if name != WEIGHTS}
    without, entry = {**bundle.manifest, "files": files}, {"sha256": weights.sha256, "size_bytes": len(content)}
    if WEIGHTS in bundle.manifest["files"]:
        write_atomic(folder / MANIFEST, to_json(without))
    write_atomic(folder / WEIGHTS, content)  # not in the manifest now, so nobody reads it
    write_atomic(folder / MANIFEST, to_json({**without, "files": {**files, WEIGHTS: entry}}))
    return Bundle.load(folder)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as exc:
        raise BundleError(
            f"{folder.name}/{name}: cannot be read ({exc.strerror}); copy the whole bundle folder again"
        ) from None


def _index_weights(folder: Path, content: bytes, space: SearchSpace) -> BundleWeights:
    where = f"{folder.name}/{WEIGHTS}"
    try:
        index = read_index(content, where)
        for encoding in index.accuracies:
            space.decode(encoding)
    except PnagError as exc:
        raise BundleError(str(exc)) from exc
    if index.space != space.name:
        raise BundleError(f"{where}: is of search space {index.space}, the bundle of {space.name}; export them again")
    return BundleWeights(folder / WEIGHTS, hashlib.sha256(content).hexdigest(), index)


def _check_manifest(document: dict[str, Any], folder: str) -> _Manifest:
    where = f"{folder}/{MANIFEST}"
    check_version(document, FORMAT_VERSION, where, BundleError)
    manifest = parse_object(_Manifest, document, where, BundleError)
    missing = [name for name in FILES if name not in manifest.files]
    if missing:
        raise BundleError(f"{where}: files does not list {missing}; train the bundle again")
    return manifest


def _check_content(content: bytes, expected: str, where: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise BundleError(
            f"{where}: sha256 is {actual[:12]}…, the manifest says {expected[:12]}…: the file was altered or half "
            "copied; copy the whole bundle folder again"
        )


def _parse_front(
    data: bytes, space: SearchSpace, where: str
) -> tuple[tuple[FrontPoint, ...], Tokens, tuple[KnownArchitecture, ...]]:
    front = parse_object(_Front, read_json_object(data, where, BundleError), where, BundleError)
    for number, (before, point) in enumerate(pairwise(front.points), start=1):
        if not (point.latency_ms > before.latency_ms and point.accuracy > before.accuracy):
            raise BundleError(f"{where}: points[{number}] does not rise above the one before it in both columns")
    try:
        return front.points, np.stack([space.decode(point.encoding) for point in front.points]), front.known
    except EncodingError as exc:
        raise BundleError(f"{where}: points: {exc}") from None
