"""Training on a document as it is: every token of it predicts the next one."""

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
    """Training examples of documents, and of each the name of its document. A document is opened and ended as the tokenizer does;
    every token but its first is predicted once.

    Args:
        documents: name -> text.
        longest: tokens of one example at most; a longer document becomes several, each from where the one before ends. None for
            any number.
    """
    names: list[str] = []
    examples: list[dict[str, Any]] = []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for name, text in documents.items():
        tokens = [*token_ids(tokenizer, text, ControlTokens.create(tokenizer, [text])), *end]  # its control tokens are text
        step = longest or len(tokens)
        for start in range(0, len(tokens) - 1, step):
            part = tokens[start : start + step + 1]
            names.append(name)
            examples.append({"input_ids": part[:-1], ASKED: len(part) - 1, "answer": part[1:]})
    return names, examples
