"""Self-study: a model writes queries about documents, chunk by chunk, and answers them after reading the chunk; distill.py uses
both (--query_file, --answers given). Useless pairs are dropped, counted, and written to a separate file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.arguments.checks import read_json
from llmft.arguments.command_line import make, read
from llmft.arguments.config import Config
from llmft.arguments.context import ChunkArguments, DocumentArguments, WritingArguments
from llmft.arguments.data import DataArguments, DemonstrationArguments, PromptArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import SEEDS, RunArguments
from llmft.arguments.self_study import SelfStudyArguments
from llmft.cost.meter import open_meter
from llmft.cost.phases import combine_ranks
from llmft.errors import InputError, listed
from llmft.models.identity import fingerprint_model
from llmft.pipelines.chunking import ChunkedDocuments, token_count
from llmft.pipelines.job import Job
from llmft.pipelines.loading import load_other_model, load_start
from llmft.pipelines.prepare import say_without_text, set_up_process
from llmft.pipelines.process import no_room
from llmft.pipelines.prompting import format_of, prompt_format_of
from llmft.pipelines.run_identity import settings
from llmft.pipelines.study_files import StudyFiles
from llmft.runs.launch import this_process
from llmft.runs.notes import say_note
from llmft.runs.program import oom_as_input_error
from llmft.runs.ranks import all_gather, from_rank_0
from llmft.runs.record import RunRecord, environment
from llmft.runs.secrets import without_secrets
from llmft.runs.session import exclusively
from llmft.runs.store import check_writable, short_hash, writing
from llmft.tasks.questions import documents_of
from llmft.tasks.table import get_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmft.cost.phases import Phase
    from llmft.distillation.sifting import Sieve, WrittenPair
    from llmft.distillation.synthesis import Assignment
    from llmft.evaluation.answer_cache import AnswerCache
    from llmft.evaluation.scorer import Scorer
    from llmft.prompts.render import PromptFormat
    from llmft.tasks.chunks import Chunk
    from llmft.tasks.schema import Row

GROUPS = (
    ModelArguments,
    PromptArguments,
    DocumentArguments,
    ChunkArguments,
    WritingArguments,
    SelfStudyArguments,
    RunArguments,
)
TOLD_IN_CHAT, TOLD_IN_TEXT, LINE_END = "{text1}", "{text1}\nQuestion:", r"\n"
"""The patterns of the writer's prompt, with and without a chat template, and what ends its query without one."""


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Write queries about documents and their answers to a file.

    Returns:
        An empty list: there is no run folder.

    Raises:
        InputError: the arguments are unusable.
    """
    job = prepare_study(argv)
    files, run = StudyFiles.of(job.config.self_study.output_file), job.config.run
    if job.record.writes:
        check_writable(files.pairs.parent, f"--output_file {files.pairs}")
    with writing(str(files.pairs), "--output_file"), exclusively(job.record):
        finished = job.record.writes and files.finished(job.setting, overwrite=run.overwrite_output_dir)
        if not from_rank_0(finished):  # rank 0's view counts: disks may lag
            job.meter = open_meter()
            with oom_as_input_error(no_room(job)), job.meter.measuring(count_flops=run.count_flops):
                study(job, files)
    return []


def prepare_study(argv: Sequence[str] | None) -> Job:
    """Parse the command line.

    Raises:
        InputError: the arguments are unusable.
    """
    values, given = read(GROUPS, argv, __doc__)
    model, prompt, context, chunks, writing, flags, run = make(GROUPS, values)
    name = model.model_name_or_path
    if "seed" in given:
        raise InputError(f"--seed {run.seed}: has no effect here; --data_seed draws the queries")
    if name is None:
        raise InputError("--model_name_or_path: not given; name the model that answers")
    if not context.context_files:
        raise InputError("--context_file: not given; name the documents, or their folder with --context_dir")
    say_without_text(context)
    task = get_task("questions")
    data = DataArguments(task_name=task.name, **{field.name: getattr(prompt, field.name) for field in fields(prompt)})
    shots = DemonstrationArguments(num_shots=0)
    config = Config(model, data, shots, context, writing, chunks=chunks, self_study=flags, run=run)
    identity = settings(config, task, method="self-study", model_name=name, given=given, schedule={})
    identity["documents"] = [file.name for file in context.context_files]
    if flags.writer_model_name_or_path is not None:
        writer, flag = flags.writer_model_name_or_path, "--writer_model_name_or_path"
        identity["writer"] = fingerprint_model(writer, flags.writer_model_revision, flag, cache_dir=model.cache_dir)
    set_up_process(config)
    record = RunRecord(Path(flags.output_file), writes=this_process().is_first)
    job = Job("self-study", task, name, config, identity["given"], None, {}, short_hash(identity), {}, {}, record)
    prompt_format_of(job).check_texts([question(0, "")])  # raises errors early
    return job


def study(job: Job, files: StudyFiles) -> None:
    """Write queries, answer them, filter both, and print a summary.

    Raises:
        InputError: a chunk or a query does not fit the model's window, or a file cannot be written.
    """
    from llmft.distillation.sifting import Sieve
    from llmft.distillation.synthesis import SEED_PROMPTS, assign

    flags = job.config.self_study
    with job.meter.phase("load"):
        documents = documents_of(job.config.context.context_files)
        model, tokenizer = load_start(job)
        chunked = ChunkedDocuments(job.config, documents, partial(token_count, tokenizer))
        chunks = [chunk for document in documents for chunk in chunked.chunks(document)]
        prompts = SEED_PROMPTS if flags.seed_prompts is None else seed_prompts_of(flags.seed_prompts)
        asker = Asker.create(job, model, tokenizer)
        assignments = assign(chunks, [chunked.length(chunk.text) for chunk in chunks], prompts, flags.num_queries)
    sieve = Sieve(documents, chunks, flags.duplicate_similarity, keep_known=flags.keep_known)
    with job.meter.phase("load"):
        writer = writer_of(asker)
    sieve.take(write_queries(writer, chunks, assignments))
    answer_queries(asker, chunked, sieve)
    costs = combine_ranks(all_gather(job.meter.as_dict()))
    if job.record.writes:
        told = {"setting": job.setting, "model": job.model_name, "given": without_secrets(job.given)}
        files.write(
            sieve.lines(dropped=False),
            sieve.lines(dropped=True),
            told | sieve.summary | {"cost": costs, "environment": environment()},
        )
        print("\n".join(sieve.report()))
        print(f"pairs: {files.pairs}; dropped: {files.dropped}; counts, coverage and costs: {files.summary}")


def seed_prompts_of(value: str) -> dict[str, str]:
    """A user's seed prompts, by name.

    Raises:
        InputError: they are not texts.
    """
    from llmft.distillation.synthesis import PASSAGE

    prompts = read_json("seed_prompts", value)
    if not prompts or not all(isinstance(text, str) and text.strip() for text in prompts.values()):
        raise InputError('--seed_prompts: does not map names to texts; write {"name": "prompt", ...}')
    without = [name for name, text in prompts.items() if PASSAGE not in text]
    if without:
        say_note(
            f"--seed_prompts: no {PASSAGE} in {listed(without)}, so no sentence is named there, and queries may miss parts "
            "of a document"
        )
    return prompts


@dataclass(frozen=True)
class Asker:
    """A model that writes, with the cache of what it has written.

    Attributes:
        job: its flags say how to write.
    """

    job: Job
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cache: AnswerCache | None

    @classmethod
    def create(cls, job: Job, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Asker:
        """The model with the cache that the flags select.

        Raises:
            InputError: the cache's folder is not writable.
        """
        from llmft.evaluation.answer_cache import AnswerCache
        from llmft.models.reading.batches import BatchSize
        from llmft.runs.content_cache import ContentCache

        run, folder = job.config.run, job.config.self_study.teacher_cache_dir
        model.eval().requires_grad_(False)
        if folder == "none":
            return cls(job, model, tokenizer, None)
        store = ContentCache(folder or f"{run.output_dir}/teacher_cache")
        return cls(job, model, tokenizer, AnswerCache.create(store, model, tokenizer, BatchSize.of(run)))

    def scorer(self, prompt_format: PromptFormat) -> Scorer:
        """The model, asked with these prompts."""
        made = self.job.scorer(self.model, self.tokenizer, prompt_format, sample=question(0, "?"))
        return replace(made, cache=self.cache)


def question(idx: int, text: str) -> Row:
    """A row that asks a text."""
    return {"text1": text, "text2": None, "label": None, "idx": idx, "answer": (), "document": None}


def writer_of(asker: Asker) -> Asker:
    """The model that writes queries: the one that answers, or the other that the flags name, with their limit and temperature.

    Raises:
        InputError: it cannot be loaded.
    """
    job, flags = asker.job, asker.job.config.self_study
    stop = "" if job.config.data.chat else LINE_END
    writing = WritingArguments(flags.max_query_tokens, flags.query_temperature, stop)
    told = replace(job, config=replace(job.config, writing=writing))
    if flags.writer_model_name_or_path is None:
        return replace(asker, job=told)
    name, revision = flags.writer_model_name_or_path, flags.writer_model_revision
    return Asker.create(told, *load_other_model(told, name, "--writer_model_name_or_path", revision=revision))


def write_queries(writer: Asker, chunks: Sequence[Chunk], assignments: Sequence[Assignment]) -> list[WrittenPair]:
    """Let a model write the assigned queries, after each chunk.

    Raises:
        InputError: a chunk does not fit in its window.
    """
    from llmft.distillation.sifting import WrittenPair

    data, separator = writer.job.config.data, prompt_format_of(writer.job).separator
    pattern = TOLD_IN_CHAT if data.chat else TOLD_IN_TEXT
    told = format_of(replace(data, system_prompt=None))(pattern=pattern, prefix="", separator=separator, words=())
    pairs: dict[int, WrittenPair] = {}
    with writer.job.meter.phase("write") as phase:
        for place, chunk in enumerate(chunks):
            scorer = writer.scorer(replace(told, document=chunk.text))
            mine = {number: one for number, one in enumerate(assignments) if one.chunk == place}
            for again in sorted({one.round for one in mine.values()}):
                rows = [question(number, one.told) for number, one in mine.items() if one.round == again]
                seeded = scorer.generating(seed=writer.job.config.run.data_seed + SEEDS * again)
                for row in written_by(seeded, rows, phase):
                    prompt = mine[row["idx"]].seed_prompt
                    pairs[row["idx"]] = WrittenPair.written(place, prompt, scorer.answers, row["answer_ids"])
    return [pairs[number] for number in range(len(assignments))]


def written_by(scorer: Scorer, rows: Sequence[Row], phase: Phase) -> list[Row]:
    """As `Scorer.answered`, for queries.

    Raises:
        InputError: a prompt with its query does not fit the model's window.
    """
    try:
        return scorer.answered(rows, phase)
    except InputError as error:  # its message is about answers
        raise InputError(str(error).replace("--max_new_tokens", "--max_query_tokens")) from error


def answer_queries(asker: Asker, chunked: ChunkedDocuments, sieve: Sieve) -> None:
    """Let the model answer the remaining pairs, after their chunks and without them; drop useless ones.

    Raises:
        InputError: a chunk with a query does not fit in the model's window.
    """
    job = asker.job
    behind, without = prompt_format_of(job, "teacher"), asker.scorer(prompt_format_of(job, "student"))
    for place, chunk in enumerate(sieve.chunks):
        scorer = asker.scorer(replace(behind, document=chunked.read_with(chunk)[1]))
        with job.meter.phase("answer") as phase:
            sieve.take_answers(place, scorer.answers, answers_to(scorer, sieve.left(place), phase))
        with job.meter.phase("answer without the document") as phase:
            sieve.take_answers_without(place, without.answers, answers_to(without, sieve.left(place), phase))
    sieve.drop_duplicates()


def answers_to(scorer: Scorer, pairs: Sequence[WrittenPair], phase: Phase) -> list[list[int]]:
    """The model's answers to the pairs' queries, as tokens."""
    rows = [question(number, pair.query) for number, pair in enumerate(pairs)]
    return [row["answer_ids"] for row in scorer.answered(rows, phase)] if rows else []
