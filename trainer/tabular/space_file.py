"""A search space from a YAML file: read as text, checked whole, every complaint with the nearest right spelling.

    name: my-space
    decisions:
      stem: [conv3, conv7]
      op1: {options: [gcn, gat], active_if: {stem: [conv7]}, label: First operation}
    forbidden:
      - {stem: conv3, op1: gat}

YAML would turn `no` into false and `1e3` into a number; here every scalar stays the text that was written.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from pnag.models.errors import SearchSpaceError
from pnag.models.space.metric import Metric
from pnag.models.space.registry import SPACES, get_space, space_names
from pnag.models.space.search_space import Decision, SearchSpace
from pnag.models.space.tabular import SEPARATOR, TableSpace, nearest, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

COST_UNITS = {"latency_ms": ("latency_ms", 1.0), "params_m": ("params", 1e6), "macs_m": ("macs", 1e6)}
SUFFIXES = (".yaml", ".yml")

Text = Annotated[str, Field(pattern=r"\S")]
Cost = Annotated[float, Field(ge=0, lt=1e15)]
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda raw: [raw] if isinstance(raw, str) else raw), Field(min_length=1)
]
"""One option or a list of them."""


class Entry(BaseModel):
    """Lines of `key: value` whose keys are the fields."""

    @classmethod
    def long_form(cls, raw: Any) -> Any:
        """The entry with its keys, from what may be written in its place."""
        return raw

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, raw: Any) -> Any:
        """Name a key that is none, with the nearest right spelling."""
        entry, known = cls.long_form(raw), list(cls.model_fields)
        if not isinstance(entry, dict):
            raise ValueError(f"expected `key: value` lines, got {'nothing' if raw is None else f'{raw!r:.60}'}")
        for key in entry:
            if key not in known:
                raise ValueError(f"unknown key {key!r}{nearest(key, known)}; choose from {shown(known)}")
        return entry


class CostEntry(Entry):
    """Costs; those that are not given are unknown."""

    latency_ms: Cost | None = None
    params_m: Cost | None = None
    macs_m: Cost | None = None


class OptionEntry(CostEntry):
    """An option's name for people, and its costs; may be blank."""

    label: Text | None = None

    @classmethod
    def long_form(cls, raw: Any) -> Any:
        return {} if raw is None else raw


class DecisionEntry(Entry):
    """A decision; may be written as the list of its options."""

    name: Text | None = None
    options: dict[str, OptionEntry]
    active_if: dict[str, Names] = {}
    label: Text | None = None
    column: Text | None = None

    @classmethod
    def long_form(cls, raw: Any) -> Any:
        entry = raw if isinstance(raw, dict) else {"options": raw}
        options = entry.get("options")
        if "options" in entry and (not isinstance(options, dict | list) or not options):
            raise ValueError("options must be a list with at least one option, as in [conv3, conv5]")
        if isinstance(options, list):
            for number, option in enumerate(options):
                if not isinstance(option, str) or not option:
                    raise ValueError(f"option {option!r} is not a plain word or number; write it as text")
                if option in options[:number]:
                    raise ValueError(f"option {option!r} is listed twice; drop one")
            entry = entry | {"options": dict.fromkeys(options)}
        return entry


class MetricEntry(Entry):
    """The column that takes accuracy's place; may be written as its name."""

    column: Text
    name: Text | None = None
    goal: str = "maximise"
    unit: str = ""

    @classmethod
    def long_form(cls, raw: Any) -> Any:
        return {"column": raw} if isinstance(raw, str) else raw


class SpaceFile(Entry):
    """The whole file; its decisions may be written as a list of entries with a name."""

    name: Text
    description: str | None = None
    decisions: Annotated[dict[str, DecisionEntry], Field(min_length=1)]
    forbidden: list[dict[str, Names]] = []
    separator: str = SEPARATOR
    metric: MetricEntry | None = None
    costs: CostEntry = CostEntry()

    @classmethod
    def long_form(cls, raw: Any) -> Any:
        decisions = raw.get("decisions") if isinstance(raw, dict) else None
        if isinstance(decisions, list):
            names = [d.get("name") if isinstance(d, dict) else None for d in decisions]
            if not all(names) or len(set(names)) < len(names):
                raise ValueError(f"decisions must each have a name of its own, they have {names}")
            raw = raw | {"decisions": dict(zip(names, decisions, strict=True))}
        return raw


