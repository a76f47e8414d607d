"""Pattern-based fine-tuning: transformers' Trainer with the loss at the answer position. Hooks only, never the loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import Trainer

from llmft.cost.flops import training_flops
from llmft.cost.phases import Phase
from llmft.models.label_scores import answer_logits, encoded_virtual_tokens, left_pad, virtual_tokens
from llmft.models.packed_attention import can_pack, packed_batch
from llmft.models.sequence_scores import LabelSequences, sequence_batch
from llmft.training.checkpoints import ReadableCheckpoint
from llmft.training.evaluations import Evaluations
from llmft.training.finite import POSITION, StopAtNonFinite
from llmft.training.losses import answer_cross_entropy

REAL = "real"
"""Key of a batch: how many of its rows, from the first on, are no repeats, and how many there are on all ranks."""


class FtTrainer(ReadableCheckpoint, Trainer):
    """Trains on prompts so that the right label's token follows.

    A training example is `{"input_ids": tokens of the prompt, ...}` with what the loss needs beside it: here `answer`,
    the token of the right label.

    Args:
        objective: loss from logits (B, V) at the answer position and answers (B,).
        evaluations: how `evaluate` is done, and where its results go; None where nothing is evaluated.
        finite: is shown every loss, and stops training at one that is no finite number; None where nothing does. Examples
            then hold their `position` among all.
    """

    loss_is_scaled_for_ga = False  # a mean over the batch; the Trainer divides by the accumulation steps

    def __init__(
        self,
        *args: Any,
        objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = answer_cross_entropy,
        evaluations: Evaluations | None = None,
        finite: StopAtNonFinite | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.finite = finite
        if finite is not None:
            finite.cause = self.cause
            self.add_callback(finite)
        self.objective = objective
        self.evaluations = evaluations
        self.examples_seen = 0
        self.tokens_seen: torch.Tensor | int = 0  # tensors, so that counting waits for no device
        self.positions_seen = 0

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step; in an epoch's last, accelerate repeats rows so that all ranks get as many, and that is noted."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        each, ranks = self.args.train_batch_size, self.args.world_size
        if self.accelerator.split_batches:
            each //= ranks
        left = len(self.train_dataset) % (each * ranks)
        repeats = left and ranks > 1 and not self.args.dataloader_drop_last
        if batches and repeats and self.accelerator.gradient_state.end_of_dataloader:
            before = each * self.args.process_index  # rows of the ranks in front
            batches[-1][REAL] = (max(0, min(left - before, each)), left)
        return batches, items

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Loss of one batch as `collate` makes it; counts what went through the model on this rank.

        The mean over ranks is that over all rows, each once: where rows are repeated, they are left out of a rank's loss, which
        is weighted by how many remain.
        """
        real, of_all = inputs.pop(REAL, (None, None))
        self._count(model, inputs)
        logits = self.answer_logits(model, inputs)
        if real is None:
            loss = self.answer_loss(logits, inputs)
        else:
            self.examples_seen -= len(logits) - real
            some = max(real, 1)  # a rank without any takes part in what ranks do together
            inputs = {name: value[:some] for name, value in inputs.items()}
            loss = self.answer_loss(logits[:some], inputs) * (self.args.world_size * real / of_all)
        if self.finite is not None:
            self.finite.see(self.state.global_step + 1, loss, inputs[POSITION])
        return (loss, {"logits": logits}) if return_outputs else loss

    def _count(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
        positions = inputs["input_ids"].numel()
        if "logits_to_keep" in inputs:  # packed: no padding
            self.examples_seen += len(inputs["logits_to_keep"])
            self.tokens_seen += positions
        else:
            soft = encoded_virtual_tokens(model) * inputs["input_ids"][..., 0].numel()  # which the model itself puts in
            positions += soft
            self.examples_seen += len(inputs["input_ids"])
            self.tokens_seen = self.tokens_seen + inputs["attention_mask"].sum() + soft
        self.positions_seen += positions

    def answer_logits(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits (B, V) at the answer position."""
        return answer_logits(model, inputs)

    def answer_loss(self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Loss from logits (B, V) at the answer position."""
        return self.objective(logits, inputs["answer"])

    def cause(self, loss: float, positions: Sequence[int]) -> str | None:
        """Why a batch's loss is no finite number, flag first and remedy last, where that is the objective's nature.

        Args:
            loss: NaN or infinite.
            positions: of the batch's rows among the training examples.
        """
        return None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: what is pushed is the finished student."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing, as above."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score all evaluation sets as at every other stage; log the metrics `eval_<set>_<metric>` and return them."""
        last = self.state.global_step >= self.state.max_steps
        sets = self.evaluations.evaluate(self.state.global_step, self.state.epoch, last=last)
        metrics = {
            f"{metric_key_prefix}_{name}_{metric}": value
            for name, found in sets.items()
            for metric, value in found.items()
            if isinstance(value, float)  # numbers of rows stay the same all along
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def count_work(self, phase: Phase) -> None:
        """Count on `phase` what went through the model on this rank since the last call."""
        tokens = int(self.tokens_seen)
        phase.count(
            examples=self.examples_seen,
            tokens=tokens,
            padding_tokens=self.positions_seen - tokens,
            flops=training_flops(self.model, tokens),
        )
        self.examples_seen = self.tokens_seen = self.positions_seen = 0


def collate(examples: Sequence[dict[str, Any]], labels: LabelSequences | None = None, *, packed: bool = False) -> dict[str, Any]:
    """Put the prompts together and stack the rest.

    Args:
        examples: their places `query`, which only the host asks for, stay numbers.
        labels: if they are of several tokens, each prompt comes with each of their continuations.
        packed: side by side in one row, for models that `can_pack`; else padded on the left.
    """
    if torch.utils.data.get_worker_info() is not None:  # its main process ends it, and has a checkpoint to save first
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prompts = [example["input_ids"] for example in examples]
    if packed:
        batch = packed_batch(prompts)
    else:
        batch = left_pad(prompts) if labels is None or labels.rows == 1 else sequence_batch(prompts, labels)
    for name in examples[0]:
        if name == "query":
            batch[name] = [example[name] for example in examples]
        elif name != "input_ids":
            batch[name] = torch.stack([torch.as_tensor(example[name]) for example in examples])
    return batch


def collator(model: torch.nn.Module, labels: LabelSequences, examples: Sequence[dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The way batches of these examples go through the model: packed if it can, so that none of its work is padding.

    Virtual tokens stand in front of every prompt, and several continuations behind it: those batches are padded.
    """
    longest = max(len(example["input_ids"]) for example in examples)
    packed = labels.rows == 1 and not virtual_tokens(model) and can_pack(model, longest)
    return partial(collate, labels=labels, packed=packed)
