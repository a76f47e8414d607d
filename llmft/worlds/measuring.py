"""Shared code of the commands that measure models of the embedded worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmft.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_on_one_thread(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer; from here on the process computes on one thread, since matrices this small gain nothing from
    more.

    Raises:
        InputError: there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    try:
        return AutoModelForCausalLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"--model_name_or_path {name}: cannot be loaded ({one_line(error)}); name a model's folder") from error


def numbers(text: str) -> list[int]:
    """The numbers of a comma-separated flag, as a type for argparse, which names the flag if one is no number from 0."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 0:
        raise ValueError(text)
    return values
