"""Search spaces: categorical decisions, when each is active, and the layers they stand for.

Axis letters: B = architectures in a batch, D = decisions of the space. A token is an option's index, -1 where the
decision is inactive. Knows nothing of latency, accuracy or files.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.errors import EncodingError, SearchSpaceError
from pnag.models.space.layers import Layer

Tokens = NDArray[np.int64]
Option = int | str

INACTIVE = -1
"""The token of a decision that has no effect given earlier ones."""


@dataclass(frozen=True)
class Decision:
    """One categorical choice.

    `active_if` maps an earlier decision's name to the options under which this one counts; all must hold. An inactive
    parent makes the child inactive.
    """

    name: str
    options: tuple[Option, ...]
    active_if: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class CostGroup:
    """Layers that are determined by a few decisions; a network's layers are its groups' layers, in order.

    `build` takes one option value per decision, None where that decision is inactive. Two groups never decide the same
    layer, so any per-layer cost of a network is a sum over groups.
    """

    decisions: tuple[str, ...]
    build: Callable[..., tuple[Layer, ...]]


@dataclass(frozen=True)
class Architecture:
    """One network of one space, in canonical form: two spellings of the same network are equal."""

    space: str
    encoding: str

    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of `space|encoding`."""
        return hashlib.sha256(f"{self.space}|{self.encoding}".encode()).hexdigest()[:16]


