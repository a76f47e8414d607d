"""Names that no model has seen, for the invented documents, dialogues, requests and libraries of the sweeps."""

from __future__ import annotations

import random

SYLLABLES = "bra cor dun el fen gal hol is jor kel lor mar nes ol per quil ros sel tor ul ven wis yar zan".split()


def invented_name(rng: random.Random) -> str:
    """Two syllables, capitalised."""
    return "".join(rng.sample(SYLLABLES, 2)).capitalize()
