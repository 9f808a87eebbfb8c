"""Errors that PNAG raises for a caller's mistake, so that one `except PnagError` is enough.

    PnagError (also a ValueError)
    ├── SearchSpaceError           a search space that contradicts itself, or a name nobody registered
    │   └── EncodingError          a text or token row that is not an architecture of its space
    ├── RecordsError               a records file with a bad row, column or value
    ├── LatencyTableError          a table that cannot be relied on
    │   └── MissingLayerError      a layer that the table never measured
    ├── BudgetError                a budget or limit that is not a positive finite number
    │   └── InfeasibleBudgetError  below the cheapest network; carries that network
    ├── BundleError                an artifact that is missing, altered, or from a newer version
    │   └── UnknownBundleError     a bundle name the service does not hold
    ├── WeightsError               weights that are not those of the network they are for
    └── TrainingError              training that cannot start from what it was given

Messages say what came, what is allowed, and what to do. Our own mistakes are `assert`s, not errors of this tree.
"""


class PnagError(ValueError):
    """Something the caller can fix; the message says how."""


class SearchSpaceError(PnagError):
    """A search space contradicts itself, or its name is unknown."""


class EncodingError(SearchSpaceError):
    """A text or a token row is not an architecture of its search space."""


class RecordsError(PnagError):
    """A records file cannot be used; the message names the row and the column."""


class LatencyTableError(PnagError):
    """A latency table cannot be relied on; the message names the entry."""


class MissingLayerError(LatencyTableError):
    """The table has no measurement for a layer that an architecture needs."""


class BudgetError(PnagError):
    """A budget, limit or coverage is outside its range."""


class InfeasibleBudgetError(BudgetError):
    """No network of the bundle fits.

    Attributes:
        smallest_feasible_ms: the smallest budget that has an answer under the same limits, in ms;
            None when a limit other than latency rules every network out.
        encoding: the network that reaches it.
    """

    def __init__(self, message: str, *, smallest_feasible_ms: float | None = None, encoding: str | None = None) -> None:
        super().__init__(message)
        self.smallest_feasible_ms = smallest_feasible_ms
        self.encoding = encoding


class BundleError(PnagError):
    """A bundle is missing, altered, incomplete, or written by a newer version; the message names the file."""


class UnknownBundleError(BundleError):
    """No loaded bundle has this name."""


class WeightsError(PnagError):
    """A checkpoint or a bundle's weights do not fit the network; the message names the entry."""


class TrainingError(PnagError):
    """Training cannot start, or cannot go on, from what it was given."""
