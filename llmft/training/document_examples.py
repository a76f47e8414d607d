"""Training on a document as it is: every token of it predicts the next one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmft.evaluation.answers import ASKED
from llmft.prompts.tokens import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def document_examples(
    tokenizer: PreTrainedTokenizerBase, documents: Mapping[str, str], longest: int | None
) -> list[dict[str, Any]]:
    """Training examples of documents, each opened and ended as the tokenizer does; every token but the first is predicted once.

    Args:
        documents: name -> text.
        longest: tokens of one example at most; a longer document becomes several, each from where the one before ends. None for
            any number.
    """
    examples = []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for text in documents.values():
        tokens = [*token_ids(tokenizer, text), *end]
        step = longest or len(tokens)
        for start in range(0, len(tokens) - 1, step):
            part = tokens[start : start + step + 1]
            examples.append({"input_ids": part[:-1], ASKED: len(part) - 1, "answer": part[1:]})
    return examples
