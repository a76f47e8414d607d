"""The three methods as functions on a model in memory, without a command line or a record.

Rows are dicts: `text1`, `text2` if the pattern has it, `label` (from 0, in the order of the prompt's label words) or, if the
prompt has no label words, `answer` (a text, or several accepted ones), and optionally `idx`, their own number; queries of
`distill` need neither label nor answer. The weights of the caller's model do not change, but it is put in eval mode; a copy
is trained.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from transformers import set_seed

from llmft.arguments.context import WritingArguments
from llmft.arguments.methods import AdapterArguments
from llmft.arguments.objective import Objective
from llmft.arguments.run import DistillationRunArguments, RunArguments
from llmft.arguments.training_defaults import DISTILLATION, FINE_TUNING, TrainingDefaults
from llmft.cost.phases import Phase
from llmft.distillation.teacher import Teacher
from llmft.distillation.trainer import ContextDistillationTrainer, with_targets
from llmft.errors import InputError
from llmft.evaluation.kinds import ANSWERS
from llmft.evaluation.scorer import Scorer
from llmft.models.parts.adapt import adapt
from llmft.models.reading.batches import BatchSize
from llmft.pipelines.distillation_checks import check_support
from llmft.pipelines.teacher_answers import say_how_many_are_cut
from llmft.pipelines.teachers import check_vocabularies, fit_logits
from llmft.pipelines.training import make_trainer
from llmft.prompts.alignment import check_alignment
from llmft.prompts.chat import ChatFormat
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat
from llmft.tasks.rows import whole_number
from llmft.training.ft_trainer import FtTrainer
from llmft.training.stop_at_nan import StopAtNonFinite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.evaluation.answers import Answers

    Row = Mapping[str, Any]

NOT_DONE: Mapping[str, Any] = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "save_final_model": False,
    "push_to_hub": False,
    "log_l2_dist_per_weight": False,
    "count_flops": False,
    "overwrite_output_dir": False,
}
"""Arguments of a run for what functions do not do -> the value that does not ask for it."""


def in_context(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    prompt: PromptFormat,
    demonstrations: Sequence[Row] = (),
    calibrate: bool = False,
    max_new_tokens: int = 64,
    stop: Sequence[str] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Ask a model about rows that have a label or an answer, after demonstrations if there are any.

    Args:
        max_new_tokens: maximum length of a text answer in tokens.
        stop: texts that end a text answer, besides the model's end token; () for none. By default the separator of
            demonstrations, if there are any: give it for a student that learnt from such a teacher (`stop` in `student.json`).

    Returns:
        The metrics, and a frame with `idx`, `target`, `prediction` and `score` of each row.

    Raises:
        InputError: a prompt does not fit the model's window, a label word is not one token, labels are given a length or a
            `stop`, a right answer is longer than `max_new_tokens`, or what ends answers ends all right ones early.
    """
    rows = _complete(rows, prompt)
    writing = _writing(prompt, max_new_tokens, stop)
    shots, batch_size = _complete(demonstrations, prompt, least=0), BatchSize(RunArguments.per_device_eval_batch_size)
    scorer = _scorer(model, tokenizer, rows, prompt, shots, batch_size=batch_size, writing=writing, calibrate=calibrate)
    scorer.answers.check_stops(rows)
    scores = scorer.score(rows, Phase("evaluate"))
    return scorer.answers.metrics(scores), pd.DataFrame({name: scores[name] for name in ("idx", "target", "prediction", "score")})


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    prompt: PromptFormat,
    part: AdapterArguments | None = None,
    max_new_tokens: int = 64,
    **training: Any,
) -> torch.nn.Module:
    """Fine-tune a copy of the model to give the rows' label words (pattern-based, Mosbach et al. 2023, section 3), or answers.

    Args:
        part: which weights are trained; None for all.
        max_new_tokens: the most tokens that a text answer may have, for which room is kept in the window.
        training: arguments of `RunArguments`, which are transformers' own with ft.py's defaults; the learning rate and the number
            of epochs are those of docs/defaults.md unless given. Nothing is evaluated, saved or pushed.

    Returns:
        The fine-tuned model: a transformers model, or peft's around one.

    Raises:
        InputError: an argument is unusable, a prompt does not fit the model's window, or an answer is too long.
    """
    rows, part, writing = _complete(rows, prompt), part or AdapterArguments(), _writing(prompt, max_new_tokens)
    run = _run_arguments(RunArguments, FINE_TUNING[part.part], len(rows), training)
    student = _student(model, part, None, run)
    scorer = _scorer(student, tokenizer, rows, prompt, batch_size=BatchSize.of(run), writing=writing)
    examples = scorer.answers.examples(scorer.prompter.prompts(rows), rows, gold=True)
    return _train(FtTrainer, scorer, examples, rows, run)


