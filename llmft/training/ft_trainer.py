"""Pattern-based fine-tuning: transformers' Trainer with the loss at the answer position. Hooks only, never the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer

from llmft.models.label_scores import answer_logits, left_pad, virtual_tokens
from llmft.training.losses import answer_cross_entropy


class FtTrainer(Trainer):
    """Trains on prompts so that the right label's token follows.

    A training example is `{"input_ids": tokens of the prompt, ...}` with what the loss needs beside it: here `answer`,
    the token of the right label.
    """

    loss_is_scaled_for_ga = False  # a mean over the batch; the Trainer divides by the accumulation steps

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples_seen = 0
        self.tokens_seen: torch.Tensor | int = 0  # tensors, so that counting waits for no device
        self.positions_seen = 0

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Loss of one batch as `collate` makes it; counts what went through the model on this rank."""
        self.examples_seen += inputs["input_ids"].shape[0]
        self.positions_seen += inputs["input_ids"].numel()
        soft = virtual_tokens(model) * inputs["input_ids"].shape[0]  # which the model itself puts in
        self.positions_seen += soft
        self.tokens_seen = self.tokens_seen + inputs["attention_mask"].sum() + soft
        logits = answer_logits(model, inputs)
        loss = self.answer_loss(logits, inputs)
        return (loss, {"logits": logits}) if return_outputs else loss

    def answer_loss(self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss from logits (B, V) at the answer position."""
        return answer_cross_entropy(logits, inputs["answer"])


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Left-pad the prompts and stack what stands beside them."""
    batch = left_pad([example["input_ids"] for example in examples])
    for name in examples[0]:
        if name != "input_ids":
            batch[name] = torch.stack([torch.as_tensor(example[name]) for example in examples])
    return batch
