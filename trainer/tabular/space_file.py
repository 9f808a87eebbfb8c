"""A search space from a YAML file: read as text, checked whole, every complaint with the nearest right spelling.

    name: my-space
    decisions:
      stem: [conv3, conv7]
      op1: {options: [gcn, gat], active_if: {stem: [conv7]}, label: First operation}
    forbidden:
      - {stem: conv3, op1: gat}

YAML would turn `no` into false and `1e3` into a number; here every scalar stays the text that was written.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pnag.models.errors import SearchSpaceError
from pnag.models.space.metric import Metric
from pnag.models.space.registry import SPACES, get_space, space_names
from pnag.models.space.search_space import Decision, SearchSpace
from pnag.models.space.tabular import SEPARATOR, TableSpace, nearest, shown

SPACE_KEYS = ("name", "description", "decisions", "forbidden", "separator", "metric", "costs")
DECISION_KEYS = ("name", "options", "active_if", "label", "column")
OPTION_KEYS = ("label", "latency_ms", "params_m", "macs_m")
METRIC_KEYS = ("column", "name", "goal", "unit")
COST_KEYS = ("latency_ms", "params_m", "macs_m")
COST_UNITS = {"latency_ms": ("latency_ms", 1.0), "params_m": ("params", 1e6), "macs_m": ("macs", 1e6)}
SUFFIXES = (".yaml", ".yml")


def is_space_file(name: str) -> bool:
    """Whether `--space` names a file instead of a registered space."""
    return Path(name).suffix.lower() in SUFFIXES


def load_space(name: str) -> SearchSpace:
    """A search space by name, or from a YAML file.

    Raises:
        SearchSpaceError: saying what is wrong, and where in the file.
    """
    if is_space_file(name):
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
    document = _mapping(_parse_yaml(text, where), where, SPACE_KEYS)
    name = _text(document, "name", where)
    if name in SPACES:
        raise SearchSpaceError(f"{where}: name is {name!r}, a space that ships with pnag; choose another")
    if any(c in name for c in "|/\\") or name != name.strip():
        raise SearchSpaceError(f"{where}: name is {name!r}; it must not hold | / \\ or begin or end with a space")
    labels: dict[str, str] = {}
    costs: dict[str, dict[str, float]] = {}
    columns: dict[str, str] = {}
    decisions = [
        _decision(raw, f"{where}: {name_}", name_, labels, costs, columns)
        for name_, raw in _decisions(document.get("decisions"), where)
    ]
    _check_activity(decisions, where)
    for column, value in _mapping(document.get("costs", {}), f"{where}: costs", COST_KEYS).items():
        _add_cost(costs, "", column, value, f"{where}: costs")
    forbidden = _forbidden(document.get("forbidden", []), decisions, where)
    metric = _metric(document.get("metric"), where)
    try:
        space = TableSpace(
            name, decisions, forbidden=forbidden, separator=document.get("separator", SEPARATOR), columns=columns,
            labels=labels, option_costs=costs, metric=metric,
        )  # fmt: skip
    except SearchSpaceError as exc:
        raise SearchSpaceError(f"{where}: {exc}") from None
    _check_columns(space, where)
    _check_costs(space, where)
    _check_reachable(space, where)
    return space


# -- the pieces --------------------------------------------------------------------------------------------------------


def _decisions(raw: Any, where: str) -> list[tuple[str, Any]]:
    """(name, rest) of each decision; written as a mapping, or as a list of mappings with a name."""
    if isinstance(raw, dict) and raw:
        return list(raw.items())
    if isinstance(raw, list) and raw:
        named = []
        for number, entry in enumerate(raw, start=1):
            entry = _mapping(entry, f"{where}: decision {number}", DECISION_KEYS)
            named.append((_text(entry, "name", f"{where}: decision {number}"), entry))
        return named
    raise SearchSpaceError(f"{where}: decisions must be a mapping of decision -> options, with at least one decision")


def _decision(
    raw: Any, where: str, name: str, labels: dict[str, str], costs: dict[str, dict[str, float]], columns: dict[str, str]
) -> Decision:
    if not isinstance(raw, dict):
        raw = {"options": raw}
    raw = _mapping(raw, where, DECISION_KEYS)
    options = raw.get("options")
    if isinstance(options, dict):
        for option, details in options.items():
            key = f"{name}={option}"
            details = _mapping(details or {}, f"{where}: {option}", OPTION_KEYS)
            if "label" in details:
                labels[key] = _text(details, "label", f"{where}: {option}")
            for column in COST_UNITS.keys() & details.keys():
                _add_cost(costs, key, column, details[column], f"{where}: {option}")
        options = list(options)
    if not isinstance(options, list) or not options:
        raise SearchSpaceError(f"{where}: options must be a list with at least one option, as in [conv3, conv5]")
    bad = [o for o in options if not isinstance(o, str) or not o]
    if bad:
        raise SearchSpaceError(f"{where}: option {bad[0]!r} is not a plain word or number; write it as text")
    twice = [o for i, o in enumerate(options) if o in options[:i]]
    if twice:
        raise SearchSpaceError(f"{where}: option {twice[0]!r} is listed twice; drop one")
    if "label" in raw:
        labels[name] = _text(raw, "label", where)
    if "column" in raw:
        columns[name] = _text(raw, "column", where)
    active_if = {
        parent: tuple(_names(allowed, f"{where}: active_if: {parent}"))
        for parent, allowed in _mapping(raw.get("active_if", {}), f"{where}: active_if").items()
    }
    return Decision(name, tuple(options), active_if)


def _forbidden(raw: Any, decisions: list[Decision], where: str) -> list[dict[str, tuple[str, ...]]]:
    if not isinstance(raw, list):
        raise SearchSpaceError(f"{where}: forbidden must be a list of combinations, as in [{{op1: gat, op2: gat}}]")
    names = [d.name for d in decisions]
    rules = []
    for number, entry in enumerate(raw, start=1):
        place = f"{where}: forbidden {number}"
        entry = _mapping(entry, place)
        for name in entry:
            if name not in names:
                raise SearchSpaceError(
                    f"{place}: there is no decision {name!r}{nearest(name, names)}; choose from {shown(names)}"
                )
        rules.append({name: tuple(_names(options, f"{place}: {name}")) for name, options in entry.items()})
    return rules


def _metric(raw: Any, where: str) -> Metric | None:
    if raw is None:
        return None
    if isinstance(raw, str):
        raw = {"column": raw}
    raw = _mapping(raw, f"{where}: metric", METRIC_KEYS)
    column = _text(raw, "column", f"{where}: metric")
    # "maximize" is not a mistake.
    goal = str(raw.get("goal", "maximise")).replace("mize", "mise")
    try:
        metric = Metric.from_dict({**raw, "goal": goal})
    except SearchSpaceError as exc:
        raise SearchSpaceError(f"{where}: {exc}") from None
    if column in ("accuracy", "top1_percent"):
        if goal != "maximise":
            raise SearchSpaceError(f"{where}: metric: {column} is to be maximised; name the column otherwise")
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
    for column, costs in space.option_costs.items():
        missing = [
            f"{d.name}={o}" for d in space.decisions for o in d.options if any(k for k in costs) and
            f"{d.name}={o}" not in costs
        ]  # fmt: skip
        if missing:
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


def _mapping(raw: Any, where: str, known: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(raw, dict):
        what = "nothing" if raw is None else f"{raw!r:.60}"
        raise SearchSpaceError(f"{where}: expected `key: value` lines, got {what}")
    known = list(known)
    for key in raw:
        if known and key not in known:
            raise SearchSpaceError(f"{where}: unknown key {key!r}{nearest(key, known)}; choose from {shown(known)}")
    return raw


def _text(raw: Mapping[str, Any], key: str, where: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip():
        raise SearchSpaceError(f"{where}: {key} is {'missing' if value is None else repr(value)}; expected a text")
    return value


def _names(raw: Any, where: str) -> list[str]:
    """One option or a list of them."""
    names = [raw] if isinstance(raw, str) else raw
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise SearchSpaceError(f"{where}: expected an option or a list of options, got {raw!r:.60}")
    return names


def _add_cost(costs: dict[str, dict[str, float]], key: str, column: str, raw: Any, where: str) -> None:
    name, unit = COST_UNITS[column]
    try:
        value = float(raw)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value < 1e15:
        raise SearchSpaceError(f"{where}: {column} is {raw!r}; expected a number, at least 0")
    costs.setdefault(name, {})[key] = value * unit