def distill(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Row],
    *,
    prompt: PromptFormat,
    demonstrations: Sequence[Row] = (),
    teacher_prompt: PromptFormat | None = None,
    teacher: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
    objective: Objective | None = None,
    part: AdapterArguments | None = None,
    max_new_tokens: int = 64,
    stop: Sequence[str] | None = None,
    **training: Any,
) -> torch.nn.Module:
    """Distil a context: the teacher reads context and query, and a copy of the model learns to give the same answers to only
    the query.

    Args:
        demonstrations: the context, instead of or in addition to that of `teacher_prompt` (its `instruction`, `document`).
        teacher_prompt: the teacher's prompt; None for the student's.
        teacher: another model with the same vocabulary and its tokenizer; None for the model itself. If its output layer is
            padded to more tokens than the model's, the extra ones are cut off permanently, unless only labels are compared.
        objective: what is minimised; None for the forward KL over the labels or, for text answers, over the teacher's 50
            most likely tokens and the rest at each token of its answers.
        max_new_tokens, stop: as in `in_context`, for the teacher's text answers; a note says how many may be cut off.
        part, training: as in `fine_tune`, with distill.py's defaults (`DistillationRunArguments`).

    Returns:
        The student: a transformers model, or peft's around one.

    Raises:
        InputError: an argument is unusable, or a prompt does not fit a model's window.
    """
    kind, writing = _kind(prompt), _writing(prompt, max_new_tokens, stop)
    teacher_prompt, part = teacher_prompt or prompt, part or AdapterArguments()
    objective = objective or Objective(**kind.defaults)
    if objective.support not in kind.supports:
        supports = ", ".join(kind.supports)
        raise InputError(f"objective: support {objective.support} does not apply to these answers; give one of {supports}")
    queries = _complete(queries, prompt, labelled=not kind.in_words and objective.ce_weight > 0)
    check_support(objective, teacher_prompt, prompt, calibrate=False)
    run = _run_arguments(DistillationRunArguments, DISTILLATION[part.part], len(queries), training)
    if teacher is not None:
        check_vocabularies(teacher[1], tokenizer, "teacher")
        fit_logits(teacher[0], model, objective.support)
    shots, how = _complete(demonstrations, teacher_prompt, least=0), {"batch_size": BatchSize.of(run), "writing": writing}
    reader = _scorer(*(teacher or (model, tokenizer)), queries, teacher_prompt, shots, **how)
    if kind.in_words or isinstance(prompt, ChatFormat):
        check_alignment(reader.prompter, Prompter(tokenizer, prompt), queries)
    if kind.in_words:
        queries = reader.answered(queries, Phase("teacher"))
        say_how_many_are_cut(queries, max_new_tokens)
    targets = Teacher([reader], queries, objective).precompute(Phase("teacher"))
    student = _student(model, part, reader.prompter.context_ids, run)
    scorer = _scorer(student, tokenizer, queries, prompt, **how)
    examples = scorer.answers.examples(scorer.prompter.prompts(queries), queries, gold=objective.ce_weight > 0)
    learning = {"choices": objective, "answers": scorer.answers}
    return _train(ContextDistillationTrainer, scorer, with_targets(examples, targets), queries, run, **learning)


def _complete(rows: Sequence[Row], prompt: PromptFormat, *, labelled: bool = True, least: int = 1) -> list[dict[str, Any]]:
    """The rows with all required fields; `labelled` ones are checked to have a label with a word."""
    if len(rows) < least:
        raise InputError("rows: is empty; give at least one")
    complete = [{"idx": i, "text2": None, "label": None, **_known(row)} for i, row in enumerate(rows)]
    for row in complete:
        if not isinstance(row.get("text1"), str):
            raise InputError(f"rows: row {row['idx']} has no text1; give it a text")
    if _kind(prompt).in_words:
        return [_with_answers(row, needed=labelled) for row in complete]
    if not labelled:
        return complete
    return [{**row, "label": _label(row["label"], i, len(prompt.words))} for i, row in enumerate(complete)]


