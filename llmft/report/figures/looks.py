"""How methods are drawn, everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llmft.report.records.names import METHOD_NAMES


class Look(NamedTuple):
    """A colour (hex) and matplotlib's name of a marker."""

    colour: str
    marker: str


ZERO_SHOT = "zero-shot"
LOOKS = {
    ZERO_SHOT: Look("#7a7f87", "X"),
    "icl": Look("#0072b2", "o"),
    "pbft": Look("#d55e00", "s"),
    "pbft-lora": Look("#e69f00", "D"),
    "distill": Look("#009e73", "^"),
    "distill-lora": Look("#cc79a7", "v"),
}
"""Okabe and Ito's palette, told apart with all kinds of colour vision; markers differ as well."""
FURTHER = (
    *(Look(colour, "P") for colour in ("#56b4e9", "#332288", "#882255", "#999933")),
    *(Look(colour, "*") for colour in ("#44aa99", "#aa4499", "#661100", "#6699cc")),
)
"""For all other methods, in the order of their names."""


def look_key(method: str, shots: float) -> str:
    """What has a look of its own: the method, and in-context learning without demonstrations."""
    return ZERO_SHOT if method == "icl" and not shots else method


def looks_of(keys: Iterable[str]) -> dict[str, Look]:
    """The look of each, known ones first in the order of tables."""
    present = set(keys)
    others = sorted(present - LOOKS.keys())
    further = {key: FURTHER[place % len(FURTHER)] for place, key in enumerate(others)}
    return {key: look for key, look in LOOKS.items() if key in present} | further


def look_name(key: str) -> str:
    """A method as people say it."""
    return METHOD_NAMES.get(key, key)
