"""Inputs of a training, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from pnag.models.cost.latency_table import LatencyTable
from pnag.models.cost.tabular import NetworkCosts, TableCosts
from pnag.models.errors import TrainingError
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.data.records import Records


@dataclass(frozen=True)
class Inputs:
    """A search space as its records restrict it, and what its architectures cost.

    Attributes:
        costs: what the records know of costs; None of a space with layers, whose table says all.
        references: `name` and `encoding` of networks that people know.
    """

    space: SearchSpace
    records: Records
    table: LatencyTable
    costs: TableCosts | None = None
    references: Sequence[dict[str, str]] = field(default_factory=list)

    @cached_property
    def network_costs(self) -> NetworkCosts:
        """Cost of any architecture; raises LatencyTableError if the table does not fit the space."""
        return NetworkCosts.of(self.space, self.table, self.costs)

    def with_references(self, references: Sequence[dict[str, str]]) -> "Inputs":
        """Add named networks."""
        return replace(self, references=references)

    def check_cost_spread(self) -> None:
        """Refuse, by TrainingError, records that all cost the same."""
        latency_N = self.network_costs.latency_ms(self.records.tokens_ND)
        if np.ptp(latency_N) < 1e-9 * latency_N.max():
            raise TrainingError(
                f"{self.records.source}: every architecture costs {latency_N[0]:.4g} ms; a trade-off needs "
                "architectures of different cost. Is it the right latency table, or the right column?"
            )
