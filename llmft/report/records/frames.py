"""What is done with frames in several rooms: their rows as dicts, and the order of tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts of Python's own types; many times faster than `to_dict` where there are texts."""
    names = list(frame.columns)
    columns = [frame[name].tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def in_order_of(
    frame: pd.DataFrame, names: Iterable[str], column: str, before: Sequence[str], behind: Sequence[str]
) -> pd.DataFrame:
    """Rows sorted by the columns `before`, then `column` in the order of `names`, then the columns `behind`; a new index.

    Of `weights` that sort models the least of each model counts: with an adapter loaded it is still that model.
    """
    places = {name: place for place, name in enumerate(names)}
    order = frame[column].astype(str).map(places).fillna(len(places))
    keys = frame.assign(_order=order)[[*before, "_order", *behind]]
    if "weights" in before:
        keys["weights"] = frame.groupby("model", sort=False)["weights"].transform("min")
    return frame.loc[keys.sort_values(list(keys.columns), kind="stable").index].reset_index(drop=True)
