"""State of a training on disk: stop at any step, go on later, end with the same bits.

A folder holds `checkpoint.pt` (weights, optimiser, schedule, random states, archive, curves) and `curves.csv`. A
checkpoint knows what it belongs to, and is refused by name when space, costs, evaluator, configuration or seed differ.
"""

import csv
import hashlib
import io
import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pnag.models.errors import TrainingError
from pnag.models.files import write_atomic

FORMAT_VERSION = 1
CHECKPOINT, CURVES = "checkpoint.pt", "curves.csv"


class Checkpoint:
    """Saved at step boundaries: every `every_s` seconds, and when Ctrl-C is pressed.

    Args:
        folder: None = nothing is saved.
        identity: what the run is made of, by name; compared when loading.
        is_writer: False in all but the first of several processes that train together.
    """

    def __init__(
        self, folder: Path | None, identity: Mapping[str, str], every_s: float = 10.0, *, is_writer: bool = True
    ) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.every_s = every_s
        self._is_writer = is_writer
        self.curves: list[dict[str, float]] = []
        self._saved_at = time.monotonic()
        self._interrupted = False

    def load(self) -> dict[str, Any] | None:
        """The state of an earlier run, None when there is none.

        Raises:
            TrainingError: if the file cannot be read, or belongs to another run.
        """
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return None
        path = self.folder / CHECKPOINT
        try:
            saved = torch.load(path, weights_only=True)
            version, identity = saved["format_version"], saved["identity"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as exc:
            raise TrainingError(f"{path}: is no checkpoint of this program ({exc}); delete it to start anew") from None
        if version != FORMAT_VERSION:
            raise TrainingError(f"{path}: format_version is {version}; this version of pnag reads {FORMAT_VERSION}")
        different = [name for name in self.identity if identity.get(name) != self.identity[name]]
        if different:
            described = ", ".join(f"{n} ({identity.get(n)} there, {self.identity[n]} here)" for n in different)
            raise TrainingError(
                f"{path}: belongs to another run, which differs in {described}; name another folder, or delete this one"
            )
        self.curves = list(saved["curves"])
        state: dict[str, Any] = saved["state"]
        return state

    def step_done(self, **curve: float) -> bool:
        """Note a step's figures, if any; True when the caller should now `save`."""
        if curve:
            self.curves.append(curve)
        return self.folder is not None and (self._interrupted or time.monotonic() - self._saved_at >= self.every_s)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write state and curves, whole or not at all; then obey a Ctrl-C that came meanwhile."""
        if self.folder is not None and self._is_writer:
            self.folder.mkdir(parents=True, exist_ok=True)
            document = {
                "format_version": FORMAT_VERSION,
                "identity": self.identity,
                "curves": self.curves,
                "state": dict(state),
            }
            draft = self.folder / f"{CHECKPOINT}.part"
            try:
                torch.save(document, draft)
                os.replace(draft, self.folder / CHECKPOINT)
                self._write_curves()
            except (OSError, RuntimeError) as exc:  # torch reports a full disk as a RuntimeError
                draft.unlink(missing_ok=True)
                raise TrainingError(
                    f"{self.folder / CHECKPOINT}: cannot be written ({exc}); the last one is kept: make room, and go on"
                ) from None
            self._saved_at = time.monotonic()
        if self._interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C inside waits for the end of the step, so that what is saved is consistent; a second one does not."""
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(_number: int, _frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _write_curves(self) -> None:
        assert self.folder is not None
        if not self.curves:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.curves[-1]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.curves)
        write_atomic(self.folder / CURVES, text.getvalue())


def digest(*parts: object) -> str:
    """Eight hex digits that tell apart what a run is made of."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True).encode()
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()[:8]


def random_state(rng: np.random.Generator) -> dict[str, Any]:
    """Both random generators, as plain values."""
    return {"numpy": json.dumps(rng.bit_generator.state), "torch": torch.get_rng_state()}


def restore_random_state(rng: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Undo `random_state`."""
    rng.bit_generator.state = json.loads(state["numpy"])
    torch.set_rng_state(state["torch"])


def as_tensors(arrays: Sequence[NDArray[Any]]) -> list[torch.Tensor]:
    """Copies that a checkpoint can hold."""
    return [torch.from_numpy(np.ascontiguousarray(a).copy()) for a in arrays]
