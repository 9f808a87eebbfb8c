"""Explanations as JSON bodies and as text."""

from collections.abc import Iterator
from typing import NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from pnag.models.answer.explain import Explanation, Step, habits_by_part
from pnag.models.bundle.bundle import Bundle
from pnag.models.space.search_space import SearchSpace
from pnag.service.contract.bodies import answer_body, candidate_body
from pnag.service.contract.schemas import AnswerBody, CandidateBody

_ANSWER = with_config(ConfigDict(use_attribute_docstrings=True))


@_ANSWER
class StepBody(TypedDict):
    """The next network up or down the front."""

    candidate: CandidateBody
    extra_latency_ms: float
    """Added to `latency_upper_ms`; negative on the way down."""
    extra_top1_percent: float


@_ANSWER
class DifferenceBody(TypedDict):
    """A decision in which an alternative differs; null = inactive."""

    decision: str
    answer: int | str | None
    alternative: int | str | None


@_ANSWER
class ExplainedAlternative(CandidateBody):
    """A network that fits too."""

    differences: list[DifferenceBody]


@_ANSWER
class HabitBody(TypedDict):
    """What the front's networks do about one decision, where it is active."""

    part: str
    decision: str
    active_share: float
    always: NotRequired[int | str]
    """The option that all of them use."""
    never: list[int | str]
    """Options that none of them uses."""


@_ANSWER
class NoveltyBody(TypedDict):
    """How far the answer is from what was measured."""

    nearest_encoding: str
    num_differences: int
    usual_differences: int
    """At most so many separate 95 % of the records from their nearest other record."""
    is_extrapolation: bool
    """Farther than that: take the predicted accuracy with care."""


@_ANSWER
class ExplainBody(TypedDict):
    """An answer, and why it is that one."""

    answer: AnswerBody
    next_step: StepBody | None
    """The cheapest network that is at least .1 % better; null at the top of the front."""
    step_down: StepBody | None
    """The best network that is at least .1 % worse; null at its bottom."""
    alternatives: list[ExplainedAlternative]
    front_habits: list[HabitBody]
    novelty: NoveltyBody | None


def explain_body(bundle: Bundle, explanation: Explanation) -> ExplainBody:
    """The whole explanation."""
    space = bundle.space
    answer = answer_body(bundle, explanation.answer)
    answer["alternatives"] = []  # they come with their differences below
    novelty = explanation.novelty
    habits: list[HabitBody] = []
    for habit in explanation.habits:
        entry: HabitBody = {
            "part": habit.part,
            "decision": habit.decision,
            "active_share": round(habit.active_share, 4),
            "never": list(habit.never),
        }
        if habit.always is not None:
            entry["always"] = habit.always
        habits.append(entry)
    return {
        "answer": answer,
        "next_step": _step_body(space, explanation.next_step),
        "step_down": _step_body(space, explanation.step_down),
        "alternatives": [
            {
                **candidate_body(space, alternative.candidate),
                "differences": [
                    {"decision": d.decision, "answer": d.here, "alternative": d.there} for d in alternative.differences
                ],
            }
            for alternative in explanation.alternatives
        ],
        "front_habits": habits,
        "novelty": None
        if novelty is None
        else {
            "nearest_encoding": novelty.nearest_encoding,
            "num_differences": novelty.num_differences,
            "usual_differences": novelty.usual_differences,
            "is_extrapolation": novelty.is_extrapolation,
        },
    }


def explain_lines(bundle: Bundle, explanation: Explanation) -> Iterator[str]:
    """The explanation as lines for people."""
    best = explanation.answer.best
    limit = {"none": "no limit binds: this is the best network of the whole front"}
    yield best.architecture.encoding
    yield f"  {_figures(best.predicted.accuracy, best.predicted.latency_upper_ms)}; " + limit.get(
        explanation.answer.binding, f"the limit on {explanation.answer.binding} binds"
    )
    for step, what in ((explanation.next_step, "better"), (explanation.step_down, "worse")):
        if step is None:
            yield f"nothing on the front is .1 % {what}"
            continue
        yield (
            f"{abs(step.accuracy) * 100:.2f} % {what} for {step.latency_ms:+.3g} ms: "
            f"{step.candidate.architecture.encoding}"
        )
    for alternative in explanation.alternatives:
        predicted = alternative.candidate.predicted
        changes = ", ".join(
            f"{d.decision} {_option(d.here)} -> {_option(d.there)}" for d in alternative.differences[:6]
        )
        more = len(alternative.differences) - 6
        yield f"also fits: {_figures(predicted.accuracy, predicted.latency_upper_ms)}: {changes}" + (
            f" and {more} more" if more > 0 else ""
        )
    for part, habits in habits_by_part(explanation.habits).items():
        told = [f"{h.decision.removeprefix(part + '.')} always {h.always}" for h in habits if h.always is not None]
        told += [
            f"{h.decision.removeprefix(part + '.')} never {', '.join(map(str, h.never))}"
            for h in habits
            if h.always is None and h.never and h.active_share > 0
        ]
        if told:
            yield f"the front's {part}: " + "; ".join(told)
    novelty = explanation.novelty
    if novelty is not None:
        yield (
            f"the nearest of {len(bundle.known)} records differs in {novelty.num_differences} decisions "
            f"(records from each other: up to {novelty.usual_differences})"
            + ("; this is an extrapolation: measure this network before you rely on it" * novelty.is_extrapolation)
        )


def _step_body(space: SearchSpace, step: Step | None) -> StepBody | None:
    if step is None:
        return None
    return {
        "candidate": candidate_body(space, step.candidate),
        "extra_latency_ms": round(step.latency_ms, 4),
        "extra_top1_percent": round(step.accuracy * 100, 4),
    }


def _figures(accuracy: float, latency_upper_ms: float) -> str:
    return f"{accuracy * 100:.2f} % within {latency_upper_ms:.4g} ms"


def _option(option: int | str | None) -> str:
    return "(inactive)" if option is None else str(option)
