"""Work that is the same for every server: a list of budgets in, a list of answers out. Only what is around it differs.

Read from the environment: BUNDLE (folder) and NUM_CANDIDATES.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pnag.models.answer.question import Query
from pnag.models.answer.runtime import OnnxGenerator
from pnag.models.bundle.bundle import Bundle
from pnag.service.contract.bodies import answer_body


class ServedBundle:
    """One loaded bundle, one thread, as our own service has it."""

    def __init__(self) -> None:
        bundle = Bundle.load(Path(os.environ["BUNDLE"]))
        self._generator = OnnxGenerator(bundle, num_candidates=int(os.environ["NUM_CANDIDATES"]))

    def answer(self, budgets_ms: Sequence[float]) -> list[dict[str, Any]]:
        """Give what `POST /generate` answers, for each budget."""
        answers = self._generator.generate_many([Query(float(budget)) for budget in budgets_ms])
        bundle = self._generator.bundle
        return [dict(answer_body(bundle, answer)) for answer in answers if not isinstance(answer, Exception)]
