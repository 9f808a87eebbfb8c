"""Label architectures with a supernet's weights: one row per architecture, each on disk before the next is counted.

Beside the records lies `<records>.json`, which says what they were measured with; other weights, images or counts are
refused there instead of being mixed in.

Axis letters: N = architectures, D = decisions.
"""

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import GroupedCost
from pnag.models.errors import RecordsError, TrainingError
from pnag.models.files import read_json_object, to_json, write_atomic
from pnag.models.space.registry import get_space
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.data.images import input_size, read_images
from pnag.trainer.label.active import ENUMERABLE, NUM_STRATIFIED, STRATEGIES, Labeller
from pnag.trainer.label.ask_tell import Request
from pnag.trainer.progress import SILENT, Progress
from pnag.trainer.repeatable import use_one_thread
from pnag.trainer.supernet.score import ScoreConfig, Scorer
from pnag.trainer.supernet.weights_file import SupernetWeights

Floats = NDArray[np.float64]
COLUMNS = ("architecture", "top1_percent")
ROUND = 20
"""Architectures that the active strategy asks for at a time."""
CHUNK = 24
"""Architectures that a worker scores in a row, in the order of their tokens: they share their first layers."""


@dataclass(frozen=True)
class Task:
    """Weights, images and settings to measure with; plain values, so that it travels to other machines."""

    space: str
    weights: str
    images: str
    config: ScoreConfig = ScoreConfig()

    def scores(self, encodings: Sequence[str]) -> list[tuple[str, float]]:
        """Top-1 in [0, 1] by encoding; what one scores does not depend on the others."""
        scorer = _scorer(self)
        return [(encoding, scorer(scorer.supernet.space.decode(encoding))) for encoding in encodings]

    def identity(self) -> dict[str, object]:
        """Everything that a row depends on."""
        weights = SupernetWeights.load(Path(self.weights))
        digest = hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()
        return {
            "space": self.space,
            "weights_sha256": digest,
            "images_sha256": weights.images_sha256,
            "num_held_out": weights.num_held_out,
            **asdict(self.config),
        }


@cache
def _scorer(task: Task) -> Scorer:
    """Read once per process."""
    use_one_thread()
    space = get_space(task.space)
    weights = SupernetWeights.load(Path(task.weights))
    supernet = weights.supernet(space)
    images = read_images(Path(task.images), input_size(space))
    weights.check_images(images)
    return Scorer(supernet, images, weights.num_held_out, weights.normalise(), task.config)


Run = Callable[[Task, Sequence[Sequence[str]]], Iterator[list[tuple[str, float]]]]
"""Scores chunks of encodings, in whatever order they are finished."""


def run_here(task: Task, chunks: Sequence[Sequence[str]]) -> Iterator[list[tuple[str, float]]]:
    """One architecture after the other in this process."""
    for chunk in chunks:
        for encoding in chunk:
            yield task.scores([encoding])


class RecordsFile:
    """A CSV that grows by whole rows.

    Raises:
        RecordsError: if the file there was measured with something else.
    """

    def __init__(self, path: Path, space: SearchSpace, identity: dict[str, object]) -> None:
        self._path = path
        self._space = space
        about = path.with_name(f"{path.name}.json")
        if about.exists():
            there = read_json_object(about.read_bytes(), about.name, RecordsError)
            different = [name for name in identity if there.get(name) != identity[name]]
            if different:
                described = ", ".join(f"{n} ({there.get(n)} there, {identity[n]} here)" for n in different)
                raise RecordsError(f"{path}: was measured with another {described}; name another file")
        elif path.exists():
            raise RecordsError(
                f"{path}: has no {about.name}, so nobody knows what it was measured with; name another file"
            )
        else:
            write_atomic(about, to_json(identity))
        self.known = self._read()

    def _read(self) -> dict[str, float]:
        """Top-1 in percent by encoding; a last row that a break cut short is cut off."""
        if not self._path.exists():
            write_atomic(self._path, ",".join(COLUMNS) + "\n")
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        rows = csv.DictReader(whole.decode().splitlines())
        return {self._space.architecture(row[COLUMNS[0]]).encoding: float(row[COLUMNS[1]]) for row in rows}

    def append(self, scores: Iterable[tuple[str, float]]) -> None:
        """Add rows, and wait until they are on disk; what is known already is not doubled."""
        new = [(encoding, round(100 * accuracy, 4)) for encoding, accuracy in scores if encoding not in self.known]
        with self._path.open("a") as file:
            file.writelines(f"{self._quote(encoding)},{percent:g}\n" for encoding, percent in new)
            file.flush()
            os.fsync(file.fileno())
        self.known.update(new)

    @staticmethod
    def _quote(encoding: str) -> str:
        return f'"{encoding}"' if "," in encoding else encoding

    def tokens_and_accuracy(self) -> tuple[Tokens, Floats]:
        """Everything known, in the order it was measured."""
        tokens = [self._space.decode(encoding) for encoding in self.known]
        tokens_ND = np.array(tokens, dtype=np.int64).reshape(len(tokens), len(self._space.decisions))
        return tokens_ND, np.array(list(self.known.values())) / 100


