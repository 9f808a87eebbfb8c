"""Limits of a query beside its budget: their units, the amounts they are compared with, and their part in the mask.

Axis letters: N = architectures, K = costs that the mask knows (`COSTS`).
"""

from dataclasses import dataclass

import numpy as np

from pnag.models.answer.question import Limits
from pnag.models.answer.samples import Floats, NetworkValues
from pnag.models.cost.tabular import NetworkCosts
from pnag.models.errors import BudgetError

COSTS = ("latency_ms", "macs", "params")
NO_LIMIT = np.float32(3e38)
BYTES_PER_NUMBER = {"fp32": 4, "fp16": 2, "int8": 1}

_AMOUNTS = {"macs_m": "macs", "params_m": "params", "size_mb": "params", "peak_memory_mb": "peak_activations"}
"""Per limit what is counted for it; the last two in numbers, which take `bytes_per_number` each."""


@dataclass(frozen=True)
class LimitUnits:
    """Limits in the units of one bundle.

    Attributes:
        bundle: its name, for messages.
        bytes_per_number: at the precision of its latency table.
    """

    bundle: str
    costs: NetworkCosts
    bytes_per_number: int

    def check_known(self, limits: Limits) -> None:
        """Refuse a limit on a size that the bundle does not know.

        Raises:
            BudgetError: naming the limits that it can keep.
        """
        for name, _ in limits.items():
            if getattr(self.costs, _AMOUNTS[name]) is None:
                known = [k for k, amount in _AMOUNTS.items() if getattr(self.costs, amount) is not None]
                raise BudgetError(
                    f"limits.{name} cannot be kept: {self.bundle} knows no such size of its networks; it knows "
                    f"{known or 'none'}"
                )

    def amounts(self, values: NetworkValues, name: str) -> Floats:
        """Amounts that a limit is compared with, in the limit's unit, shape [N]."""
        counted_N: Floats = getattr(values, _AMOUNTS[name])
        return counted_N * self.bytes_per_number / 1e6 if name.endswith("_mb") else counted_N / 1e6

    def mask_limits(self, limits: Limits) -> tuple[float, float]:
        """MACs and parameters, the limits that the slack mask can hold."""
        none = float(NO_LIMIT)  # compared as Python floats: 1e300 would overflow as float32
        macs = none if limits.macs_m is None else limits.macs_m * 1e6
        params = none if limits.params_m is None else limits.params_m * 1e6
        size = none if limits.size_mb is None else limits.size_mb * 1e6 / self.bytes_per_number
        return min(macs, none), min(params, size, none)
