"""The teacher of distillation: its model, its scorer, its cache of answers."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil

from llmft.arguments.distillation import DistillationArguments
from llmft.errors import InputError
from llmft.evaluation.answer_cache import AnswerCache
from llmft.models.parts.head import classification_head, cut_logits, logits_width
from llmft.models.wrapping import bare_model
from llmft.pipelines.job import Job
from llmft.pipelines.loading import load_other_model
from llmft.runs.content_cache import ContentCache
from llmft.runs.ranks import all_gather

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.distillation.teacher import Teacher
    from llmft.evaluation.scorer import MeanScorer

COPIES = 2
"""How many copies of distributions that are computed in advance are in memory at once: as they were read, and put together; one
more as they are written to the cache."""
FLOAT32 = 4
"""Bytes of one of their numbers."""


def teacher_model(
    job: Job, flags: DistillationArguments, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The initial student, or the other model that the flags name, with its tokenizer.

    Raises:
        InputError: it cannot be loaded, or has another vocabulary.
    """
    if flags.teacher_model_name_or_path is None:
        return job.loaded
    model, its_tokenizer = load_other_model(
        job, flags.teacher_model_name_or_path, "--teacher_model_name_or_path", revision=flags.teacher_model_revision
    )
    check_vocabularies(its_tokenizer, tokenizer, f"--teacher_model_name_or_path {flags.teacher_model_name_or_path}")
    fit_logits(model, job.loaded[0], flags.support, flags.answers)
    return model.eval().requires_grad_(False), its_tokenizer


def fit_logits(teacher: PreTrainedModel, student: PreTrainedModel, support: str, answers: str = "teacher") -> None:
    """Cut the teacher's logits to the width of the student's: since the vocabulary is the same, the rest is padding.

    Args:
        answers: who writes them; if it is the student, the teacher must know all of its tokens.

    Raises:
        InputError: the teacher lacks logits that the support compares.
    """
    if support != "labels" and classification_head(teacher) is not None:
        raise InputError(f"--support {support}: the teacher is a classifier and only gives labels; use --support labels")
    if support in ("labels", "labels_rest"):
        return
    widths = [logits_width(model) for model in (teacher, student)]
    if widths[0] > widths[1]:
        cut_logits(teacher, widths[1])
    elif widths[0] < widths[1] and (support == "vocab" or answers in ("student", "mixed")):
        by_support = ("--support vocab", "--support topk")
        given, remedy = by_support if support == "vocab" else (f"--answers {answers}", "--answers teacher")
        raise InputError(f"{given}: teacher and student have {widths[0]} and {widths[1]} logits; use {remedy}")


def check_vocabularies(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, flag: str) -> None:
    """Check that each token means the same to both.

    Raises:
        InputError: it does not; the message names the first token that differs.
    """
    left, right = teacher.get_vocab(), student.get_vocab()
    differing = sorted(set(left.items()) ^ set(right.items()), key=lambda pair: (pair[1], pair[0]))
    if differing:
        token, number = differing[0]
        raise InputError(
            f"{flag}: its vocabulary of {len(left)} tokens is not the student's of {len(right)}: {len(differing)} entries "
            f"differ, the first being {token!r} = {number}; choose a teacher with the student's tokenizer"
        )


def check_sizes(job: Job, teacher: MeanScorer) -> None:
    """Check flags against the sizes of the teacher's vocabulary and context.

    Raises:
        InputError: k is larger than the vocabulary, or a cartridge as long as the context has nothing to train.
    """
    flags, part = job.config.distillation, job.config.trained
    size = bare_model(teacher.scorers[0].model).config.get_text_config().vocab_size
    most = size // 2 if flags.answers == "mixed" else size  # there are as many tokens of the teacher as of the student
    if flags.support == "topk" and flags.topk > most:
        raise InputError(f"--topk {flags.topk}: the vocabulary has {size} tokens; use at most {most}")
    if part.use_cartridge and len(teacher.scorers) > 1:
        raise InputError(
            f"--use_cartridge: is initialised from one context, but there are {len(teacher.scorers)} documents; use only one, or "
            "train another part"
        )
    if part.use_cartridge:
        from llmft.models.parts.cartridge import context_start

        context_start(teacher.scorers[0].prompter.context_ids, part.cartridge_tokens, part.cartridge_frozen_tokens)


def check_memory(teacher: Teacher) -> None:
    """Check that a teacher's distributions over the vocabulary fit in the memory of every machine.

    Raises:
        InputError: they do not.
    """
    if teacher.objective.support != "vocab" or teacher.opens_a_file:
        return
    machines = all_gather((socket.gethostname(), psutil.virtual_memory().available))
    ranks = Counter(name for name, _ in machines)
    name, free = min(machines, key=lambda machine: machine[1] / ranks[machine[0]])
    width = logits_width(teacher.scorers[0].model)
    copies = COPIES + (teacher.scorers[0].cache is not None)
    needed = ranks[name] * copies * FLOAT32 * teacher.positions * width
    if needed > free:
        raise InputError(
            f"--support vocab: the teacher's distributions at {teacher.positions} tokens take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; use --teacher_mode online or --support topk"
        )


def with_cache(job: Job, teacher: MeanScorer) -> MeanScorer:
    """The same teacher with the cache of answers that the flags select.

    Raises:
        InputError: the cache's folder is not writable.
    """
    flags, run = job.config.distillation, job.config.run
    if flags.teacher_cache_dir == "none":
        return teacher
    store = ContentCache(flags.teacher_cache_dir or f"{run.output_dir}/teacher_cache")
    first = teacher.scorers[0]
    cache = AnswerCache.create(store, first.model, first.prompter.tokenizer, first.batch_size)
    return replace(teacher, scorers=tuple(replace(scorer, cache=cache) for scorer in teacher.scorers))
