"""The three methods as functions on a model in memory, without a command line or a record.

Rows are dicts: `text1`, `text2` if the pattern has it, `label` (a number; queries of `distill` need none). The caller's model is
left as it is; what is returned is a trained copy.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from llmft.arguments.methods import AdapterArguments
from llmft.arguments.objective import Objective
from llmft.arguments.run import RunArguments
from llmft.arguments.training_defaults import DISTILLATION, FINE_TUNING, TrainingDefaults
from llmft.cost.phases import Phase
from llmft.distillation.teacher import Teacher
from llmft.distillation.trainer import ContextDistillationTrainer, with_targets
from llmft.evaluation.labels import Labels
from llmft.evaluation.scorer import Scorer
from llmft.models.parts.adapt import adapt
from llmft.models.reading.batches import BatchSize
from llmft.pipelines.training import make_trainer
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat
from llmft.training.ft_trainer import FtTrainer
from llmft.training.stop_at_nan import StopAtNonFinite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Row = Mapping[str, Any]


def in_context(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    prompt: PromptFormat,
    demonstrations: Sequence[Row] = (),
    calibrate: bool = False,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Ask a model about labelled rows, behind demonstrations if there are any.

    Returns:
        The metrics, and a frame with `idx`, `target`, `prediction` and `score` of each row.

    Raises:
        InputError: a prompt does not fit the model's window, or a label word is not one token.
    """
    scorer = _scorer(model, tokenizer, rows, prompt, demonstrations, calibrate)
    scores = scorer.score(_complete(rows), Phase("evaluate"))
    return scorer.answers.metrics(scores), pd.DataFrame({name: scores[name] for name in ("idx", "target", "prediction", "score")})


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    prompt: PromptFormat,
    part: AdapterArguments | None = None,
    **training: Any,
) -> torch.nn.Module:
    """Fine-tune a copy of the model to give the rows' label words (pattern-based, Mosbach et al. 2023, section 3).

    Args:
        part: which weights are trained; None for all.
        training: arguments of `RunArguments`, which are transformers' own with our defaults; the learning rate and the number of
            epochs are those of docs/defaults.md unless given.

    Returns:
        The fine-tuned model: a transformers model, or peft's around one.

    Raises:
        InputError: an argument is unusable, or a prompt does not fit the model's window.
    """
    part = part or AdapterArguments()
    student, run = _student(model, part, None, FINE_TUNING[part.part], len(rows), training)
    scorer = _scorer(student, tokenizer, rows, prompt)
    examples = scorer.answers.examples(scorer.prompter.prompts(_complete(rows)), _complete(rows), gold=True)
    return _train(FtTrainer, scorer, examples, run)


def distill(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Row],
    *,
    prompt: PromptFormat,
    demonstrations: Sequence[Row] = (),
    teacher_prompt: PromptFormat | None = None,
    teacher: PreTrainedModel | None = None,
    objective: Objective | None = None,
    part: AdapterArguments | None = None,
    **training: Any,
) -> torch.nn.Module:
    """Distil a context: the teacher reads context and query, a copy of the model learns to answer the query alone alike.

    Args:
        demonstrations: the context; or, or besides, what `teacher_prompt` puts in front (its `instruction`, `document`).
        teacher_prompt: the teacher's prompt; None for the student's.
        teacher: another model of the same vocabulary; None for the model itself.
        objective: what is minimised; None for the forward KL over the labels.
        part, training: as in `fine_tune`.

    Returns:
        The student: a transformers model, or peft's around one.

    Raises:
        InputError: an argument is unusable, or a prompt does not fit a model's window.
    """
    queries, part, objective = _complete(queries), part or AdapterArguments(), objective or Objective()
    reader = _scorer(model if teacher is None else teacher, tokenizer, queries, teacher_prompt or prompt, demonstrations)
    targets = Teacher([reader], queries, objective).precompute(Phase("teacher"))
    student, run = _student(model, part, reader.prompter.context_ids, DISTILLATION[part.part], len(queries), training)
    scorer = _scorer(student, tokenizer, queries, prompt)
    examples = scorer.answers.examples(scorer.prompter.prompts(queries), queries, gold=objective.ce_weight > 0)
    learning = {"choices": objective, "answers": scorer.answers}
    return _train(ContextDistillationTrainer, scorer, with_targets(examples, targets), run, **learning)


def _complete(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with what their readers expect of every row."""
    return [{"idx": i, "text2": None, "label": None, **row} for i, row in enumerate(rows)]


def _scorer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    prompt: PromptFormat,
    demonstrations: Sequence[Row] = (),
    calibrate: bool = False,
) -> Scorer:
    prompter = Prompter(tokenizer, prompt, tuple(_complete(demonstrations)))
    batch_size = BatchSize(RunArguments.per_device_eval_batch_size)
    scorer = Scorer.create(model.eval(), prompter, Labels, _complete(rows)[0], batch_size, calibrate=calibrate)
    scorer.check_window(_complete(rows))
    return scorer


def _student(
    model: PreTrainedModel,
    part: AdapterArguments,
    context_ids: Sequence[int] | None,
    defaults: TrainingDefaults,
    rows: int,
    training: Mapping[str, Any],
) -> tuple[torch.nn.Module, RunArguments]:
    """A copy of the model with the part made trainable, and how it is trained."""
    usual = {"learning_rate": defaults.learning_rate, "num_train_epochs": defaults.epochs(rows)}
    run = RunArguments(**{"output_dir": tempfile.gettempdir(), **usual, **training})
    return adapt(copy.deepcopy(model), part, context_ids, run.seed), run


def _train(
    trainer_class: type[FtTrainer], scorer: Scorer, examples: Sequence[dict[str, Any]], run: RunArguments, **more: Any
) -> torch.nn.Module:
    finite = StopAtNonFinite(range(len(examples)), scorer.model.name_or_path)
    make_trainer(trainer_class, scorer, examples, run, finite=finite, **more).train()
    return scorer.model.eval()
