"""Bodies of requests and answers, as the OpenAPI document shows them.

Requests are checked models: unknown fields, numbers as text and infinities are refused. Answers are typed dictionaries:
mypy checks that they are built whole, and nothing is checked again at run time.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, with_config
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

_REQUEST = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
_ANSWER = with_config(ConfigDict(use_attribute_docstrings=True))

SMALLEST_BUDGET_MS = 0.001
Budget = Annotated[float, Field(ge=SMALLEST_BUDGET_MS, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Coverage = Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)]
Unset = SkipJsonSchema[None]
"""Of a query or header: may be left out, but cannot be sent as null."""
BundleName = Annotated[str, Field(min_length=1, max_length=200)]

WHOLE = BeforeValidator(lambda value: int(value) if _is_whole_float(value) else value)
"""JSON has one kind of number: 2.0 is as whole as 2."""

MAX_ALTERNATIVES = 20


def _is_whole_float(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


# -- requests --------------------------------------------------------------------------------------------------------


class LimitsBody(BaseModel):
    """What the network must not exceed beside the budget."""

    model_config = _REQUEST

    macs_m: Positive | None = None
    """Millions of multiply-accumulates for one image."""
    params_m: Positive | None = None
    """Millions of parameters."""
    size_mb: Positive | None = None
    """Megabytes (1e6 bytes) of weights at the precision of the device's latency table."""
    peak_memory_mb: Positive | None = None
    """Megabytes of activations alive at the worst moment, for one image."""


class Conditions(BaseModel):
    """What must hold beside the budget, and who answers."""

    model_config = _REQUEST

    bundle: BundleName | None = None
    """Which bundle answers: a name, or `name@version`. May be left out where one bundle is loaded."""
    limits: LimitsBody | None = None
    coverage: Coverage | None = None
    """How likely the measured latency keeps the budget. Left out: what the bundle promises. 0.5: no safety margin."""
    num_alternatives: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES), WHOLE] = 0
    """Further networks that fit, the next most accurate first."""


class GenerateRequest(Conditions):
    """A budget, and optionally what else must hold."""

    budget_ms: Budget = Field(examples=[20])
    """Latency budget in ms on the bundle's device; rounded down to 3 decimals."""


class GenerateQuery(BaseModel):
    """The same budget for those who type: `curl -X POST 'localhost:8000/generate?budget_ms=20'`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    budget_ms: Budget | Unset = None
    """Latency budget in ms, where the request has no body."""
    bundle: BundleName | Unset = None
    """Which bundle answers, where the request has no body."""


class BatchRequest(Conditions):
    """Several budgets under the same conditions."""

    budgets_ms: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=1, examples=[[15, 20, 25]])
    """Latency budgets in ms. One that has no answer becomes a problem in its place; the others are answered."""


class PredictRequest(BaseModel):
    """One encoding or several."""

    model_config = _REQUEST

    encoding: Annotated[str, Field(max_length=1000)] | None = None
    encodings: list[Annotated[str, Field(max_length=1000)]] | None = Field(default=None, min_length=1)
    bundle: BundleName | None = None
    """Which bundle predicts: a name, or `name@version`."""
    coverage: Coverage | None = None
    """Of `latency_upper_ms`. Left out: what the bundle promises."""


class FrontQuery(BaseModel):
    """Which part of the front."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    bundle: BundleName | Unset = None
    """Whose front: a name, or `name@version`."""
    min_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Unset = None
    """Leave out networks with a smaller `latency_upper_ms`."""
    max_ms: Positive | Unset = None
    """Leave out networks with a larger `latency_upper_ms`."""
    points: Annotated[int, Field(ge=1)] | Unset = None
    """At most this many, spread evenly."""
    coverage: Coverage | Unset = None
    """Of `latency_upper_ms`. Left out: what the bundle promises."""


# -- answers ---------------------------------------------------------------------------------------------------------


@_ANSWER
class BundleRef(TypedDict):
    """Which bundle answered."""

    name: str
    version: str


class ArchitectureBody(TypedDict):
    """A network. Beside these fields come the readable ones of its search space."""

    id: str
    space: str
    encoding: str
    depths: NotRequired[list[int]]
    kernel_sizes: NotRequired[list[list[int]]]
    expand_ratios: NotRequired[list[list[int]]]
    resolution: NotRequired[int]
    stages: NotRequired[list[list[str]]]
    choices: NotRequired[dict[str, str | int]]


@_ANSWER
class MetricBody(TypedDict):
    """A predicted metric that stands for accuracy, in its own unit."""

    name: str
    unit: str
    goal: str
    """maximise or minimise."""
    value: float
    interval: list[float] | None
    """Lower and upper end at `interval_coverage`."""