def measure_labels(
    task: Task, out: Path, cost: GroupedCost, request: Request, run: Run = run_here, progress: Progress = SILENT
) -> int:
    """Score architectures until `out` holds the requested count, or `all` there are; returns how many were new.

    Killed at any point and started again with the same arguments, it measures the same architectures: none is lost,
    none comes twice.

    Raises:
        RecordsError: if `out` was measured with something else.
        WeightsError, TrainingError: if weights, images or space do not fit together.
    """
    space = get_space(task.space)
    records = RecordsFile(out, space, task.identity())
    before, strategy = len(records.known), request.strategy
    if strategy == "all":
        if space.num_architectures > ENUMERABLE:
            raise TrainingError(
                f"{space.name} has {space.num_architectures:.3g} architectures; give a count instead of all"
            )
    elif strategy not in STRATEGIES:
        raise TrainingError(f"strategy is {strategy!r}; choose from all, {', '.join(STRATEGIES)}")
    labeller = Labeller(space, cost, request.seed)
    total = space.num_architectures if strategy == "all" else request.count
    with progress.stage("labelling", total) as stage:
        stage.step(before)
        while True:
            asked = _ask(labeller, request, records)
            if not asked:
                return len(records.known) - before
            # In a drawn order, so that what is known when it is stopped is no corner of the space.
            starts = np.random.default_rng(request.seed).permutation(np.arange(0, len(asked), CHUNK))
            chunks = [asked[start : start + CHUNK] for start in starts]
            for scores in run(task, chunks):
                records.append(scores)
                stage.step(len(scores), f"{100 * scores[-1][1]:.2f} %")


def _ask(labeller: Labeller, request: Request, records: RecordsFile) -> list[str]:
    """Encodings to be measured next, in the order of their tokens."""
    space, strategy, total = labeller.space, request.strategy, request.count
    nothing = np.zeros((0, len(space.decisions)), dtype=np.int64), np.zeros(0)
    if strategy == "active":
        known_ND, accuracy_N = records.tokens_and_accuracy()
        size = NUM_STRATIFIED - len(known_ND) if len(known_ND) < NUM_STRATIFIED else ROUND
        count = min(size, total - len(known_ND))
        proposals = labeller.propose(strategy, count, known_ND, accuracy_N) if count > 0 else []
        tokens_ND = np.array([p.tokens_D for p in proposals], dtype=np.int64).reshape(-1, len(space.decisions))
    elif strategy == "all":
        tokens_ND = space.assignments([d.name for d in space.decisions])
    else:
        # From nothing known, so that a run that was stopped goes on with the same ones.
        tokens_ND = np.stack([p.tokens_D for p in labeller.propose(strategy, total, *nothing)])
    encodings = [space.encode(tokens_D) for tokens_D in tokens_ND[np.lexsort(tokens_ND.T[::-1])]]
    return [encoding for encoding in encodings if encoding not in records.known]
