"""Callbacks of training: progress bar, the step that a resumed run goes on from, evaluation before saving, best weights, what an
unfinished run resumes from, distances from the start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmft.evaluation.checkpoint_selection import Evaluations
from llmft.models.distributed import whole_weights
from llmft.runs.names import PROGRESS
from llmft.runs.ranks import rank_and_world
from llmft.runs.record import last_checkpoint, whole_checkpoints
from llmft.training.checkpoints import write_progress


class ProgressBar(ProgressCallback):
    """Shows how far training is, and nothing else: the log goes to `train_log.jsonl`."""

    def on_log(self, *_: Any, **__: Any) -> None:
        """Print no entry of the log."""


class SayResumed(TrainerCallback):
    """Says which step a resumed run goes on from."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Print it; a run that begins says nothing."""
        if state.global_step and state.is_world_process_zero:
            print(f"goes on from step {state.global_step} of {state.max_steps}")


class EvaluateThenSave(TrainerCallback):
    """Puts an evaluation before the checkpoint of its step, which then holds it, and evaluates the last step always.

    By epochs, transformers would evaluate behind the checkpoint of an epoch's last step. The last step gets no checkpoint:
    only the saving of its weights follows, and transformers would go a step too far from one that ends within an epoch.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Evaluate on the last step of an epoch, if epochs are asked for, and of training."""
        if args.eval_strategy == "epoch" and state.epoch == int(state.epoch) and state.epoch >= args.eval_delay:
            control.should_evaluate = True
        if state.global_step >= state.max_steps:
            control.should_evaluate, control.should_save = True, False
        return control

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """The epoch's last step has been evaluated."""
        control.should_evaluate = False
        if state.global_step >= state.max_steps:
            control.should_save = False
        return control


class KeepBestWeights(TrainerCallback):
    """Keeps the weights of the best evaluations so far, `best-<step>` in the folder of checkpoints.

    What a better one has replaced goes away only when a checkpoint knows of that: resuming from an earlier one needs it.

    Args:
        evaluations: those of the run.
        save: writes the model as it is to a folder; all ranks take part.
    """

    def __init__(self, evaluations: Evaluations, save: Callable[[Path], None]) -> None:
        self.evaluations, self.save = evaluations, save

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop what an interrupted run kept after its last checkpoint."""
        self._drop_others(args)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the weights if they are the best for some domain."""
        if state.global_step in {best.step for best in self.evaluations.best.values()}:
            self.save(best_weights(Path(args.output_dir), state.global_step))
        if last_checkpoint(Path(args.output_dir)) is None:
            self._drop_others(args)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop what the checkpoint does not need."""
        self._drop_others(args)

    def _drop_others(self, args: TrainingArguments) -> None:
        if rank_and_world()[0] == 0:
            needed = {best_weights(Path(args.output_dir), best.step) for best in self.evaluations.best.values()}
            for folder in set(Path(args.output_dir).glob("best-*")) - needed:
                shutil.rmtree(folder)


def best_weights(checkpoints: Path, step: int) -> Path:
    """Where `KeepBestWeights` puts the weights of a step."""
    return checkpoints / f"best-{step}"


class KeepProgress(TrainerCallback):
    """Puts what our side of an unfinished run resumes from into each checkpoint, behind everything else: evaluations and costs.

    What is spent after the last checkpoint of a session that is killed goes unrecorded.

    Earlier checkpoints go away only now that the new one is whole (transformers removes them before).

    Args:
        progress: makes it, JSON-able, from all ranks.
        kept: how many checkpoints an unfinished run keeps.
    """

    def __init__(self, progress: Callable[[], Any], kept: int = 1) -> None:
        self.progress, self.kept = progress, kept

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write it beside the checkpoint that was just saved."""
        progress = self.progress()  # waits for all ranks: each has written its part of the checkpoint
        if rank_and_world()[0] == 0:
            write_progress(Path(args.output_dir) / f"checkpoint-{state.global_step}", progress)
            for folder in whole_checkpoints(Path(args.output_dir))[: -self.kept]:
                (folder / PROGRESS).unlink()  # first: what is left of it by a kill does not look whole
                shutil.rmtree(folder)


class LogDistances(TrainerCallback):
    """Logs, with every training loss, how far each trained weight is from its start: `l2-dist/<name>`, the L2 norm.

    The start is the model as it is when this is made. Rank 0 keeps it on the CPU, and gathers one weight at a time where
    DeepSpeed ZeRO-3 has cut them up.

    Args:
        model: the model that will be trained.
        log: the Trainer's `log`.
    """

    def __init__(self, model: torch.nn.Module, log: Callable[[dict[str, float]], None]) -> None:
        self.model, self.log = model, log
        self.start: dict[str, torch.Tensor] = {}
        self._visit(lambda name, weight: self.start.update({name: weight.to("cpu", copy=True)}))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Log the distances if this is an entry of training."""
        if "loss" not in logs:
            return
        distances: dict[str, float] = {}

        def measure(name: str, weight: torch.Tensor) -> None:
            moved = weight.float() - self.start[name].to(weight.device).float()
            distances[f"l2-dist/{name}"] = torch.linalg.vector_norm(moved).item()

        self._visit(measure)
        self.log(distances)

    def _visit(self, visitor: Callable[[str, torch.Tensor], None]) -> None:
        """Show every trained weight, whole, on rank 0."""
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                with whole_weights([weight]):
                    if rank_and_world()[0] == 0:
                        visitor(name, weight.detach())
