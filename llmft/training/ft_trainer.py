"""Pattern-based fine-tuning: transformers' Trainer with the loss at the positions of the answers. Hooks only, never the loop."""

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
from llmft.training.checkpoints import ReadableCheckpoint
from llmft.training.losses import answer_cross_entropy
from llmft.training.stop_at_nan import POSITION, StopAtNonFinite

REAL = "real"
"""Key of a batch: how many of its rows, from the first on, are no repeats, and how many there are on all ranks."""
SIZE = "size"
"""Key of a batch: how many examples it has."""
WEIGHTS = "weights"
"""Key of a batch of texts: what each position counts in the sum that is its loss (P,)."""


class FtTrainer(ReadableCheckpoint, Trainer):
    """Trains on prompts so that the right label's token follows.

    A training example is `{"input_ids": tokens of the prompt, ...}` with what the loss needs beside it: here `answer`,
    the token of the right label. Of a text `input_ids` goes on with all its tokens but the last, `asked` says how many it has,
    and the loss needs something for each.

    Args:
        objective: loss from logits (B, V) at the answer position and answers (B,); for texts both (P, ...), and weights (P,).
        loss_mean: of texts, over the `tokens` of a step, or over its `examples`, each the mean over its tokens; whatever batches
            and ranks a step is parted into. Of labels both are the mean over a batch.
        evaluations: how `evaluate` is done, and where its results go; None where nothing is evaluated.
        finite: is shown every loss, and stops training at one that is no finite number; None where nothing does. Examples
            then hold their `position` among all.
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
        self.in_pieces = True  # whether logits may be made so: not behind the back of a model that changes them
        self.examples_seen = 0
        self.tokens_seen: torch.Tensor | int = 0  # tensors, so that counting waits for no device
        self.positions_seen = 0

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step, and of texts how many tokens (or examples) they have on all ranks. In an epoch's last step
        accelerate repeats rows so that all ranks get as many, and that is noted."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        each, ranks = self.args.train_batch_size, self.args.world_size
        if self.accelerator.split_batches:
            each //= ranks
        left = len(self.train_dataset) % (each * ranks)
        repeats = left and ranks > 1 and not self.args.dataloader_drop_last
        if batches and repeats and self.accelerator.gradient_state.end_of_dataloader:
            before = each * self.args.process_index  # rows of the ranks in front
            batches[-1][REAL] = (max(0, min(left - before, each)), left)
        return batches, self.items_of(batches, device) if batches and ASKED in batches[0] else items

    def items_of(self, batches: Sequence[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """How many tokens (or examples) a step's batches of texts have on all ranks."""
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
        """Loss of one batch as `collate` makes it; counts what went through the model on this rank.

        The mean over ranks is that over all rows, each once: where rows are repeated, they are left out of a rank's loss, which
        is weighted by how many remain.
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
                count = max(real, 1)  # a rank without any takes part in what ranks do together
                inputs = {name: value if isinstance(value, int) else value[:count] for name, value in inputs.items()}
                logits, share = logits[:count], self.args.world_size * real / of_all
            self.add_targets(inputs)
            loss = self.answer_loss(logits, inputs)
            loss = loss if share is None else loss * share
        if self.finite is not None:
            rows = inputs[POSITION] if real is None else inputs[POSITION][: max(real, 1)]
            self.finite.see(self.state.global_step + 1, loss, rows)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _loss_of_texts(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Loss of texts; where their logits are many, they are made in pieces. The gradient of a piece is taken with its loss
        where the output layer is frozen. Else the piece is made again for it; in float16 too, as its gradients must be scaled."""
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
        """What each position of a batch of texts counts: in the mean over ranks of their sums over a step's batches, equally (or
        equally within an example, and those as much as one another).

        Args:
            positions: how many each row has.
            real: how many rows are no repeats; None for all.
            items: how many tokens (or examples) the step has on all ranks; None for those of this batch alone.
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
            soft = encoded_virtual_tokens(model) * len(inputs["input_ids"])  # which the model itself puts in
            positions += soft
            self.tokens_seen = self.tokens_seen + inputs["attention_mask"].sum() + soft
        self.examples_seen += examples
        self.positions_seen += positions

    def answer_logits(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """Logits (P, V) at the positions that predict an answer."""
        return answer_logits(model, inputs)

    def add_targets(self, inputs: dict[str, Any]) -> None:
        """Add to a batch what its loss needs and its examples lack: here nothing."""

    def answer_loss(self, logits: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Loss from logits (P, V) at those positions."""
        weights = inputs.get(WEIGHTS)
        return self.objective(logits, inputs["answer"], *([] if weights is None else [weights]))

    def cause(self, loss: float, positions: Sequence[int]) -> str | None:
        """Why a batch's loss is no finite number, flag first and remedy last, where that is the objective's nature.

        Args:
            loss: NaN or infinite.
            positions: of the batch's rows among the training examples.
        """
        return None

    def progress(self) -> Any:
        """What a resumed run needs of this rank beside transformers' own checkpoint, JSON-able."""
        return None

    def restore(self, progress: Any) -> None:
        """Take up what `progress` gave, before training goes on."""

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
            for name, metrics_of_set in sets.items()
            for metric, value in metrics_of_set.items()
            if isinstance(value, float)  # numbers of rows stay the same all along
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def collate_with(self, collator: Callable[..., dict[str, Any]]) -> None:
        """Put the examples of a batch together this way from now on."""
        self.data_collator = collator

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


def leave_sigterm_to_main() -> None:
    """In a process that makes batches, ignore SIGTERM: its main process ends it, and has a checkpoint to save first."""
    if torch.utils.data.get_worker_info() is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def collate(
    examples: Sequence[dict[str, Any]], branches: Sequence[Sequence[int]] = (), *, packed: bool = False
) -> dict[str, Any]:
    """Put the prompts together and what belongs to each, or to each position that it asks.

    Args:
        examples: their places `query`, which only the host asks for, stay numbers.
        branches: token sequences that each prompt comes with, as labels of several tokens want it.
        packed: side by side in one row, what all begin with once, for models that `can_pack`; else padded on the left.
    """
    leave_sigterm_to_main()
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
    """The way batches of examples go through the model: packed if it can, so that none of its work is padding.

    Virtual tokens stand in front of every prompt, and branches behind it: those batches are padded.
    """
    packed = not branches and not virtual_tokens(model) and can_pack(model) and agreement_of(model).holds
    return partial(collate, branches=branches, packed=packed)
