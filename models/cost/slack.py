"""The slack mask, which keeps raw samples within budget by the least cost that each next option commits them to.

While an architecture is built decision by decision, its *lower bound* is the cost of its cheapest completion. Choosing
an option raises the bound by a known step; an option whose step no longer fits the budget is masked. So a constraint
masks invalid actions of a policy (Huang and Ontanon, 2022, arXiv:2006.14171), as a cost-to-go computed backwards, by
dynamic programming, as an admissible heuristic is (Pearl, 1984). The steps stand in one flat table that numpy, torch
and an ONNX graph index alike:

    row   = offset_t + radix-number of the earlier tokens that matter (+1 where one may be inactive, so that this is 0)
    step  = flat[row * width_t + option]

Axis letters: B = architectures, D = decisions, C = options of the widest decision, K = costs, R = entries of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pnag.models.cost.additive import GroupedCost
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens

FORBIDDEN = np.float32(np.inf)


@dataclass(frozen=True)
class SlackTable:
    """Steps of the lower bound of a space under K additive costs.

    All float32 or int64, so that every runtime agrees bit for bit.

    Attributes:
        base_K: lower bound of the empty architecture.
        steps_RK: step of the bound per table entry; inf where the option does not exist there.
        inactive_R: whether the entry's context makes its decision inactive; then the first option, at no cost, is the
            only way to go.
        offset_D: stride_DD[t] @ (tokens + 1) away is the entry of decision t; below its first one where a token of its
            context is never inactive.
        stride_DD: of each earlier token, 0 where it does not matter.
        width_D: options per decision.
    """

    base_K: NDArray[np.float32]
    steps_RK: NDArray[np.float32]
    inactive_R: NDArray[np.bool_]
    offset_D: NDArray[np.int64]
    stride_DD: NDArray[np.int64]
    width_D: NDArray[np.int64]

    @classmethod
    def build(cls, space: SearchSpace, costs: Sequence[GroupedCost]) -> "SlackTable":
        """Tabulate a space: exact when a group's later decisions do not reach into other groups, else a lower bound.

        An infinite cost forbids a combination: its last option is masked under any limit.
        """
        groups = [[_Group(space, cost, number) for number in range(len(cost.groups))] for cost in costs]
        count = len(space.decisions)
        base_K = np.array(
            [
                cost.constant + sum(group.lower_bound(()) for group in its_groups)
                for cost, its_groups in zip(costs, groups, strict=True)
            ]
        )
        offset_D, stride_DD = np.zeros(count, dtype=np.int64), np.zeros((count, count), dtype=np.int64)
        blocks: list[NDArray[np.float64]] = []
        inactive_blocks: list[NDArray[np.bool_]] = []
        offset = 0
        for t, decision in enumerate(space.decisions):
            width = len(decision.options)
            touched = [(k, g) for k, its_groups in enumerate(groups) for g in its_groups if t in g.closure]
            context = sorted(
                {i for _, g in touched for i in g.closure if i < t} | {i for i in space.ancestors([t]) if i < t}
            )
            radices = [len(space.decisions[i].options) + bool(space.decisions[i].active_if) for i in context]
            stride, first = width, 0
            for i, radix in zip(reversed(context), reversed(radices), strict=True):
                stride_DD[t, i] = stride
                first += 0 if space.decisions[i].active_if else stride  # such a token + 1 is never 0
                stride *= radix
            block = np.full((stride // width, width, len(costs)), np.inf)
            inactive = np.zeros((stride // width, width), dtype=np.bool_)
            for tokens in space.assignments([space.decisions[i].name for i in context]):
                known = dict(zip(context, (int(token) for token in tokens), strict=True))
                row = (sum((known[i] + 1) * int(stride_DD[t, i]) for i in context) - first) // width
                if not space.is_active(t, known):
                    block[row, 0], inactive[row] = 0.0, True
                    continue
                block[row] = 0.0
                for k, g in touched:
                    before = g.lower_bound(tuple(known[i] for i in g.closure if i < t))
                    for option in range(width):
                        after = g.lower_bound((*(known[i] for i in g.closure if i < t), option))
                        block[row, option, k] += after - before if np.isfinite(before) else np.inf
            blocks.append(block.reshape(-1, len(costs)))
            inactive_blocks.append(inactive.ravel())
            offset_D[t] = offset - first
            offset += len(blocks[-1])
        return cls(
            base_K.astype(np.float32),
            np.concatenate(blocks).astype(np.float32),
            np.concatenate(inactive_blocks),
            offset_D,
            stride_DD,
            space.num_options_D.copy(),
        )

    def entries(self, tokens_BD: Tokens) -> NDArray[np.int64]:
        """First table entry of each decision given the tokens before it, shape [B, D]."""
        return self.offset_D + (tokens_BD + 1) @ self.stride_DD.T

    def option_steps(self, tokens_BD: Tokens) -> NDArray[np.float32]:
        """Steps of every option at every decision of given architectures, shape [B, D, C, K]."""
        options_C = np.arange(int(self.width_D.max()))
        entries_BDC = self.entries(tokens_BD)[..., np.newaxis] + options_C
        steps: NDArray[np.float32] = self.steps_RK[np.minimum(entries_BDC, len(self.steps_RK) - 1)]
        steps[:, options_C[np.newaxis] >= self.width_D[:, np.newaxis]] = FORBIDDEN
        return steps

    def lower_bounds(self, tokens_BD: Tokens) -> NDArray[np.float32]:
        """Cost of the cheapest completion before each decision, shape [B, D, K].

        Summed in the order of the decisions, as the decoder does.
        """
        steps_BDK = self.steps_RK[self.entries(tokens_BD) + np.maximum(tokens_BD, 0)]
        bounds_BDK = np.empty_like(steps_BDK)
        bound_BK = np.broadcast_to(self.base_K, steps_BDK[:, 0].shape)
        for t in range(tokens_BD.shape[1]):
            bounds_BDK[:, t] = bound_BK
            bound_BK = bound_BK + steps_BDK[:, t]
        return bounds_BDK


class _Group:
    """One cost group with everything its layers depend on, activity ancestors included."""

    def __init__(self, space: SearchSpace, cost: GroupedCost, number: int) -> None:
        indices, table = cost.groups[number]
        self.closure = tuple(sorted(space.ancestors(indices)))
        rows = space.assignments([space.decisions[i].name for i in self.closure])
        columns = tuple(rows[:, self.closure.index(i)] for i in indices)
        values = np.broadcast_to(table[columns], len(rows))
        self._least: dict[tuple[int, ...], float] = {}
        for row, value in zip(rows, values, strict=True):
            for length in range(len(self.closure) + 1):
                prefix = tuple(int(token) for token in row[:length])
                self._least[prefix] = min(float(value), self._least.get(prefix, np.inf))

    def lower_bound(self, prefix: tuple[int, ...]) -> float:
        """Least cost over completions of the closure's first tokens."""
        return self._least[prefix]


assert INACTIVE == -1, "entries() counts on token + 1 being 0 for an inactive decision"
