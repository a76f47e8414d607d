"""Training on a document itself: every token predicts the next one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmft.evaluation.answers import ASKED
from llmft.prompts.control import ControlTokens
from llmft.prompts.tokens import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def document_examples(
    tokenizer: PreTrainedTokenizerBase, documents: Mapping[str, str], longest: int | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Training examples from documents, and for each example the name of its document. A document has the tokenizer's begin and
    end tokens; every token but the first is predicted once.

    Args:
        documents: name -> text.
        longest: maximum tokens of an example; a longer document becomes several, each continuing where the previous one ends.
            None for no limit.
    """
    names: list[str] = []
    examples: list[dict[str, Any]] = []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for name, text in documents.items():
        tokens = [*token_ids(tokenizer, text, ControlTokens.create(tokenizer, [text])), *end]  # control tokens are plain text
        step = longest or len(tokens)
        for start in range(0, len(tokens) - 1, step):
            part = tokens[start : start + step + 1]
            names.append(name)
            examples.append({"input_ids": part[:-1], ASKED: len(part) - 1, "answer": part[1:]})
    return names, examples
