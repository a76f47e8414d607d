"""Made-up records of runs with text answers, beside those of `synthetic`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tests.report.synthetic import QUERY, Made

SETS = {"in_domain": ["notes"], "out_of_domain": ["notes-reverse", "notes-unanswerable"]}
RIGHT = {"icl": 0.95, "teacher": 0.95, "before": 0.05, "after": 0.85, "best_in_domain": 0.8, "best_out_of_domain": 0.8}
NAMES = ("Ada Merrow", "Tobin Hale", "Imke Voss", "Orrin Bay", "the Long Reach", "forty-two")
DOCUMENT = 400
"""Tokens of a document."""
BYTES = 46080
"""Of keys and values, a token."""
TEXT_METRICS = ("exact_match", "f1", "contains", "rougeL", "edit_similarity")


@dataclass(frozen=True)
class MadeText(Made):
    """A run of the task `notes`.

    Attributes:
        context: what the prompt shows of it; the task's default is its document.
        long: adds this to queries, for tests of long and strange ones.
    """

    task: str = "notes"
    shots: int = 0
    headline: str = "exact_match"
    context: str = "document"
    train_on: str = "train"
    long: str = ""

    @property
    def sets(self) -> dict[str, list[str]]:
        return SETS

    @property
    def arguments(self) -> dict[str, Any]:
        changed = {"context": self.context} if self.context != "document" else {}
        return changed | ({"train_on": self.train_on} if self.train_on != "train" else {})

    @property
    def defaults(self) -> dict[str, Any]:
        return {"context": "document"} if self.method == "icl" or self.method.startswith("distill") else {"train_on": "train"}

    @property
    def context_tokens(self) -> int:
        return DOCUMENT if self.context == "document" else super().context_tokens

    @property
    def measured(self) -> dict[str, Any]:
        prompt = QUERY + self.context_tokens
        of = {"icl": prompt} if self.method == "icl" else {"student": QUERY}
        of |= {"teacher": prompt} if self.method.startswith("distill") else {}
        return {"kv_bytes_per_query": {who: tokens * BYTES for who, tokens in of.items()}}

    def answers(self, stage: str, name: str, size: int, rng: np.random.Generator) -> tuple[dict[str, Any], pd.DataFrame]:
        share = RIGHT["before"] if stage == "icl" and self.context == "none" else RIGHT[stage.removesuffix("_with_context")]
        share *= 0.6 if name != "notes" and stage == "after" else 1
        number = self.seed + np.arange(size)
        targets = [NAMES[i % len(NAMES)] for i in number]
        right, near = rng.random(size) < share, rng.random(size) < 0.3
        answers = [
            target if hit else f"{target}, I think" if close else NAMES[(i + 1) % len(NAMES)]
            for i, target, hit, close in zip(number, targets, right, near, strict=True)
        ]
        rows = [_graded(*pair) for pair in zip(answers, targets, strict=True)]
        frame = pd.DataFrame(rows).assign(
            stage=stage, set=name, idx=range(size), target=targets, prediction=answers,
            query=[f"Question {i} of {name}: who looks after place {i}?{self.long}" for i in range(size)],
            document=f"notes-{self.seed}", accepted=[[target] for target in targets],
            nll=rng.gamma(2, 0.1 if share > 0.5 else 2, size), target_tokens=2 + np.arange(size) % 3,
            tokens=[len(answer.split()) + 1 for answer in answers], answer_ids=[[1, 2]] * size,
        )  # fmt: skip
        frame = frame.assign(score=frame[self.headline])
        metrics = {metric: float(frame[metric].mean()) for metric in (*TEXT_METRICS, "tokens")}
        metrics["nll"] = float(np.average(frame["nll"], weights=frame["target_tokens"]))
        if self.method.startswith("distill") and stage != "teacher":
            frame = frame.assign(kl=rng.gamma(1, 0.05, size), teacher_tokens=2, same_answer=right.astype(float))
        return {**metrics, "n": size, "n_asked": size, "n_shortened": 0}, frame


def _graded(answer: str, target: str) -> dict[str, float]:
    given, wanted = set(answer.replace(",", "").split()), set(target.split())
    f1 = 2 * len(given & wanted) / (len(given) + len(wanted))
    similarity = difflib.SequenceMatcher(None, answer, target).ratio()
    whole = {"exact_match": float(answer == target), "contains": float(target in answer)}
    return {**whole, "f1": f1, "rougeL": f1, "edit_similarity": similarity}


def text_designs(seeds: int = 3, **others: Any) -> list[MadeText]:
    """One task and model: no context, its document in the prompt, fine-tuning on answers and on the document, distillation."""
    kinds = (
        {"method": "icl", "context": "none"},
        {"method": "icl"},
        {"method": "pbft", "shots": 64, "context": "none"},
        {"method": "pbft", "context": "none", "train_on": "document"},
        {"method": "distill", "with_context": True},
        {"method": "distill-cartridge"},
    )
    return [MadeText(**kind, seed=seed, **others) for kind in kinds for seed in range(seeds)]
