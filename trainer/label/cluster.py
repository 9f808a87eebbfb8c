"""Score architectures on several processes or machines, with Dask (extra `cluster`).

A chunk whose worker dies is given to another one; what it scores is the same, so nothing is lost and no row changes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, cast

from pnag.models.errors import TrainingError
from pnag.trainer.label.measure import Run, Task

RETRIES = 20
"""Workers that a chunk may lose before the labelling fails."""


def run_on_cluster(workers: int, address: str | None = None, started: Callable[[object], None] = lambda _: None) -> Run:
    """A `Run` on that many local processes, or on the cluster whose scheduler has the address.

    Args:
        started: told the client, once workers are up.

    Raises:
        TrainingError: if Dask is not installed.
    """
    try:
        import dask
        from distributed import Client, LocalCluster, as_completed
    except ModuleNotFoundError as exc:
        raise TrainingError(f"several workers need {exc.name}; install pnag[cluster]") from None

    def run(task: Task, chunks: Sequence[Sequence[str]]) -> Iterator[list[tuple[str, float]]]:
        # A worker that falls silent is not a dead one: on a busy machine, or one that slept, it comes back.
        settings = {"distributed.scheduler.allowed-failures": RETRIES, "distributed.scheduler.worker-ttl": None}
        with dask.config.set(settings), ExitStack() as stack:
            scheduler: Any = address
            if address is None:
                scheduler = stack.enter_context(
                    cast(Any, LocalCluster)(
                        n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None
                    )
                )
            client = stack.enter_context(cast(Any, Client)(scheduler))
            started(client)
            futures = [client.submit(task.scores, list(chunk), pure=False) for chunk in chunks]
            for future in cast(Any, as_completed)(futures):
                yield future.result()

    return run
