"""Pattern-based fine-tuning: transformers' Trainer with the loss at the positions of the answers. Overrides hooks only, never
the loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

from llmft.cost.flops import training_flops
from llmft.cost.phases import Phase
from llmft.evaluation.answers import ASKED
from llmft.evaluation.checkpoint_selection import Evaluations
from llmft.models.parts.gradients import with_gradient
from llmft.models.parts.head import Projection, positions_at_once, project_in_pieces
from llmft.models.reading.batches import all_logits, answer_logits
from llmft.models.reading.continuations import Continued, padded_batch
from llmft.models.reading.packing import can_pack, common_head, packed_batch
from llmft.models.reading.reader import agreement_of
from llmft.models.wrapping import bare_model, encoded_virtual_tokens, on_device, virtual_tokens
from llmft.training.callbacks import CarryLoss
from llmft.training.checkpoints import ReadableCheckpoint
from llmft.training.losses import answer_cross_entropy
from llmft.training.stop_at_nan import POSITION, StopAtNonFinite

REAL = "real"
"""Key of a batch: how many of its rows, counted from the first, are not repeats, and the number of such rows on all ranks."""
SIZE = "size"
"""Key of a batch: its number of examples."""
WEIGHTS = "weights"
"""Key of a batch of texts: the weight of each position in the sum that is its loss (P,)."""


class FtTrainer(ReadableCheckpoint, Trainer):
    """Trains on prompts so that the right label's token follows.

    A training example is `{"input_ids": tokens of the prompt, ...}` with whatever else the loss needs: here `answer`, the token
    of the right label. For a text, `input_ids` continues with all of its tokens but the last, `asked` is its number of tokens,
    and the loss needs a target for each.

    Args:
        objective: loss from logits (B, V) at the answer position and answers (B,); for texts both (P, ...), and weights (P,).
        loss_mean: for texts, over the `tokens` of a step, or over its `examples`, each the mean over its tokens; independent of
            the batches and ranks into which a step is divided. For labels both are the mean over a batch.
        evaluations: runs the evaluations and holds their results; None if nothing is evaluated.
        finite: is shown every loss, and stops training at one that is not finite; None to check nothing. Examples
            then have their `position` among all.
    """

    loss_is_scaled_for_ga = False  # a mean over the batch; the Trainer divides by the accumulation steps

    def __init__(
        self,
        *args: Any,
        objective: Callable[..., torch.Tensor] = answer_cross_entropy,
        loss_mean: str = "tokens",
        evaluations: Evaluations | None = None,
        finite: StopAtNonFinite | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.finite = finite
        if finite is not None:
            finite.cause = self.cause
            self.add_callback(finite)
        self.objective, self.loss_mean = objective, loss_mean
        self.evaluations = evaluations
        self.in_pieces = True  # whether logits may be computed in pieces: not if the model changes them in its own way
        self.examples_seen = 0
        self.tokens_seen: torch.Tensor | int = 0  # tensors, so that counting does not wait for the device
        self.positions_seen = 0

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step, and for texts their number of tokens (or examples) on all ranks. In an epoch's last step
        accelerate repeats rows so that all ranks get the same number; the repeats are marked."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        each, ranks = self.args.train_batch_size, self.args.world_size
        if self.accelerator.split_batches:
            each //= ranks
        left = len(self.train_dataset) % (each * ranks)
        repeats = left and ranks > 1 and not self.args.dataloader_drop_last
        if batches and repeats and self.accelerator.gradient_state.end_of_dataloader:
            before = each * self.args.process_index  # rows of the lower ranks
            batches[-1][REAL] = (max(0, min(left - before, each)), left)
        return batches, self.items_of(batches, device) if batches and ASKED in batches[0] else items

    def items_of(self, batches: Sequence[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """The number of tokens (or examples) in a step's batches of texts on all ranks."""
        counts = [count for batch in batches for count in batch[ASKED][: batch.get(REAL, (None,))[0]]]
        count = torch.tensor(sum(counts) if self.loss_mean == "tokens" else len(counts), device=device)
        return self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Loss of one batch from `collate`; counts what went through the model on this rank.

        The mean over ranks is the mean over all rows, each counted once: repeated rows are left out of a rank's loss, which is
        weighted by the number of its other rows.
        """
        real, of_all = inputs.pop(REAL, (None, None))
        size = inputs.pop(SIZE)
        self._count(model, inputs, size if real is None else real)
        if ASKED in inputs:
            inputs[WEIGHTS] = self._weights(inputs[ASKED], real, num_items_in_batch)
            self.add_targets(inputs)
            loss, logits = self._loss_of_texts(model, inputs), None
        else:
            logits, share = self.answer_logits(model, inputs), None
            if real is not None:
                count = max(real, 1)  # a rank without any still takes part in collective operations
                inputs = {name: value if isinstance(value, int) else value[:count] for name, value in inputs.items()}
                logits, share = logits[:count], self.args.world_size * real / of_all
            self.add_targets(inputs)
            loss = self.answer_loss(logits, inputs)
            loss = loss if share is None else loss * share
        loss = self.whole_loss(loss, model, inputs)
        if self.finite is not None:
            rows = inputs[POSITION] if real is None else inputs[POSITION][: max(real, 1)]
            self.finite.see(self.state.global_step + 1, loss, rows)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _loss_of_texts(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Loss of texts; if there are many logits, they are computed in pieces. If the output layer is frozen, a piece's
        gradient is computed together with its loss. Otherwise the piece is recomputed for it; also in float16, where gradients
        must be scaled."""
        count, losses = len(inputs[WEIGHTS]), []
        frozen = not any(weight.requires_grad for weight in bare_model(model).get_output_embeddings().parameters())
        at_once, at_its_loss = positions_at_once(model, learnt=frozen), frozen and self.accelerator.mixed_precision != "fp16"
        if count <= at_once or not self.in_pieces:
            return self.answer_loss(self.answer_logits(model, inputs), inputs)

        def look(project: Projection, hidden: torch.Tensor, part: slice) -> None:
            piece = {name: v[part] for name, v in inputs.items() if isinstance(v, torch.Tensor) and len(v) == count}

            def loss_of(hidden: torch.Tensor) -> torch.Tensor:
                return self.answer_loss(project(hidden), piece)

            losses.append(with_gradient(loss_of, hidden) if at_its_loss else checkpoint(loss_of, hidden, use_reentrant=False))

        self.in_pieces = project_in_pieces(model, inputs, partial(all_logits, model, inputs), look, at_once)
        return torch.stack(losses).sum() if self.in_pieces else self._loss_of_texts(model, inputs)

    def _weights(self, positions: Sequence[int], real: int | None, items: torch.Tensor | None) -> torch.Tensor:
        """The weight of each position of a batch of texts. In the mean over ranks of the sums over a step's batches, all
        positions count the same (or all examples do, and all positions within one).

        Args:
            positions: the number of each row's positions.
            real: the number of rows that are not repeats; None for all.
            items: the number of tokens (or examples) of the step on all ranks; None for those of only this batch.
        """
        counts = torch.tensor(positions)
        each = torch.ones(len(counts)) if self.loss_mean == "tokens" else 1 / counts
        each[len(counts) if real is None else real :] = 0
        weights = on_device({WEIGHTS: each.repeat_interleave(counts)}, self.args.device)[WEIGHTS]
        if items is None:
            return weights / each.count_nonzero() if self.loss_mean == "examples" else weights / weights.sum()
        return weights * (self.args.world_size * self.current_gradient_accumulation_steps / items)

    def _count(self, model: torch.nn.Module, inputs: dict[str, Any], examples: int) -> None:
        positions = inputs["input_ids"].numel()
        if "logits_to_keep" in inputs:  # packed: no padding
            self.tokens_seen += positions
        else:
            soft = encoded_virtual_tokens(model) * len(inputs["input_ids"])  # which the model itself inserts
            positions += soft
            self.tokens_seen = self.tokens_seen + inputs["attention_mask"].sum() + soft
        self.examples_seen += examples
        self.positions_seen += positions

    def answer_logits(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Logits (P, V) at the positions that predict an answer."""
        return answer_logits(model, inputs)

    def add_targets(self, inputs: dict[str, Any]) -> None:
        """Add to a batch what its loss needs beyond its examples: here nothing."""

    def whole_loss(self, loss: torch.Tensor, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """The loss of a batch from that of its answers: here the same."""
        return loss

    def answer_loss(self, logits: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Loss from logits (P, V) at those positions."""
        weights = inputs.get(WEIGHTS)
        return self.objective(logits, inputs["answer"], *([] if weights is None else [weights]))

    def cause(self, loss: float, positions: Sequence[int]) -> str | None:
        """Why a batch's loss is not finite, flag first and remedy last, if the objective itself is the cause.

        Args:
            loss: NaN or infinite.
            positions: indices of the batch's rows among the training examples.
        """
        return None

    def progress(self) -> dict[str, Any]:
        """What a resumed run needs from this rank in addition to transformers' own checkpoint, JSON-able."""
        return {"loss": self._tr_loss.item(), "logged": self._globalstep_last_logged}

    def restore(self, progress: dict[str, Any]) -> None:
        """Restore what `progress` returned, before training resumes; a checkpoint of an earlier version may lack it."""
        if "loss" in progress:
            self.add_callback(CarryLoss(self, progress["loss"], progress["logged"]))

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Do nothing: only the finished student is pushed."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing, as above."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score all evaluation sets as at every other stage; log the metrics `eval_<set>_<metric>` and return them."""
        last = self.state.global_step >= self.state.max_steps
        sets = self.evaluations.evaluate(self.state.global_step, self.state.epoch, last=last)
        metrics = {
            f"{metric_key_prefix}_{name}_{metric}": value
            for name, metrics_of_set in sets.items()
            for metric, value in metrics_of_set.items()
            if isinstance(value, float)  # numbers of rows never change
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def collate_with(self, collator: Callable[..., dict[str, Any]]) -> None:
        """Set how the examples of a batch are collated from now on."""
        self.data_collator = collator

    def count_work(self, phase: Phase) -> None:
        """Add to `phase` what went through the model on this rank since the last call."""
        tokens = int(self.tokens_seen)
        phase.count(
            examples=self.examples_seen,
            tokens=tokens,
            padding_tokens=self.positions_seen - tokens,
            flops=training_flops(self.model, tokens),
        )
        self.examples_seen = self.tokens_seen = self.positions_seen = 0


def leave_signals_to_main() -> None:
    """In a data loader's worker, ignore SIGTERM and Ctrl-C: its main process ends it, after saving a checkpoint."""
    if torch.utils.data.get_worker_info() is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def collate(
    examples: Sequence[dict[str, Any]], branches: Sequence[Sequence[int]] = (), *, packed: bool = False
) -> dict[str, Any]:
    """Collate the prompts and what belongs to each of them, or to each position that they ask about.

    Args:
        examples: their places `query`, which only the host uses, remain numbers.
        branches: token sequences that are read along with each prompt, for labels of several tokens.
        packed: side by side in one row, their common beginning only once, for models that `can_pack`; else padded on the left.
    """
    leave_signals_to_main()
    prompts = [example["input_ids"] for example in examples]
    positions = [example.get(ASKED, 1) for example in examples]
    if packed:
        batch = packed_batch(prompts, counts=positions, head=common_head(prompts, positions))
    else:
        batch = padded_batch(Continued([], prompts, positions, [branches] * len(prompts)))
    batch[SIZE] = len(examples)
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name in ("query", ASKED):
            batch[name] = values
        elif name != "input_ids":
            batch[name] = torch.cat([torch.atleast_1d(torch.as_tensor(value)) for value in values])
    return batch


def collator(model: torch.nn.Module, branches: Sequence[Sequence[int]]) -> Callable[..., dict[str, Any]]:
    """How batches of examples are collated for the model: packed if possible, so that no work goes into padding.

    Batches with virtual tokens before every prompt, or branches after it, are padded.
    """
    packed = not branches and not virtual_tokens(model) and can_pack(model) and agreement_of(model).holds
    return partial(collate, branches=branches, packed=packed)