@_ANSWER
class PredictedBody(TypedDict):
    """What the bundle expects of a network on its device."""

    top1_percent: float
    """Where the bundle has a `metric` of its own, a score that only says which network is better."""
    top1_interval_percent: list[float] | None
    """Lower and upper end; null where the evaluator has no calibrated interval."""
    interval_coverage: float | None
    """How often the true accuracy lies in that interval."""
    latency_ms: float
    """The plain prediction."""
    latency_upper_ms: float
    """The measured latency stays below this with probability `latency_coverage`; this is what fits the budget."""
    latency_coverage: float
    macs_m: float | None
    """Null, as the three sizes below, where nothing is known of it: some spaces come as a table of measurements."""
    params_m: float | None
    size_mb: float | None
    peak_memory_mb: float | None
    metric: NotRequired[MetricBody]
    """Only of bundles whose records measure something other than accuracy."""


@_ANSWER
class CandidateBody(TypedDict):
    """A network with its prediction."""

    architecture: ArchitectureBody
    predicted: PredictedBody


class Links(TypedDict):
    """Where to go from here."""

    self: str
    model: NotRequired[str]


@_ANSWER
class AnswerBody(TypedDict):
    """The best network found within a budget."""

    budget_ms: float
    """The budget answered for: the request's, rounded down to 3 decimals."""
    bundle: BundleRef
    device: str
    architecture: ArchitectureBody
    predicted: PredictedBody
    binding: Literal["latency", "macs", "params", "size", "peak_memory", "none"]
    """The limit that is nearest to being reached; none if the best network of all fits."""
    source: Literal["generator", "front"]
    """Whether the answer was sampled for this budget, or only the front found in training has a network as good."""
    alternatives: list[CandidateBody]
    links: Links


@_ANSWER
class FieldError(TypedDict):
    """One thing wrong with a request."""

    field: str
    """Where, e.g. `limits.macs_m`; empty for the request as a whole."""
    message: str


@_ANSWER
class ProblemBody(TypedDict):
    """Why there is no answer (RFC 9457)."""

    type: str
    """A stable name to act on: `urn:pnag:problem:<code>`; docs/service.md lists them."""
    title: str
    status: int
    detail: str
    request_id: NotRequired[str]
    error: NotRequired[str]
    """Of `/v2`: the detail, where clients of that protocol look."""
    errors: NotRequired[list[FieldError]]
    smallest_feasible_ms: NotRequired[float | None]
    """Of an infeasible budget: the smallest with an answer; null where another limit rules out every network."""
    architecture: NotRequired[ArchitectureBody]
    """Of an infeasible budget: the network that reaches it."""


@_ANSWER
class BatchBody(TypedDict):
    """An answer or a problem for each budget, in the order asked: an item with `status` is a problem."""

    results: list[AnswerBody | ProblemBody]
    num_answered: int
    num_problems: int


@_ANSWER
class PredictOneBody(CandidateBody):
    """The answer to `encoding`."""

    bundle: BundleRef
    device: str


@_ANSWER
class PredictManyBody(TypedDict):
    """The answer to `encodings`: one candidate for each, in the order asked."""

    bundle: BundleRef
    device: str
    results: list[CandidateBody]


@_ANSWER
class FrontBody(TypedDict):
    """The Pareto front by rising latency: no network of the bundle is known to be both faster and more accurate."""

    bundle: BundleRef
    device: str
    latency_coverage: float
    points: list[CandidateBody]


@_ANSWER
class ArchitectureAnswer(CandidateBody):
    """A known network with its prediction."""

    bundle: BundleRef
    device: str
    links: Links


@_ANSWER
class BundleBody(TypedDict):
    """One loaded bundle."""

    name: str
    version: str
    digest: str
    """sha256 of its manifest: equal digests answer alike."""
    is_default: bool
    """Whether it answers requests that name no version of it."""
    search_space: str
    device: dict[str, str | int | None]
    smallest_feasible_ms: float
    largest_useful_ms: float
    """A larger budget gets the same network."""
    coverage: float
    """What `latency_upper_ms` promises unless a request says otherwise."""
    table_check: dict[str, float | int | None] | None
    """How far the latency table was off on measured networks."""
    table_measured_at: str | None
    table_age_days: float | None
    created_at: str | None
    accuracy: dict[str, object]
    """Data set, metric and source of the accuracies."""
    metrics: dict[str, object]
    """As measured in training; see the bundle's documentation."""
    has_weights: bool


class BundlesBody(TypedDict):
    """Every loaded bundle."""

    bundles: list[BundleBody]


@_ANSWER
class DecisionBody(TypedDict):
    """One categorical choice."""

    name: str
    options: list[int | str]
    active_if: NotRequired[dict[str, list[int | str]]]
    """Earlier decisions, and the options under which this one counts."""


@_ANSWER
class SearchSpaceBody(TypedDict):
    """What a network of the space decides."""

    name: str
    num_architectures: str
    """Exact, as text: it does not fit a JSON number."""
    decisions: list[DecisionBody]


class StatusBody(TypedDict):
    """Health."""

    status: str


@_ANSWER
class ReloadedBody(TypedDict):
    """What a reload did, by folder."""

    loaded: list[str]
    removed: list[str]
    refused: dict[str, str]
    """Why a folder's bundle is not served; where an older one was served from it, that one still is."""
