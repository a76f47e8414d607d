"""Measures what a model answers with and without the document, and prints a Markdown table:

    python -m llmft.worlds.notes.measure --model_name_or_path my_notes --documents 20

Answers are generated greedily and count if they are the reference to the letter.
"""

from statistics import fmean
from typing import TYPE_CHECKING

from llmft.worlds.notes.world import PATTERN, SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def prompt(row: dict, document: str = "") -> str:
    """The text up to where the answer is due."""
    return (document + SEPARATOR if document else "") + PATTERN.format(**row)


def greedy_answers(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: list[str], batch_size: int = 32
) -> list[str]:
    """What the model writes behind each prompt, up to 8 tokens."""
    import torch

    texts = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(prompts[start : start + batch_size], padding=True, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=8, do_sample=False
            )
        texts += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def exact_match(model, tokenizer, rows: list[dict], document: str = "") -> float:
    """The share of questions whose answer is the reference."""
    answers = greedy_answers(model, tokenizer, [prompt(row, document) for row in rows])
    return fmean(answer == row["answer"] for answer, row in zip(answers, rows, strict=True))
