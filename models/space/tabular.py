"""Spaces of named options without layers: the networks are known to their user alone, and their costs are measured.

Encoding: the chosen options in the order of the decisions, joined by the separator; nothing stands for an inactive
decision: `residual:gat:gcn::skip`. Options are text, always: `3` and `"3"` are one option.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError, SearchSpaceError
from pnag.models.space.layers import Layer
from pnag.models.space.metric import Metric
from pnag.models.space.search_space import INACTIVE, CostGroup, Decision, Option, SearchSpace, Tokens

KIND = "table"
SEPARATOR = ":"
MAX_OPTIONS = 250
"""Per decision: tokens are kept as bytes while searching."""
MAX_ENUMERATED = 200_000
"""Spaces and constraints of up to this many combinations are worked through whole."""

Rule = Mapping[str, tuple[str, ...]]
"""Decision -> options; forbidden when every decision it names has one of them."""


@dataclass(frozen=True)
class OptionLayer(Layer):
    """One option of one decision, as a latency table keys it. Its sizes are 0, and so are its MACs and parameters."""

    name: str = ""

    @cached_property
    def key(self) -> str:
        return self.name


class TableSpace(SearchSpace):
    """Decisions with named options, and combinations that are forbidden.

    Attributes:
        forbidden: rules that no architecture matches.
        columns: the records' column of each decision.
        labels: names for people, by decision and by `decision=option`.
        option_costs: latency_ms, params or macs by `decision=option`, and by "" for what every network has.
        metric: what stands for accuracy; None = accuracy itself.

    Raises:
        SearchSpaceError: if the decisions contradict themselves, or the rules leave nothing.
    """

    has_layers = False

    def __init__(
        self,
        name: str,
        decisions: Sequence[Decision],
        *,
        forbidden: Iterable[Rule] = (),
        separator: str = SEPARATOR,
        columns: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        option_costs: Mapping[str, Mapping[str, float]] | None = None,
        metric: Metric | None = None,
    ) -> None:
        groups = [CostGroup((d.name,), partial(_option_layers, d.name)) for d in decisions]
        super().__init__(name, decisions, groups)
        self.separator = separator
        self.forbidden = tuple({k: tuple(v) for k, v in rule.items()} for rule in forbidden)
        self.columns = {d.name: d.name for d in decisions} | dict(columns or {})
        self.labels = dict(labels or {})
        self.option_costs = {column: dict(costs) for column, costs in (option_costs or {}).items()}
        self.metric = metric
        self._check_table()
        self._rules = tuple(self._compile(rule) for rule in self.forbidden)

    # -- text --------------------------------------------------------------------------------------------------------

    def format_values(self, values: Sequence[Option | None]) -> str:
        return self.separator.join("" if value is None else str(value) for value in values)

    def parse_values(self, encoding: str) -> list[Option | None]:
        parts = encoding.strip().split(self.separator)
        if len(parts) != len(self.decisions):
            raise EncodingError(
                f"{self.name}: {encoding[:80]!r} has {len(parts)} parts between {self.separator!r}; expected "
                f"{len(self.decisions)}: {self.separator.join(d.name for d in self.decisions)}"
            )
        return [self.option(d, part) if part.strip() else None for d, part in zip(self.decisions, parts, strict=True)]

    def option(self, decision: Decision, text: str) -> str:
        """The option a text means: itself, or the one of the same numeric value (`3.0` for `3`).

        Raises:
            EncodingError: with the nearest spelling.
        """
        text = text.strip()
        found = self._spellings[decision.name].get(text)
        if found is None and (number := _number(text)) is not None:
            found = self._spellings[decision.name].get(number)
        if found is None:
            options = [str(o) for o in decision.options]
            raise EncodingError(
                f"{self.name}: {decision.name} is {text[:60]!r}{nearest(text, options)}; choose from {shown(options)}"
            )
        return found

    def depth_features(self, tokens_BD: Tokens) -> NDArray[np.float64]:
        """Active decisions; and of options that several decisions share, how many chose each: place often matters less.

        Shape [B, 1 + shared options].
        """
        columns = [np.sum(tokens_BD != INACTIVE, axis=1)]
        for indices, count in self._shared:
            chosen_BG = tokens_BD[:, indices]
            columns += [np.sum(chosen_BG == token, axis=1) for token in range(count)]
        return np.stack(columns, axis=1).astype(np.float64)

    # -- which combinations exist ------------------------------------------------------------------------------------

    def decode(self, encoding: str) -> Tokens:
        tokens_D = super().decode(encoding)
        self._refuse_forbidden(tokens_D[np.newaxis])
        return tokens_D

    def validate(self, tokens_BD: Tokens) -> None:
        super().validate(tokens_BD)
        self._refuse_forbidden(tokens_BD)

    def allowed(self, tokens_BD: Tokens) -> NDArray[np.bool_]:
        allowed_B = np.ones(len(tokens_BD), dtype=np.bool_)
        for rule in self._rules:
            matched_B = np.ones(len(tokens_BD), dtype=np.bool_)
            for index, tokens in rule:
                matched_B &= np.isin(tokens_BD[:, index], tokens)
            allowed_B &= ~matched_B
        return allowed_B

    def sample(self, count: int, rng: np.random.Generator) -> Tokens:
        kept: list[Tokens] = []
        missing = count
        for _ in range(200):
            drawn_BD = super().sample(max(2 * missing, 64), rng)
            drawn_BD = drawn_BD[self.allowed(drawn_BD)][:missing]
            kept.append(drawn_BD)
            missing -= len(drawn_BD)
            if missing <= 0:
                return np.concatenate(kept)
        found_BD = np.concatenate(kept)
        if not len(found_BD):
            raise SearchSpaceError(f"{self.name}: forbidden leaves (almost) no combination; none was found by chance")
        return found_BD[rng.integers(0, len(found_BD), count)]

    def all_architectures(self) -> Tokens | None:
        """Every architecture, shape [N, D]; None where there are more than MAX_ENUMERATED combinations."""
        if math.prod(len(d.options) for d in self.decisions) > MAX_ENUMERATED:
            return None
        tokens_ND = self.assignments([d.name for d in self.decisions])
        return tokens_ND[self.allowed(tokens_ND)]

    @cached_property
    def num_architectures(self) -> int:
        """Distinct networks; beyond MAX_ENUMERATED combinations those that are forbidden are counted too."""
        everything_ND = self.all_architectures() if self._rules else None
        if everything_ND is not None:
            return len(everything_ND)
        return self.count_combinations()

    # -- as a document -----------------------------------------------------------------------------------------------

    def restrict(self, options: Mapping[str, Sequence[Option]]) -> "TableSpace":
        super().restrict(options)  # refuses what does not exist
        kept = {d.name: tuple(o for o in d.options if o in options.get(d.name, d.options)) for d in self.decisions}
        decisions = [
            Decision(d.name, kept[d.name], {p: tuple(o for o in os if o in kept[p]) for p, os in d.active_if.items()})
            for d in self.decisions
        ]
        rules = [{n: tuple(o for o in os if o in kept[n]) for n, os in rule.items()} for rule in self.forbidden]
        return TableSpace(
            self.name, decisions, forbidden=[rule for rule in rules if all(rule.values())], separator=self.separator,
            columns=self.columns, labels=self.labels, option_costs=self.option_costs, metric=self.metric,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        document = super().to_dict() | {"kind": KIND, "separator": self.separator}
        if self.forbidden:
            document["forbidden"] = [{name: list(options) for name, options in rule.items()} for rule in self.forbidden]
        columns = {name: column for name, column in self.columns.items() if name != column}
        for name, value in (("columns", columns), ("labels", self.labels), ("option_costs", self.option_costs)):
            if value:
                document[name] = value
        if self.metric:
            document["metric"] = self.metric.to_dict()
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "TableSpace":
        """Undo `to_dict`.

        Raises:
            SearchSpaceError: if a field is missing or contradicts another.
        """
        try:
            decisions = [
                Decision(
                    str(d["name"]),
                    tuple(str(o) for o in d["options"]),
                    {str(p): tuple(str(o) for o in options) for p, options in d.get("active_if", {}).items()},
                )
                for d in document["decisions"]
            ]
            return cls(
                str(document["name"]), decisions, forbidden=document.get("forbidden", ()),
                separator=str(document.get("separator", SEPARATOR)), columns=document.get("columns"),
                labels=document.get("labels"), option_costs=document.get("option_costs"),
                metric=Metric.from_dict(document["metric"]) if document.get("metric") else None,
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as exc:
            raise SearchSpaceError(f"search space {document.get('name')!r}: not a table space ({exc!r})") from None

    # -- checks ------------------------------------------------------------------------------------------------------

    def _check_table(self) -> None:
        if not self.decisions:
            raise SearchSpaceError(f"{self.name}: has no decisions; give at least one with two options")
        if len(self.separator) != 1 or self.separator.isspace():
            raise SearchSpaceError(f"{self.name}: separator is {self.separator!r}; it must be one visible character")
        for decision in self.decisions:
            if len(decision.options) > MAX_OPTIONS:
                raise SearchSpaceError(
                    f"{self.name}: {decision.name} has {len(decision.options)} options; at most {MAX_OPTIONS}. "
                    "Split it into several decisions"
                )
            seen: dict[str, str] = {}
            for option in map(str, decision.options):
                if not option.strip() or option != option.strip() or self.separator in option or "\n" in option:
                    raise SearchSpaceError(
                        f"{self.name}: {decision.name} has the option {option!r}; an option must not be empty, hold "
                        f"the separator {self.separator!r} or begin or end with a space"
                    )
                number = _number(option)
                if number is not None and number in seen:
                    raise SearchSpaceError(
                        f"{self.name}: {decision.name} lists {seen[number]!r} and {option!r}, which are one number"
                    )
                if number is not None:
                    seen[number] = option
        for rule in self.forbidden:
            self._check_rule(rule)

    def _check_rule(self, rule: Rule) -> None:
        if not rule:
            raise SearchSpaceError(f"{self.name}: an empty rule forbids everything; name decisions and options")
        for name, options in rule.items():
            decision = self.decisions[self.index(name)]
            for option in options:
                if option not in decision.options:
                    raise SearchSpaceError(
                        f"{self.name}: forbidden names {name} = {option!r}"
                        f"{nearest(option, map(str, decision.options))}; choose from {shown(decision.options)}"
                    )

    def _compile(self, rule: Rule) -> tuple[tuple[int, NDArray[np.int64]], ...]:
        return tuple(
            (self.index(name), np.array([self.decisions[self.index(name)].options.index(o) for o in options]))
            for name, options in rule.items()
        )

    def _refuse_forbidden(self, tokens_BD: Tokens) -> None:
        if not self._rules:
            return
        allowed_B = self.allowed(tokens_BD)
        if not allowed_B.all():
            tokens_D = tokens_BD[int(np.argmin(allowed_B))]
            rule = next(
                rule
                for rule, compiled in zip(self.forbidden, self._rules, strict=True)
                if all(tokens_D[index] in tokens for index, tokens in compiled)
            )
            raise EncodingError(
                f"{self.name}: {self.format_values(self._values(tokens_D))} is forbidden: "
                + " and ".join(f"{name} in {list(options)}" for name, options in rule.items())
            )

    @cached_property
    def _shared(self) -> list[tuple[list[int], int]]:
        """Decisions with the same several options, and how many those are."""
        alike: dict[tuple[Option, ...], list[int]] = {}
        for index, decision in enumerate(self.decisions):
            alike.setdefault(decision.options, []).append(index)
        return [(indices, len(options)) for options, indices in alike.items() if len(indices) > 1 and len(options) > 1]

    @cached_property
    def _spellings(self) -> dict[str, dict[str, str]]:
        """Per decision: text, or number in one spelling -> option."""
        spellings = {}
        for decision in self.decisions:
            options = [str(o) for o in decision.options]
            by_number = {number: o for o in options if (number := _number(o)) is not None}
            spellings[decision.name] = by_number | {o: o for o in options}
        return spellings


def nearest(text: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where nothing is near."""
    known = list(known)
    by_lower = {k.lower(): k for k in reversed(known)}
    found = difflib.get_close_matches(text.lower(), list(by_lower), n=1, cutoff=0.6)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""


def shown(options: Iterable[Option], count: int = 12) -> str:
    """A list for a message, cut where it gets long."""
    texts = [str(o) for o in options]
    return ", ".join(texts[:count]) + (f", … ({len(texts)} in all)" if len(texts) > count else "")


def _option_layers(name: str, option: str | None) -> tuple[Layer, ...]:
    return () if option is None else (OptionLayer("option", 0, 0, 0, name=f"{name}={option}"),)


def _number(text: str) -> str | None:
    """A number in one spelling, so that `3`, `3.0` and `+3` compare equal; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    # Digit strings of codes (`00`, `000`) differ by length, not by value.
    is_code = len(text) > 1 and text.lstrip("+-").startswith("0") and "." not in text
    return None if is_code or not math.isfinite(value) or "_" in text else f"#{value!r}"
