"""Fine-tuning on labelled rows, on text answers, or on documents themselves. Pattern-based (PBFT): train the model to give
the right label's token after the query; its language-modelling head and a verbalizer take the place of a classification head.
Vanilla: train a new classification head instead (Mosbach et al. 2023, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.arguments.context import DocumentArguments, WritingArguments
from llmft.arguments.data import DataArguments, DemonstrationArguments
from llmft.arguments.methods import AdapterArguments, FineTuningArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import RunArguments
from llmft.errors import InputError
from llmft.pipelines.job import Job
from llmft.pipelines.loading import load_all
from llmft.pipelines.prepare import prepare
from llmft.pipelines.process import run_jobs
from llmft.pipelines.prompt_notes import say_cut, say_prompts
from llmft.pipelines.prompt_sizes import prompt_sizes, student_tokens
from llmft.pipelines.prompting import prompt_format_of
from llmft.pipelines.schedule import counted
from llmft.prompts.demonstrations import draw_training_rows
from llmft.prompts.render import read_context
from llmft.runs.notes import say_note
from llmft.tasks.texts import without_thought

if TYPE_CHECKING:
    import torch

    from llmft.evaluation.scorer import Scorer

GROUPS = (
    ModelArguments,
    AdapterArguments,
    DataArguments,
    DocumentArguments,
    DemonstrationArguments,
    WritingArguments,
    FineTuningArguments,
    RunArguments,
)


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Fine-tune on rows or documents; evaluate before and after, in-domain and out-of-domain.

    Returns:
        The folders of the runs.

    Raises:
        InputError: the arguments are unusable.
    """
    return run_jobs(prepare("pbft", GROUPS, argv, description=__doc__), tune)


def tune(job: Job) -> None:
    """One run."""
    from llmft.models.parts.adapt import trained_weights
    from llmft.models.parts.head import put_head
    from llmft.models.reading.kv_cache import kv_bytes_per_token
    from llmft.pipelines.elsewhere import Elsewhere
    from llmft.pipelines.training import train, trainable
    from llmft.training.ft_trainer import FtTrainer
    from llmft.training.stop_at_nan import check_start

    prompt_format = prompt_format_of(job)
    run, flags = job.config.run, job.config.fine_tuning
    on_demonstrations, vanilla = flags.train_on == "demonstrations", flags.method == "vanilla"
    check_fine_tuning(job)
    with job.meter.phase("load"):
        model, tokenizer = load_all(job, with_demonstrations=on_demonstrations)
        on_documents = flags.train_on == "document"
        if on_demonstrations:
            rows = job.demonstrations
        elif on_documents:
            rows = []
        else:
            drawn = draw_training_rows(job.data.train, job.config.data.max_train_samples, data_seed=run.data_seed)
            rows = [*map(without_thought, drawn)]
        if vanilla:
            put_head(model, flags.classifier_type, job.task.label_names, run.seed)
        student = job.scorer(model, tokenizer, prompt_format, reserved=job.config.trained.virtual_tokens)
        job.check_prompts(student, train_rows=rows)
        prompts = student.prompter.prompts(rows)
        examples = documents(job, student) if on_documents else student.answers.examples(prompts, rows, gold=True)
        check_start(job.model_name, trained_weights(model, job.config.trained))
        job.begin()
        say_prompts(job, {"": student}, () if on_demonstrations else rows)
    scores = {"before": job.score("before", student)}
    say_cut(job, scores["before"], (prompts.shortened, len(rows)))
    elsewhere = Elsewhere.create(job, student.answers, document_texts(job).values())
    elsewhere.before(student)
    student = student.with_model(trainable(job, model))
    trained = train(job, FtTrainer, student, examples, objective=objective(flags, student.answers.ids))
    elsewhere.score("after", student)
    elsewhere.keep()
    tokens = student_tokens(scores["before"][job.task.name], trained.scores["after"][job.task.name])
    sizes = prompt_sizes(tokens, {"student": kv_bytes_per_token(student.model)})
    metrics = {**sizes, **trained.metrics, **elsewhere.metrics(scores | trained.scores)}
    job.finish(metrics, trained.log, prompts={"student": [student.prompter.prompt_format]})


def documents(job: Job, student: Scorer) -> list[dict[str, Any]]:
    """Training examples of the documents that rows are about, whether they are drawn or not, or of the files that the flags name.

    Raises:
        InputError: there are none.
    """
    from llmft.training.document_examples import document_examples

    texts = document_texts(job)
    if not texts:
        raise InputError(f"--train_on document: {job.task.name} has no documents; name files with --context_file")
    prompter = student.prompter
    limits = [limit for limit in (prompter.window, prompter.max_length) if limit is not None]
    longest = min(limits) - prompter.virtual if limits else None
    job.train_idx, examples = document_examples(prompter.tokenizer, texts, longest)
    say_note(f"--train_on document: {counted(len(texts), 'document')}, in {counted(len(examples), 'example')}")
    return examples


def document_texts(job: Job) -> dict[str, str]:
    """The files that the flags name, or the documents that rows are about, name -> text: all of them if they are trained on,
    else those of the evaluation rows."""
    files = job.config.context.context_files
    if files and job.config.data.document_column is None:
        return {file.path: read_context(file) for file in files}
    if files or job.config.fine_tuning.train_on == "document":  # whether or not a row names them
        return job.data.documents
    named = dict.fromkeys(row.get("document") for rows in job.eval_sets.values() for row in rows)
    return {name: job.data.documents[name] for name in named if name is not None}


def check_fine_tuning(job: Job) -> None:
    """Check arguments of several groups against each other, before anything is loaded.

    Raises:
        InputError: arguments contradict each other.
    """
    if job.config.fine_tuning.train_on == "demonstrations" and job.config.shots.num_shots == 0:
        raise InputError("--num_shots 0: there are no demonstrations to train on; ask for 1 or more")
    if job.config.data.multi_token_labels:
        raise InputError("--multi_token_labels: works only in eval.py and distill.py; choose label words of one token")
    job.config.trained.check_without_context()


def objective(flags: FineTuningArguments, label_ids: Sequence[int]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss that the flags select, as a function of logits (B, V) and answers (B,)."""
    from llmft.training.losses import answer_cross_entropy, label_cross_entropy, t_few_loss

    if flags.loss == "t-few":
        return partial(t_few_loss, label_ids=label_ids)
    return partial(label_cross_entropy, label_ids=label_ids) if flags.target_tokens_logits_only else answer_cross_entropy
