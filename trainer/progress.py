"""A progress bar on stderr for people, nothing for programs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """One bar per stage of a command; silent when stderr is not a terminal."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars

    @contextmanager
    def stage(self, name: str, total: int) -> "Iterator[Stage]":
        """A bar that fills up in `total` steps."""
        task = self._bars.add_task(name, total=total, note="")
        yield Stage(self._bars, task)
        self._bars.update(task, completed=total)


class Stage:
    """One running bar."""

    def __init__(self, bars: RichProgress, task: int) -> None:
        self._bars, self._task = bars, task

    def step(self, count: int = 1, note: str = "") -> None:
        """Move on, with a short figure to watch."""
        self._bars.update(self._task, advance=count, note=note)  # type: ignore[arg-type]


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Bars while the block runs."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as bars:
        yield Progress(bars)


SILENT = Progress(RichProgress(disable=True))
"""For work inside work: shows nothing."""