def load_space(name: str) -> SearchSpace:
    """A search space by name, or from a YAML file.

    Raises:
        SearchSpaceError: saying what is wrong, and where in the file.
    """
    if Path(name).suffix.lower() in SUFFIXES:
        return read_space(Path(name))
    if Path(name).is_file():
        raise SearchSpaceError(f"{name}: a search space file must end in .yaml")
    if name not in space_names():
        raise SearchSpaceError(
            f"unknown search space {name!r}{nearest(name, space_names())}; choose from {space_names()}, or name a "
            ".yaml file (`pnag init DIR` writes one to start from)"
        )
    return get_space(name)


def read_space(path: Path) -> TableSpace:
    """A table-only space from its file; raises as `load_space` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise SearchSpaceError(f"{path}: cannot be read ({exc.strerror}); `pnag init DIR` writes one") from None
    except UnicodeDecodeError:
        raise SearchSpaceError(f"{path}: is not UTF-8 text") from None
    return parse_space(text, path.name)


def parse_space(text: str, where: str = "space.yaml") -> TableSpace:
    """A table-only space from YAML text; raises as `load_space` does."""
    try:
        document = SpaceFile.model_validate(_parse_yaml(text, where))
    except ValidationError as exc:
        raise SearchSpaceError(f"{where}: {_sentence(exc.errors()[0])}") from None
    name = document.name
    if name in SPACES:
        raise SearchSpaceError(f"{where}: name is {name!r}, a space that ships with pnag; choose another")
    if any(c in name for c in "|/\\") or name != name.strip():
        raise SearchSpaceError(f"{where}: name is {name!r}; it must not hold | / \\ or begin or end with a space")
    decisions = [Decision(n, tuple(entry.options), entry.active_if) for n, entry in document.decisions.items()]
    _check_activity(decisions, where)
    _check_rules(document.forbidden, decisions, where)
    labels = {n: entry.label for n, entry in document.decisions.items() if entry.label}
    costs: dict[str, dict[str, float]] = {}
    options = {f"{n}={o}": details for n, entry in document.decisions.items() for o, details in entry.options.items()}
    labels |= {key: details.label for key, details in options.items() if details.label}
    for key, given in {**options, "": document.costs}.items():
        for column, (cost, unit) in COST_UNITS.items():
            if (value := getattr(given, column)) is not None:
                costs.setdefault(cost, {})[key] = value * unit
    columns = {n: entry.column for n, entry in document.decisions.items() if entry.column}
    try:
        space = TableSpace(
            name, decisions, forbidden=document.forbidden, separator=document.separator, columns=columns,
            labels=labels, option_costs=costs, metric=_metric(document.metric),
        )  # fmt: skip
    except SearchSpaceError as exc:
        raise SearchSpaceError(f"{where}: {exc}") from None
    _check_columns(space, where)
    _check_costs(space, where)
    _check_reachable(space, where)
    return space


# -- the pieces --------------------------------------------------------------------------------------------------------


def _sentence(error: "ErrorDetails") -> str:
    """A complaint of pydantic's in our words: where in the file, what came, what is expected."""
    place = ": ".join(str(part + 1) if isinstance(part, int) else part for part in error["loc"])
    kind, value = error["type"], error["input"]
    if kind == "value_error":
        return f"{place}{': ' if place else ''}{error['ctx']['error']}"
    if kind == "missing" or value is None:
        return f"{place} is missing; it is needed"
    expected = {
        "dict_type": "`key: value` lines",
        "list_type": "a list of combinations, as in [{op1: gat, op2: gat}]",
        "string_pattern_mismatch": "a text",
        "string_type": "a text",
        "tuple_type": "an option or a list of options",
        "too_short": "at least one",
    }.get(kind, "a number, at least 0")
    return f"{place} is {value!r:.60}; expected {expected}"


def _check_rules(rules: Sequence[Mapping[str, object]], decisions: Sequence[Decision], where: str) -> None:
    names = [d.name for d in decisions]
    for number, rule in enumerate(rules, start=1):
        for name in rule:
            if name not in names:
                raise SearchSpaceError(
                    f"{where}: forbidden {number}: there is no decision {name!r}{nearest(name, names)}; choose from "
                    f"{shown(names)}"
                )


def _metric(entry: MetricEntry | None) -> Metric | None:
    if entry is None:
        return None
    goal = entry.goal.replace("mize", "mise")  # "maximize" is not a mistake
    metric = Metric.from_dict({**entry.model_dump(), "goal": goal})
    if metric.column in ("accuracy", "top1_percent"):
        if goal != "maximise":
            raise SearchSpaceError(f"metric: {metric.column} is to be maximised; name the column otherwise")
        return None
    return metric


