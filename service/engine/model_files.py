"""ONNX files of networks: assembled from a bundle's weights when first asked for, kept on disk, handed out.

Weights are read from disk for each network and let go again. One network is assembled at a time, and one that several
want at once is assembled once.
"""

import asyncio
import hashlib
import io
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from pnag.models.answer.exported_network import build_network
from pnag.models.errors import BundleError
from pnag.models.files import write_atomic
from pnag.service.contract.problems import NotReadyError
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.version import VERSION

log = structlog.get_logger("pnag.model_files")


@dataclass(frozen=True)
class ModelFile:
    """A network to hand out; whoever gets it closes the file."""

    file: BinaryIO
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> "ModelFile":
        return cls(io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())


class ModelFiles:
    """The networks of all bundles.

    Args:
        folder: where files are kept, also over a restart; None is a folder of this process's own.
        max_bytes: of all files kept; what was asked for longest ago goes first.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._folder = folder
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._max_bytes = max_bytes
        self._verified: set[str] = set()
        self._under_way: dict[str, asyncio.Task[bytes]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def get(self, bundle: LoadedBundle, architecture_id: str, encoding: str) -> ModelFile:
        """The ONNX file of a network that the bundle has weights of.

        Raises:
            NotReadyError: if the weights on disk are not those of the loaded bundle any more: a reload is due.
        """
        key = f"{VERSION}-{bundle.digest[:16]}-{architecture_id}"
        kept = await asyncio.to_thread(self._find, key)
        if kept is not None:
            return kept
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._assemble(bundle, encoding, key))
            task.add_done_callback(lambda _: self._under_way.pop(key))
        # Shielded: if one of those who wait goes away, the others still want it.
        return ModelFile.of(await asyncio.shield(task))

    def close(self) -> None:
        """Remove the folder, if it was this process's own."""
        if self._own is not None:
            self._own.cleanup()

    async def _assemble(self, bundle: LoadedBundle, encoding: str, key: str) -> bytes:
        (candidate,) = await bundle.run(lambda: bundle.generator.predict([encoding]))
        async with self._one_at_a_time:
            try:
                content = await asyncio.to_thread(build_network, bundle.bundle, candidate)
            except BundleError as exc:
                raise NotReadyError(f"the bundle on disk is not the one that is loaded: {exc}") from exc
            try:
                await asyncio.to_thread(self._keep, key, content)
            except OSError as exc:
                log.warning("a network cannot be kept on disk", folder=str(self._folder), reason=str(exc))
            return content

    def _find(self, key: str) -> ModelFile | None:
        """A file that is kept; one that is not what its name says is removed."""
        for path in self._files(f"{key}-*.onnx"):
            sha256 = path.stem.rpartition("-")[2]
            with suppress(OSError):  # another process may have removed it
                if path.name not in self._verified:
                    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                        path.unlink()
                        continue
                    self._verified.add(path.name)
                os.utime(path)
                return ModelFile(path.open("rb"), path.stat().st_size, sha256)
        return None

    def _keep(self, key: str, content: bytes) -> None:
        if len(content) > self._max_bytes:
            return
        if self._folder is None:
            self._own = tempfile.TemporaryDirectory(prefix="pnag-models-", ignore_cleanup_errors=True)
            self._folder = Path(self._own.name)
        kept = [(stat.st_mtime, stat.st_size, path) for path in self._files("*.onnx") if (stat := _stat(path))]
        room = self._max_bytes - len(content) - sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if room >= 0:
                break
            path.unlink(missing_ok=True)
            self._verified.discard(path.name)
            room += size
        path = self._folder / f"{key}-{hashlib.sha256(content).hexdigest()}.onnx"
        write_atomic(path, content)
        self._verified.add(path.name)

    def _files(self, pattern: str) -> list[Path]:
        return [] if self._folder is None else list(self._folder.glob(pattern))


def _stat(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.stat()
    return None
