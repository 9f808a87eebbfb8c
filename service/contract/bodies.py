"""Bodies of answers, made from what the runtime says: fractions become percent, units get their names.

The only place where values are converted. Nothing is rounded that a client could miss: 4 decimals of a percent and of
a millisecond, all digits of MACs and parameters.
"""

from typing import cast
from weakref import WeakKeyDictionary

import orjson

from pnag.models.answer.question import Answer, Candidate, Prediction
from pnag.models.answer.recent import Recent
from pnag.models.bundle.bundle import Bundle
from pnag.models.space.search_space import Architecture, SearchSpace
from pnag.service.contract.schemas import AnswerBody, ArchitectureBody, BundleRef, CandidateBody, Links, PredictedBody

REMEMBERED_BODIES = 4000
"""Per search space; 1.7 kB each for an OFA network."""

_BODIES: WeakKeyDictionary[SearchSpace, Recent[str, ArchitectureBody]] = WeakKeyDictionary()


def to_json(body: object) -> bytes:
    """JSON bytes of a body; numpy numbers included."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def architecture_body(space: SearchSpace, architecture: Architecture) -> ArchitectureBody:
    """A network by id, encoding, and the fields its space finds readable; whoever asks next gets the same object."""
    bodies = _BODIES.get(space) or _BODIES.setdefault(space, Recent(REMEMBERED_BODIES))
    body = bodies.get(architecture.encoding)
    if body is None:
        body = cast(
            ArchitectureBody,
            {
                "id": architecture.id,
                "space": architecture.space,
                "encoding": architecture.encoding,
                **space.describe(architecture),
            },
        )
        bodies.put(architecture.encoding, body)
    return body


def predicted_body(predicted: Prediction) -> PredictedBody:
    """A prediction in percent, ms and millions."""
    interval = predicted.accuracy_interval
    body: PredictedBody = {
        "top1_percent": round(predicted.accuracy * 100, 4),
        "top1_interval_percent": [round(end * 100, 4) for end in interval] if interval else None,
        "interval_coverage": predicted.interval_coverage,
        "latency_ms": round(predicted.latency_ms, 4),
        # A value within a budget of 3 decimals stays within it when rounded to 4.
        "latency_upper_ms": round(predicted.latency_upper_ms, 4),
        "latency_coverage": predicted.latency_coverage,
        "macs_m": _millions(predicted.macs),
        "params_m": _millions(predicted.params),
        "size_mb": _millions(predicted.size_bytes),
        "peak_memory_mb": _millions(predicted.peak_memory_bytes),
    }
    if predicted.metric is not None:
        metric = predicted.metric
        body["metric"] = {
            "name": metric.name,
            "unit": metric.unit,
            "goal": metric.goal,
            "value": metric.value,
            "interval": list(metric.interval) if metric.interval else None,
        }
    return body


def candidate_body(space: SearchSpace, candidate: Candidate) -> CandidateBody:
    """A network and its prediction."""
    return {
        "architecture": architecture_body(space, candidate.architecture),
        "predicted": predicted_body(candidate.predicted),
    }


def bundle_ref(bundle: Bundle) -> BundleRef:
    """Name and version of the bundle that answered."""
    return {"name": bundle.name, "version": bundle.version}


def links(bundle: Bundle, architecture: Architecture) -> Links:
    """Addresses to look a network up again and, if the bundle has its weights, to fetch it."""
    here = f"/architectures/{architecture.id}"
    can_run = bundle.has_weights_of(architecture.encoding)
    return {"self": here, "model": f"{here}/model.onnx"} if can_run else {"self": here}


def answer_body(bundle: Bundle, answer: Answer) -> AnswerBody:
    """The answer to one budget."""
    space = bundle.space
    return cast(
        AnswerBody,
        {
            "budget_ms": answer.budget_ms,
            "bundle": bundle_ref(bundle),
            "device": bundle.latency_table.device.name,
            **candidate_body(space, answer.best),
            "binding": answer.binding,
            "source": answer.source,
            "alternatives": [candidate_body(space, candidate) for candidate in answer.alternatives],
            "links": links(bundle, answer.best.architecture),
        },
    )


def _millions(count: int | None) -> float | None:
    return None if count is None else count / 1e6
