"""Rows that are too long for their place: the longer text loses its end, pattern and context stay whole."""

from __future__ import annotations

from collections.abc import Callable

from llmft.tasks.table import Row


def shorten(row: Row, length: Callable[[Row], int], limit: int) -> Row | None:
    """The row with its longer text cut at the end, just so far that `length(row) <= limit`; None where that cannot be.

    Args:
        length: tokens of the whole prompt made of a row.
        limit: tokens there is room for.
    """
    while length(row) > limit:
        field = max(("text1", "text2"), key=lambda name: len(row[name] or ""))
        text = row[field] or ""
        if not text:
            return None
        kept, too_long = 0, len(text)  # characters; what is kept fits or is nothing
        while too_long - kept > 1:
            middle = (kept + too_long) // 2
            if length({**row, field: text[:middle].rstrip()}) <= limit:
                kept = middle
            else:
                too_long = middle
        row = {**row, field: text[:kept].rstrip()}
    return row