class SearchSpace(ABC):
    """A list of decisions, and how option values become text and layers.

    A sub-class gives `name`, `decisions`, `cost_groups`, `format_values`, `parse_values`; all else follows from these.

    Raises:
        SearchSpaceError: when built, if a decision repeats, has no options, or depends on one that is not earlier.
    """

    has_layers = True
    """MACs and parameters follow from an architecture; without layers, costs come from records alone."""

    def __init__(self, name: str, decisions: Sequence[Decision], cost_groups: Sequence[CostGroup]) -> None:
        self.name = name
        self.decisions = tuple(decisions)
        self.cost_groups = tuple(cost_groups)
        self._check_decisions()

    @abstractmethod
    def format_values(self, values: Sequence[Option | None]) -> str:
        """Spell one option value per decision (None = inactive) as the canonical encoding."""

    @abstractmethod
    def parse_values(self, encoding: str) -> list[Option | None]:
        """Undo `format_values` without checking options; raises EncodingError if the shape of the text is wrong."""

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """Readable fields of one architecture for an answer, beside its encoding."""
        values = self._values(self.decode(architecture.encoding))
        return {"choices": {d.name: v for d, v in zip(self.decisions, values, strict=True) if v is not None}}

    def depth_features(self, tokens_BD: Tokens) -> NDArray[np.float64]:
        """Depth of each part, shape [B, parts], a coarse feature for the evaluator. Default: active decisions."""
        depth_B1: NDArray[np.float64] = np.sum(tokens_BD != INACTIVE, axis=1, keepdims=True).astype(np.float64)
        return depth_B1

    def restrict(self, options: Mapping[str, Sequence[Option]]) -> "SearchSpace":
        """Copy with fewer options for the named decisions; encodings and layers stay what they are.

        Raises:
            SearchSpaceError: if a decision or an option does not exist, or none is left.
        """
        for name, kept in options.items():
            decision = self.decisions[self.index(name)]
            unknown = [option for option in kept if option not in decision.options]
            if unknown or not kept:
                raise SearchSpaceError(f"{name}: got {list(kept)}; choose from {list(decision.options)}")
        narrowed = object.__new__(type(self))
        narrowed.__dict__.update({k: v for k, v in self.__dict__.items() if k not in _DERIVED})
        narrowed.decisions = tuple(
            Decision(d.name, tuple(o for o in d.options if o in options.get(d.name, d.options)), d.active_if)
            for d in self.decisions
        )
        return narrowed

    # -- architectures as text ---------------------------------------------------------------------------------------

    def decode(self, encoding: str) -> Tokens:
        """Tokens of one architecture, shape [D].

        Raises:
            EncodingError: naming the bad place, what stands there, and what may.
        """
        values = self.parse_values(encoding)
        tokens = np.full(len(self.decisions), INACTIVE, dtype=np.int64)
        for index, (decision, value) in enumerate(zip(self.decisions, values, strict=True)):
            if not self.is_active(index, tokens):
                if value is not None:
                    raise EncodingError(
                        f"{self.name}: {decision.name} is inactive here but has {value!r}; leave it blank "
                        f"(it counts only if {_condition(decision)})"
                    )
                continue
            if value is None:
                raise EncodingError(f"{self.name}: {decision.name} is blank; choose from {list(decision.options)}")
            if value not in decision.options:
                raise EncodingError(f"{self.name}: {decision.name} is {value!r}; choose from {list(decision.options)}")
            tokens[index] = decision.options.index(value)
        return tokens

    def encode(self, tokens_D: Tokens) -> str:
        """Canonical encoding of one token row.

        Raises:
            EncodingError: if the row is not a valid, canonical architecture.
        """
        self.validate(tokens_D[np.newaxis])
        return self.spell(tokens_D)

    def spell(self, tokens_D: Tokens) -> str:
        """The encoding of a token row that is known to be canonical; checking it would take longer than this does."""
        return self.format_values(self._values(tokens_D))

    def architecture(self, encoding: str) -> Architecture:
        """The architecture an encoding spells, in canonical form."""
        return Architecture(self.name, self.encode(self.decode(encoding)))

    # -- batches of tokens -------------------------------------------------------------------------------------------

    def validate(self, tokens_BD: Tokens) -> None:
        """Refuse a batch with a row that is no architecture.

        Raises:
            EncodingError: naming row and decision.
        """
        if tokens_BD.ndim != 2 or tokens_BD.shape[1] != len(self.decisions):
            raise EncodingError(
                f"{self.name}: tokens have shape {tokens_BD.shape}; expected [B, {len(self.decisions)}]"
            )
        active_BD = self.active(tokens_BD)
        wrong_BD = np.where(active_BD, (tokens_BD < 0) | (tokens_BD >= self.num_options_D), tokens_BD != INACTIVE)
        if wrong_BD.any():
            row, index = np.argwhere(wrong_BD)[0]
            allowed = f"0..{self.num_options_D[index] - 1}" if active_BD[row, index] else f"{INACTIVE} (inactive)"
            raise EncodingError(
                f"{self.name}: row {row}, {self.decisions[index].name} is {tokens_BD[row, index]}; allowed: {allowed}"
            )

    def allowed(self, tokens_BD: Tokens) -> NDArray[np.bool_]:
        """Mask of the canonical rows that are architectures, shape [B]: all, unless the space forbids combinations."""
        return np.ones(len(tokens_BD), dtype=np.bool_)

    def active(self, tokens_BD: Tokens) -> NDArray[np.bool_]:
        """Mask of the decisions that are active in each row, shape [B, D]."""
        return self._canonical_and_active(tokens_BD)[1]

    def canonical(self, tokens_BD: Tokens) -> Tokens:
        """The batch with inactive decisions blanked; active tokens must be in range."""
        return self._canonical_and_active(tokens_BD)[0]

    def sample(self, count: int, rng: np.random.Generator) -> Tokens:
        """Architectures with every active decision uniform over its options, shape [count, D]."""
        return self.canonical(rng.integers(0, self.num_options_D, size=(count, len(self.decisions))))

    # -- layers ------------------------------------------------------------------------------------------------------

    def layers(self, encoding: str) -> list[Layer]:
        """The layers of one architecture, input to output."""
        tokens_D = self.decode(encoding)
        values = dict(zip((d.name for d in self.decisions), self._values(tokens_D), strict=True))
        return [layer for group in self.cost_groups for layer in group.build(*(values[n] for n in group.decisions))]

    def distinct_layers(self) -> list[Layer]:
        """Every layer that some architecture of the space uses, each once, in order of first appearance."""
        found: dict[str, Layer] = {}
        for group in self.cost_groups:
            for _, _, layers in self.group_layers(group):
                found |= {layer.key: layer for layer in layers if layer.key not in found}
        return list(found.values())

    def group_layers(self, group: CostGroup) -> Iterator[tuple[Tokens, list[Option | None], tuple[Layer, ...]]]:
        """Tokens, option values and layers of every combination of a group's decisions that some network has."""
        indices = [self.index(name) for name in group.decisions]
        for tokens in self.assignments(group.decisions):
            values = [
                None if t == INACTIVE else self.decisions[i].options[t] for i, t in zip(indices, tokens, strict=True)
            ]
            yield tokens, values, group.build(*values)

    def assignments(self, names: Sequence[str]) -> Tokens:
        """Every combination of tokens the named decisions take together, inactive as -1, shape [N, len(names)].

        Combinations that no architecture has are left out, as far as the decisions' activity ancestors tell.
        """
        closure = sorted(self.ancestors(self.index(name) for name in names))
        partial = np.zeros((1, 0), dtype=np.int64)
        for index in closure:
            options_count = len(self.decisions[index].options)
            active = np.ones(len(partial), dtype=np.bool_)
            for parent, is_allowed in self._activity[index]:
                active &= is_allowed[partial[:, closure.index(parent)]]
            repeats = np.where(active, options_count, 1)
            column = np.concatenate([np.arange(options_count) if a else [INACTIVE] for a in active])
            partial = np.concatenate([np.repeat(partial, repeats, axis=0), column[:, np.newaxis]], axis=1)
        wanted = partial[:, [closure.index(self.index(name)) for name in names]]
        return np.unique(wanted, axis=0) if wanted.shape[1] else wanted[:1]

    # -- small look-ups ----------------------------------------------------------------------------------------------

    @cached_property
    def num_options_D(self) -> NDArray[np.int64]:  # noqa: N802 (D names the axis)
        """Options per decision, shape [D]."""
        return np.array([len(d.options) for d in self.decisions], dtype=np.int64)

    @cached_property
    def num_architectures(self) -> int:
        """Distinct networks in the space, exact."""
        return self.count_combinations()

    def count_combinations(self) -> int:
        """Distinct canonical token rows: a product over families of decisions that depend on each other."""
        family = list(range(len(self.decisions)))
        for index, conditions in enumerate(self._activity):
            for parent, _ in conditions:
                family = [family[parent] if f == family[index] else f for f in family]
        parents = {parent for conditions in self._activity for parent, _ in conditions}
        total = 1
        for root in set(family):
            switches = [i for i, f in enumerate(family) if f == root and i in parents]
            leaves = [i for i, f in enumerate(family) if f == root and i not in parents]
            total *= sum(
                math.prod(
                    len(self.decisions[i].options)
                    for i in leaves
                    if self.is_active(i, dict(zip(switches, tokens, strict=True)))
                )
                for tokens in self.assignments([self.decisions[i].name for i in switches])
            )
        return total

    def index(self, name: str) -> int:
        """Position of a decision.

        Raises:
            SearchSpaceError: if the space has no such decision.
        """
        try:
            return self._index[name]
        except KeyError:
            raise SearchSpaceError(f"{self.name} has no decision {name!r}; it has {list(self._index)}") from None

    def to_dict(self) -> dict[str, Any]:
        """The whole space as plain JSON values, for a bundle's manifest."""
        return {
            "name": self.name,
            "decisions": [
                {
                    "name": d.name,
                    "options": list(d.options),
                    **({"active_if": {k: list(v) for k, v in d.active_if.items()}} if d.active_if else {}),
                }
                for d in self.decisions
            ],
        }

    @cached_property
    def _index(self) -> dict[str, int]:
        return {d.name: i for i, d in enumerate(self.decisions)}

    @cached_property
    def _activity(self) -> tuple[tuple[tuple[int, NDArray[np.bool_]], ...], ...]:
        """Per decision: (parent's index, by the parent's token whether the decision counts).

        The last two places of such a mask stand for a token that is too large and for inactive.
        """
        activity = []
        for decision in self.decisions:
            conditions = []
            for parent, allowed in decision.active_if.items():
                options = self.decisions[self._index[parent]].options
                mask = np.array([*(option in allowed for option in options), False, False])
                conditions.append((self._index[parent], mask))
            activity.append(tuple(conditions))
        return tuple(activity)

    def is_active(self, index: int, tokens: Tokens | Mapping[int, int]) -> bool:
        """Tell whether a decision is active, given the tokens of those it depends on."""
        return all(is_allowed[tokens[parent]] for parent, is_allowed in self._activity[index])

    def ancestors(self, indices: Iterable[int]) -> set[int]:
        """The decisions and all that their activity depends on."""
        found: set[int] = set()
        pending = list(indices)
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                pending.extend(parent for parent, _ in self._activity[index])
        return found

    def _canonical_and_active(self, tokens_BD: Tokens) -> tuple[Tokens, NDArray[np.bool_]]:
        # Out of range stays out of range, but can be looked up. np.isin costs 50 us a decision, even for one row.
        tokens_BD = np.clip(tokens_BD, INACTIVE, self.num_options_D)
        active_BD = np.ones(tokens_BD.shape, dtype=np.bool_)
        for index, conditions in enumerate(self._activity):
            for parent, is_allowed in conditions:
                active_BD[:, index] &= is_allowed[tokens_BD[:, parent]]
            if conditions:
                tokens_BD[~active_BD[:, index], index] = INACTIVE
        return tokens_BD, active_BD

    def _values(self, tokens_D: Tokens) -> list[Option | None]:
        return [None if t == INACTIVE else d.options[t] for d, t in zip(self.decisions, tokens_D, strict=True)]

    def _check_decisions(self) -> None:
        seen: set[str] = set()
        for decision in self.decisions:
            if decision.name in seen:
                raise SearchSpaceError(f"{self.name}: decision {decision.name!r} is listed twice; rename one")
            if not decision.options:
                raise SearchSpaceError(f"{self.name}: decision {decision.name!r} has no options; give at least one")
            if len(set(decision.options)) != len(decision.options):
                raise SearchSpaceError(f"{self.name}: decision {decision.name!r} lists an option twice")
            for parent, options in decision.active_if.items():
                if parent not in seen:
                    raise SearchSpaceError(
                        f"{self.name}: {decision.name!r} depends on {parent!r}, which must be an earlier decision"
                    )
                known = self.decisions[[d.name for d in self.decisions].index(parent)].options
                unknown = [option for option in options if option not in known]
                if unknown:
                    raise SearchSpaceError(
                        f"{self.name}: {decision.name!r} is active if {parent!r} is {unknown[0]!r}, "
                        f"which is not one of its options {list(known)}"
                    )
            seen.add(decision.name)


_DERIVED = {"num_options_D", "num_architectures", "_index", "_activity"}
"""Cached properties that a restricted copy must compute anew."""


def _condition(decision: Decision) -> str:
    return " and ".join(f"{parent} in {list(options)}" for parent, options in decision.active_if.items())
