"""SIGTERM and Ctrl-C during training with transformers' Trainer: a checkpoint at the end of the step, then the end."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmft.runs.signals import Preemption


class SaveWhenStopped(TrainerCallback):
    """Has a checkpoint saved once any rank has been sent a signal, after which `EndOnceSaved` ends the process.

    Whatever the end of a step brings in any case, such as an evaluation, comes first: the checkpoint must hold it.

    It must come before `StopAtNonFinite`, which looks at the weights that the end of a step will save.
    """

    def __init__(self) -> None:
        self.preemption = Preemption()
        self.ending = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Have a checkpoint saved if all ranks know that one was asked for."""
        if self.preemption.asks_to_save(args.device, last=state.global_step >= state.max_steps):
            control.should_save = self.ending = True
        return control


class EndOnceSaved(TrainerCallback):
    """Ends the process when the checkpoint that `SaveWhenStopped` has asked for is saved.

    It must come after everything that a checkpoint is made of.
    """

    def __init__(self, saving: SaveWhenStopped) -> None:
        self.saving = saving

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End if it was asked for.

        Raises:
            Ended, KeyboardInterrupt: it was.
        """
        if self.saving.ending:
            self.saving.preemption.end_after(f"checkpoint-{state.global_step}")
