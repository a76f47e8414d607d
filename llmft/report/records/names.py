"""What methods and selections are called, and the order in which tables list them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

METHOD_NAMES = {
    "icl": "in-context",
    "pbft": "fine-tuning",
    "pbft-lora": "fine-tuning, LoRA",
    "vanilla": "fine-tuning, new head",
    "vanilla-lora": "fine-tuning, new head, LoRA",
    "distill": "distillation",
    "distill-lora": "distillation, LoRA",
    "pseudo-label": "pseudo-labels",
    "pseudo-label-lora": "pseudo-labels, LoRA",
    "gold-label": "gold labels",
    "gold-label-lora": "gold labels, LoRA",
}
"""Methods as people say them, in the order of tables; others go by the record's name, behind these."""
SELECTIONS = {
    "icl": "icl",
    "before": "before",
    "teacher": "teacher",
    "after": "last",
    "best_in_domain": "best_in_domain",
    "best_out_of_domain": "best_out_of_domain",
    "after_with_context": "last_with_context",
}
"""Stage in the record -> which weights were asked, and how they were chosen."""
SELECTION_NAMES = {
    "icl": "in-context",
    "before": "before",
    "teacher": "teacher",
    "last": "last",
    "best_in_domain": "best in-domain",
    "best_out_of_domain": "best out-of-domain",
    "last_with_context": "last, context in front",
}
"""Selections as people say them, in the order of tables."""
FINAL = ("icl", "last")
"""The selections that a method is judged by: nothing was chosen on the evaluation sets."""
DOMAINS = ("in_domain", "out_of_domain")
GROUP = ("task", "model", "shots", "pattern", "method", "differs", "setting")
"""What runs share that are repetitions of each other: everything but their seeds."""
OTHER_ROWS = "≠"
OTHER_ROWS_NOTE = "≠ the two were evaluated on other rows: no like comparison."


def rows_text(n: float, sets: Iterable[str]) -> str:
    """What a score is of: how many rows of which sets."""
    return f"{n:.0f} of {' + '.join(sets)}"


def method_name(row: Mapping[str, object]) -> str:
    """A method as people say it, from a row with `method`, `shots` and `differs`."""
    name = METHOD_NAMES.get(str(row["method"]), str(row["method"]))
    if row["method"] == "icl" and not row["shots"]:
        name = "zero-shot"
    return f"{name} ({row['differs']})" if row["differs"] else name