def _known(row: Row) -> dict[str, Any]:
    """The row without the fields that are None, or that pandas marks as missing."""
    return {name: cell for name, cell in row.items() if not (pd.api.types.is_scalar(cell) and pd.isna(cell))}


def _label(cell: Any, place: int, count: int) -> int:
    """The number of a label, which may be a float or a boolean of pandas, or a scalar of numpy or torch."""
    with suppress(ValueError):
        if 0 <= (label := whole_number(cell.item() if hasattr(cell, "item") else cell)) < count:
            return label
    raise InputError(f"rows: the label of row {place} is {cell}; the prompt has words for 0 to {count - 1}")


def _with_answers(row: dict[str, Any], *, needed: bool) -> dict[str, Any]:
    answers = row.get("answer", "")
    if isinstance(answers, str):
        answers = (answers,) * bool(answers)
    elif isinstance(answers, Iterable) and not isinstance(answers, Mapping):
        answers = tuple(answers)
    if not (isinstance(answers, tuple) and all(isinstance(answer, str) for answer in answers)):
        raise InputError(f"rows: the answer of row {row['idx']} is {answers}; give a text, or a list of texts")
    if needed and not answers:
        raise InputError(f"rows: row {row['idx']} has no answer; the prompt has no label words, so rows need a text")
    return {**row, "answer": answers, "document": row.get("document")}


def _kind(prompt: PromptFormat) -> type[Answers]:
    """The kind of answers to a prompt: labels if it has words for them."""
    return ANSWERS["label" if prompt.words else "text"]


def _writing(prompt: PromptFormat, max_new_tokens: int, stop: Sequence[str] | None = None) -> dict[str, Any]:
    """How text answers are generated: settings of `Generation`, none for labels."""
    given = None if stop is None else (stop,) * bool(stop) if isinstance(stop, str) else tuple(stop)
    if _kind(prompt).in_words:
        if not all(given or ()):
            raise InputError("stop: one of the texts is empty, so it matches any answer; leave it out")
        limit = WritingArguments(max_new_tokens).max_new_tokens
        return {"max_new_tokens": limit} | ({} if given is None else {"stop": given})
    if given:
        raise InputError("stop: labels are not generated, so nothing ends them; leave it out")
    if max_new_tokens != WritingArguments.max_new_tokens:
        raise InputError(f"max_new_tokens {max_new_tokens}: labels are not generated, so nothing limits them; leave it out")
    return {}


def _scorer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    prompt: PromptFormat,
    demonstrations: Sequence[Row] = (),
    *,
    batch_size: BatchSize,
    writing: Mapping[str, Any],
    calibrate: bool = False,
) -> Scorer:
    prompter = Prompter(tokenizer, prompt, tuple(demonstrations))
    scorer = Scorer.create(model.eval(), prompter, _kind(prompt), rows[0], batch_size, calibrate=calibrate)
    if writing:
        scorer = scorer.generating(**writing)
        scorer = replace(scorer, prompter=replace(scorer.prompter, behind=scorer.answers.behind))
    scorer.check_window(rows)
    return scorer


def _run_arguments(kind: type[RunArguments], defaults: TrainingDefaults, rows: int, training: Mapping[str, Any]) -> RunArguments:
    """How a part is trained on this number of rows."""
    for name, value in NOT_DONE.items():
        if training.get(name, value) != value:
            raise InputError(f"{name} {training[name]}: functions only train a model and return it; drop it")
    usual = {"learning_rate": defaults.learning_rate, "num_train_epochs": defaults.epochs(rows)}
    run = kind(**{"output_dir": tempfile.gettempdir(), **usual, **training})
    set_seed(run.seed)  # peft draws from torch's global generator
    return run


def _student(
    model: PreTrainedModel, part: AdapterArguments, context_ids: Sequence[int] | None, run: RunArguments
) -> torch.nn.Module:
    if context_ids is None:
        part.check_without_context()
    return adapt(copy.deepcopy(model), part, context_ids, run.seed)


def _train(
    trainer_class: type[FtTrainer],
    scorer: Scorer,
    examples: Sequence[dict[str, Any]],
    rows: Sequence[Row],
    run: RunArguments,
    **more: Any,
) -> torch.nn.Module:
    finite = StopAtNonFinite([row["idx"] for row in rows], scorer.model.name_or_path)
    make_trainer(trainer_class, scorer, examples, run, finite=finite, **more).train()
    return scorer.model.eval()
