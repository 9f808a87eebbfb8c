"""Tables in Markdown, as every page of results has them."""

from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], alignment: str | None = None) -> list[str]:
    """Build the lines of a table.

    Args:
        alignment: one letter a column, `l` or `r`; to the left everywhere where it is None.
    """
    rules = ["---:" if letter == "r" else "---" for letter in alignment or "l" * len(headings)]
    return [_line(headings), f"|{'|'.join(rules)}|", *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
