"""What fine-tuning and distillation share: build a Trainer, train, keep the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback

from llmft.arguments import AdapterArguments, RunArguments
from llmft.cost.flops import training_flops
from llmft.models.adapt import adapt, count_trainable
from llmft.models.gather import all_gather
from llmft.pipelines.prepare import Job
from llmft.runs.store import whole_folder
from llmft.training.ft_trainer import FtTrainer, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def trainable(job: Job, model: PreTrainedModel) -> torch.nn.Module:
    """The model with the part that the flags ask for made trainable."""
    flags = job.arguments(AdapterArguments)
    with job.meter.phase("adapt"):
        return adapt(model, flags.adapter, dim=flags.adapter_dim, alpha=flags.lora_alpha, dropout=flags.lora_dropout)


def train(
    job: Job,
    trainer_class: type[FtTrainer],
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[dict[str, Any]],
    **trainer_arguments: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train (from the last checkpoint of an interrupted run, if there is one) and save the weights.

    Returns:
        The training log and the counts of trainable weights.
    """
    run = job.arguments(RunArguments)
    run.output_dir = str(job.record.checkpoints)
    counts = count_trainable(model)
    with job.meter.phase("train") as phase:
        trainer = trainer_class(model=model, args=run, train_dataset=list(examples), data_collator=collate, **trainer_arguments)
        trainer.remove_callback(PrinterCallback)  # the log goes to train_log.jsonl
        job.resumed_from = all_gather(job.record.last_checkpoint)[0]
        trainer.train(resume_from_checkpoint=job.resumed_from)
        tokens = int(trainer.tokens_seen)
        phase.count(
            examples=trainer.examples_seen,
            tokens=tokens,
            padding_tokens=trainer.positions_seen - tokens,
            flops=training_flops(model, tokens),
        )
    if run.save_final_model:
        with job.meter.phase("save"):
            _save(job, trainer, tokenizer)
    trained = {"trainable": counts.trainable, "total": counts.total, "share": counts.share}
    return trainer.state.log_history, {"weights": trained}


def _save(job: Job, trainer: FtTrainer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Weights (or the adapter) and tokenizer, loadable without anything of ours."""
    if not job.record.writes:  # sharded weights are gathered by all ranks, written by one
        trainer.save_model(str(job.record.path / "model"))
        return
    with whole_folder(job.record.path / "model") as aside:
        trainer.save_model(str(aside))
        tokenizer.save_pretrained(str(aside))
        (aside / "training_args.bin").unlink(missing_ok=True)
