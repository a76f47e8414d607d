"""What fine-tuning and distillation share: build a Trainer, train, keep the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback

from llmft.arguments import AdapterArguments, RunArguments
from llmft.cost.flops import training_flops
from llmft.models.adapt import adapt, count_trainable
from llmft.models.gather import all_gather, whole_weights
from llmft.models.student import save_student
from llmft.pipelines.prepare import Job
from llmft.runs.store import whole_folder
from llmft.training.ft_trainer import FtTrainer, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def trainable(job: Job, model: PreTrainedModel) -> torch.nn.Module:
    """The model with the part that the flags ask for made trainable; says which weights that are."""
    flags = job.arguments(AdapterArguments)
    with job.meter.phase("adapt"):
        adapted = adapt(
            model,
            flags.part,
            dim=flags.adapter_dim,
            alpha=flags.lora_alpha,
            dropout=flags.lora_dropout,
            targets=flags.lora_targets,
            prompt_tokens=flags.num_soft_prompt_tokens,
            freeze_embeddings=flags.freeze_embeddings,
            untie_embeddings=flags.untie_embeddings,
            seed=job.arguments(RunArguments).seed,
        )
    if job.record.writes:
        print(count_trainable(adapted))
    return adapted


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
            _save(job, trainer.model, tokenizer)
    return trainer.state.log_history, {"weights": counts.as_dict()}


def _save(job: Job, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """What was trained and the tokenizer, as `load_model` reads it; plain transformers and peft formats where they have one."""
    with whole_weights(model):  # all ranks gather sharded weights, one writes them
        if job.record.writes:
            with whole_folder(job.record.path / "model") as aside:
                save_student(model, aside)
                tokenizer.save_pretrained(str(aside))
