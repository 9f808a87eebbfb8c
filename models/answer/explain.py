"""Reasons for an answer: what binds, what a little more would cost, what the networks of the front have in common.

Axis letters: N = networks, F = networks on the front, R = training records, D = decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pnag.models.answer.question import Answer, Candidate, Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.space.search_space import INACTIVE, Option, Tokens

STEP = 0.001
"""Accuracy (a fraction) that the next step is priced for: 0.1 %."""
NUM_ALTERNATIVES = 3
USUAL_SHARE = 0.95
"""An answer farther from the records than this share of them from each other is an extrapolation."""
_MAX_SPACING = 500


@dataclass(frozen=True)
class Step:
    """The next network up or down the front.

    Attributes:
        candidate: the network.
        latency_ms, accuracy: what it adds to the answer's (upper) latency and accuracy; negative on the way down.
    """

    candidate: Candidate
    latency_ms: float
    accuracy: float


@dataclass(frozen=True)
class Difference:
    """One decision that two networks answer differently; None = inactive."""

    decision: str
    here: Option | None
    there: Option | None


@dataclass(frozen=True)
class Alternative:
    """A network that fits too, and how it differs from the answer."""

    candidate: Candidate
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Habit:
    """Options of one decision that the front's networks use, where it is active.

    Attributes:
        part: of the network, e.g. the unit: the decision's name up to its first dot.
        active_share: of the front's networks in which it counts.
        always: the option that all of them use, None if they differ.
        never: options that none of them uses.
    """

    part: str
    decision: str
    active_share: float
    always: Option | None
    never: tuple[Option, ...]


@dataclass(frozen=True)
class Novelty:
    """Distance of the answer from the records that the evaluator was trained on.

    Attributes:
        nearest_encoding: the record with the fewest differences.
        num_differences: decisions in which it differs from the answer.
        usual_differences: at most so many separate most records from their nearest other record.
        is_extrapolation: whether the answer is farther away than that.
    """

    nearest_encoding: str
    num_differences: int
    usual_differences: int
    is_extrapolation: bool


@dataclass(frozen=True)
class Explanation:
    """One answer with its reasons.

    Attributes:
        answer: what `generate` says.
        next_step: the cheapest network of the front that is at least STEP better; None if there is none.
        step_down: the most accurate one that is at least STEP worse; None if there is none.
        alternatives: the next best that fit, most accurate first.
        novelty: None if the bundle lists no records.
    """

    answer: Answer
    next_step: Step | None
    step_down: Step | None
    alternatives: tuple[Alternative, ...]
    habits: tuple[Habit, ...]
    novelty: Novelty | None


class Explainer:
    """Explains the answers of one loaded bundle; what all answers share is worked out once."""

    def __init__(self, generator: OnnxGenerator) -> None:
        self.generator = generator
        self._space = generator.bundle.space

    def explain(self, query: Query) -> Explanation:
        """Answer a query and say why.

        Raises:
            BudgetError: as `OnnxGenerator.generate` does.
        """
        count = max(query.num_alternatives, NUM_ALTERNATIVES)
        answer = self.generator.generate(Query(query.budget_ms, query.limits, query.coverage, count))
        best = self._space.decode(answer.best.architecture.encoding)
        alternatives = tuple(
            Alternative(other, self.differences(best, self._space.decode(other.architecture.encoding)))
            for other in answer.alternatives
        )
        front = self.generator.pareto_front(coverage=query.coverage)
        accuracy = answer.best.predicted.accuracy
        above = [c for c in front if c.predicted.accuracy >= accuracy + STEP]
        below = [c for c in front if c.predicted.accuracy <= accuracy - STEP]
        return Explanation(
            answer=answer,
            next_step=_step(answer.best, min(above, key=_upper_ms)) if above else None,
            step_down=_step(answer.best, max(below, key=lambda c: c.predicted.accuracy)) if below else None,
            alternatives=alternatives,
            habits=self.habits,
            novelty=self.novelty(best),
        )

    def differences(self, here_D: Tokens, there_D: Tokens) -> tuple[Difference, ...]:
        """Decisions in which two networks differ."""
        return tuple(
            Difference(
                decision.name,
                None if here_D[i] == INACTIVE else decision.options[here_D[i]],
                None if there_D[i] == INACTIVE else decision.options[there_D[i]],
            )
            for i, decision in enumerate(self._space.decisions)
            if here_D[i] != there_D[i]
        )

    @cached_property
    def habits(self) -> tuple[Habit, ...]:
        """Options that the front always or never uses, decision by decision; those with one option are left out."""
        front_FD = self.generator.bundle.front_FD
        habits = []
        for index, decision in enumerate(self._space.decisions):
            if len(decision.options) < 2:
                continue
            chosen_F = front_FD[:, index][front_FD[:, index] != INACTIVE]
            counts = np.bincount(chosen_F, minlength=len(decision.options))
            used = np.flatnonzero(counts)
            habits.append(
                Habit(
                    part=decision.name.partition(".")[0],
                    decision=decision.name,
                    active_share=len(chosen_F) / len(front_FD),
                    always=decision.options[used[0]] if len(used) == 1 else None,
                    never=tuple(o for o, n in zip(decision.options, counts, strict=True) if n == 0),
                )
            )
        return tuple(habits)

    def novelty(self, tokens_D: Tokens) -> Novelty | None:
        """Distance of a network to the records that the evaluator was trained on; None if the bundle lists none."""
        known_RD = self._known_RD
        if known_RD is None:
            return None
        distance_R = np.sum(known_RD != tokens_D, axis=1)
        nearest = int(np.argmin(distance_R))
        return Novelty(
            nearest_encoding=self.generator.bundle.known[nearest].encoding,
            num_differences=int(distance_R[nearest]),
            usual_differences=self._usual_differences,
            is_extrapolation=bool(distance_R[nearest] > self._usual_differences),
        )

    @cached_property
    def _known_RD(self) -> Tokens | None:  # noqa: N802 (the letters name the axes)
        known = self.generator.bundle.known
        return np.stack([self._space.decode(record.encoding) for record in known]) if known else None

    @cached_property
    def _usual_differences(self) -> int:
        """Differences of a record and its nearest other one, at the USUAL_SHARE quantile."""
        assert self._known_RD is not None
        count = len(self._known_RD)
        if count < 2:
            return 0
        asked = np.random.default_rng(0).permutation(count)[:_MAX_SPACING]
        nearest = []
        for row in asked:
            distance_R = np.sum(self._known_RD != self._known_RD[row], axis=1)
            distance_R[row] = len(self._space.decisions) + 1
            nearest.append(int(distance_R.min()))
        return int(np.quantile(nearest, USUAL_SHARE, method="higher"))


def habits_by_part(habits: tuple[Habit, ...]) -> Mapping[str, list[Habit]]:
    """Habits grouped by the part of the network they are about, in its order."""
    parts: dict[str, list[Habit]] = {}
    for habit in habits:
        parts.setdefault(habit.part, []).append(habit)
    return parts


def _step(here: Candidate, there: Candidate) -> Step:
    return Step(there, _upper_ms(there) - _upper_ms(here), there.predicted.accuracy - here.predicted.accuracy)


def _upper_ms(candidate: Candidate) -> float:
    return candidate.predicted.latency_upper_ms
