"""Callbacks for training: progress bar, the step at which a run resumes, evaluation before saving, best weights, the state from
which an unfinished run resumes, the loss since the last entry of the log, distances from the initial weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmft.evaluation.checkpoint_selection import Evaluations
from llmft.models.distributed import whole_weights
from llmft.runs.names import PROGRESS
from llmft.runs.ranks import rank_and_world
from llmft.runs.record import last_checkpoint, whole_checkpoints
from llmft.training.checkpoints import write_progress


class ProgressBar(ProgressCallback):
    """Shows only the progress of training; the log goes to `train_log.jsonl`."""

    def on_log(self, *_: Any, **__: Any) -> None:
        """Print no entry of the log."""


class SayResumed(TrainerCallback):
    """Says at which step a run resumes."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Print it, unless the run starts from the beginning."""
        if state.global_step and state.is_world_process_zero:
            print(f"resuming at step {state.global_step} of {state.max_steps}")


class EvaluateThenSave(TrainerCallback):
    """Runs an evaluation before the checkpoint of its step, which then includes it, and always evaluates the last step.

    When evaluating or logging by epochs, transformers would do so after the checkpoint of an epoch's last step. The last step
    gets no checkpoint: its weights are saved anyway, and from one within an epoch transformers would resume one step too far.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Evaluate at the last step of training, and evaluate and log at that of an epoch if this is done by epochs."""
        if state.epoch == int(state.epoch):
            control.should_log |= args.logging_strategy == "epoch"
            control.should_evaluate |= args.eval_strategy == "epoch" and state.epoch >= args.eval_delay
        if state.global_step >= state.max_steps:
            control.should_evaluate, control.should_save = True, False
        return control

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Nothing to do: the epoch's last step has been evaluated, and is not logged twice."""
        control.should_evaluate = False
        if state.global_step >= state.max_steps:
            control.should_save = False
        return control


class KeepBestWeights(TrainerCallback):
    """Keeps the weights of the best evaluations so far, as `best-<step>` in the folder of checkpoints.

    Weights that a better evaluation has replaced are removed only after the next checkpoint: resuming from an earlier one needs
    them.

    Args:
        evaluations: those of the run.
        save: writes the current model to a folder; all ranks take part.
    """

    def __init__(self, evaluations: Evaluations, save: Callable[[Path], None]) -> None:
        self.evaluations, self.save = evaluations, save

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove what an interrupted run kept after its last checkpoint."""
        self._drop_others(args)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the weights if they are the best for some domain."""
        if state.global_step in {best.step for best in self.evaluations.best.values()}:
            self.save(best_weights(Path(args.output_dir), state.global_step))
        if last_checkpoint(Path(args.output_dir)) is None:
            self._drop_others(args)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove what the checkpoint does not need."""
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
    """Writes our own state of an unfinished run (evaluations and costs) into each checkpoint, after everything else.

    What a killed session spends after its last checkpoint is not recorded. Earlier checkpoints are removed only once the new one
    is complete (transformers would remove them before).

    Args:
        progress: returns that state, JSON-able, from all ranks.
        kept: how many checkpoints an unfinished run keeps.
    """

    def __init__(self, progress: Callable[[], Any], kept: int = 1) -> None:
        self.progress, self.kept = progress, kept

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write it to the checkpoint that was just saved."""
        progress = self.progress()  # waits for all ranks: each has written its part of the checkpoint
        if rank_and_world()[0] == 0:
            write_progress(Path(args.output_dir) / f"checkpoint-{state.global_step}", progress)
            for folder in whole_checkpoints(Path(args.output_dir))[: -self.kept]:
                (folder / PROGRESS).unlink()  # first, so that after a kill the rest does not look complete
                shutil.rmtree(folder)


class CarryLoss(TrainerCallback):
    """Gives a resumed run the losses since the last entry of its log, which transformers forgets.

    Args:
        loss: their sum on this rank.
        logged: the step of that entry.
    """

    def __init__(self, trainer: Trainer, loss: float, logged: int) -> None:
        self.trainer, self.loss, self.logged = trainer, loss, logged

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add them to what the next entry will be the mean of, and not to the mean of this session's own steps."""
        self.trainer._tr_loss += self.loss
        self.trainer._total_loss_scalar -= self.loss
        self.trainer._globalstep_last_logged = self.logged


class LogDistances(TrainerCallback):
    """Logs, with every training loss, the L2 distance of each trained weight from its initial value: `l2-dist/<name>`.

    Initial values are those at construction. Rank 0 keeps them on the CPU, and gathers one weight at a time if DeepSpeed ZeRO-3
    has partitioned them.

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
        """Log the distances if this is a log entry of training."""
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