def _check_activity(decisions: list[Decision], where: str) -> None:
    """Names, options and order of `active_if`; a cycle is named as one."""
    by_name = {d.name: d for d in decisions}
    for decision in decisions:
        for parent, options in decision.active_if.items():
            if parent not in by_name:
                raise SearchSpaceError(
                    f"{where}: {decision.name}: active_if names {parent!r}{nearest(parent, by_name)}, which is no "
                    f"decision; choose from {shown(by_name)}"
                )
            for option in options:
                if option not in by_name[parent].options:
                    known = [str(o) for o in by_name[parent].options]
                    raise SearchSpaceError(
                        f"{where}: {decision.name}: active_if: {parent} has no option {option!r}"
                        f"{nearest(str(option), known)}; choose from {shown(known)}"
                    )
    for decision in decisions:
        path = _cycle(decision.name, by_name, [])
        if path:
            raise SearchSpaceError(f"{where}: active_if goes in a circle: {' -> '.join(path)}; break it somewhere")
    names = list(by_name)
    for decision in decisions:
        for parent in decision.active_if:
            if names.index(parent) > names.index(decision.name):
                raise SearchSpaceError(
                    f"{where}: {decision.name} depends on {parent}, which comes later; list {parent} before it"
                )


def _cycle(name: str, by_name: Mapping[str, Decision], path: list[str]) -> list[str]:
    if name in path:
        return [*path[path.index(name) :], name]
    return next((found for p in by_name[name].active_if if (found := _cycle(p, by_name, [*path, name]))), [])


def _check_columns(space: TableSpace, where: str) -> None:
    seen: dict[str, str] = {}
    for name, column in space.columns.items():
        if column in seen:
            raise SearchSpaceError(f"{where}: {name} and {seen[column]} both read the column {column!r}")
        if column in ("architecture", "accuracy", "top1_percent", *COST_UNITS, "params", "macs"):
            raise SearchSpaceError(
                f"{where}: the column {column!r} of {name} has a meaning of its own in records; rename the decision, "
                "or give it another `column`"
            )
        seen[column] = name


def _check_costs(space: TableSpace, where: str) -> None:
    """Costs by option are all there or not at all: a gap is an error, never a zero."""
    options = [f"{d.name}={o}" for d in space.decisions for o in d.options]
    for column, costs in space.option_costs.items():
        missing = [option for option in options if option not in costs]
        if missing and costs.keys() - {""}:
            raise SearchSpaceError(
                f"{where}: {column} is given for some options but not for {missing[0]} "
                f"({len(missing)} such); give it for every option (0 where it is free), or for none"
            )


def _check_reachable(space: TableSpace, where: str) -> None:
    """Every decision counts in some architecture, and every option can be chosen."""
    for index, decision in enumerate(space.decisions):
        closure = sorted(space.ancestors([index]))
        rows = space.assignments([space.decisions[i].name for i in closure])
        if not (rows[:, closure.index(index)] >= 0).any():
            conditions = " and ".join(f"{p} in {list(o)}" for p, o in decision.active_if.items())
            raise SearchSpaceError(
                f"{where}: {decision.name} can never be active: no combination has {conditions}; change its active_if"
            )
    everything = space.all_architectures()
    if everything is None:
        return
    if not len(everything):
        raise SearchSpaceError(f"{where}: forbidden rules out every combination; loosen a rule")
    for index, decision in enumerate(space.decisions):
        used = set(everything[:, index].tolist())
        for token, option in enumerate(decision.options):
            if token not in used:
                raise SearchSpaceError(
                    f"{where}: {decision.name} = {option!r} can never be chosen: forbidden rules out every combination "
                    "with it; drop the option or loosen a rule"
                )


# -- YAML --------------------------------------------------------------------------------------------------------------


def _parse_yaml(text: str, where: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain text for every scalar, and no key twice."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise SearchSpaceError(f"{where}: line {line}: the key {key!r} is not a plain word or number")
            if key in result:
                raise SearchSpaceError(f"{where}: line {line}: {key!r} is listed twice; drop or rename one")
            result[key] = loader.construct_object(value_node, deep=True)
        return result

    def scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str | None:
        value = str(loader.construct_scalar(node))
        return None if value == "" and node.style is None else value

    Loader.yaml_implicit_resolvers = {}
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_constructor("tag:yaml.org,2002:str", scalar)
    try:
        return yaml.load(text, Loader)  # noqa: S506 (a SafeLoader underneath)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise SearchSpaceError(f"{where}:{line} not valid YAML ({getattr(exc, 'problem', None) or exc})") from None
