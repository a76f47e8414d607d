"""The task table and the table of out-of-domain sets; entries are data. If a change to an entry changes prompts or rows, bump
the task's version.

Labels, and therefore label words, are in the hub's order. `{text1}`/`{text2}` are the entry's text columns, whatever their names
in the data set. Patterns are those of Mosbach et al. 2023 (arXiv:2305.16938), Table 5, and of their code, if they have one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmft.errors import InputError
from llmft.tasks.schema import EvalSet, NamedPattern, OutOfDomain, Row, RowRange, Source, Task
from llmft.worlds.nli.training import TOY_TRAINING
from llmft.worlds.nli.world import LABEL_PATTERN, toy_instruction, toy_splits
from llmft.worlds.notes.training import NOTES_TRAINING
from llmft.worlds.notes.world import PATTERN as NOTES_PATTERN
from llmft.worlds.notes.world import notes_documents, notes_splits, notes_unrelated

__all__ = ["OUT_OF_DOMAIN", "TASKS", "Row", "Task", "eval_sets", "get_task", "task_to_keys"]

PAIR = "{text1} {text2} ?"
SINGLE = "{text1} ?"
QUESTION, QUESTION_PREFIX = "Question: {text1}", "\nAnswer:"
NLI_PATTERNS = {
    "minimal": NamedPattern(PAIR, "", ("Yes", "No")),
    "gpt-3": NamedPattern("{text1} question: {text2} Yes or No?", " answer:", ("Yes", "No")),
    "eval-harness": NamedPattern("{text1} \nQuestion: {text2} True or False?", "\nAnswer:", ("True", "False")),
}
NLI_LABEL_PATTERN = "Premise: {text1} Hypothesis: {text2} Label: {label} ?"
NEUTRAL_REMOVED = (0, None, 1)
NEUTRAL_MERGED = (0, 1, 1)
"""MNLI's entailment, neutral, contradiction as two labels."""


def _glue(name: str, split: str, **more: Any) -> Source:
    return Source((f"glue/{name}/{split}",), "nyu-mll/glue", name, split, **more)


def _sets(task: str, train: Source, in_domain: Source, columns: tuple[str, str | None], **more: Any) -> dict[str, EvalSet]:
    return {"train": EvalSet("train", train, columns, **more), "in_domain": EvalSet(task, in_domain, columns, **more)}


def _notes(variant: str | None, data_seed: int) -> dict[str, list[Row]]:
    """The splits of the embedded notes as rows of the table."""
    return {
        name: [{"text2": None, "label": None, **row, "answer": (row["answer"],)} for row in rows]
        for name, rows in notes_splits(variant, data_seed).items()
    }


# The hub's validation split is the in-domain dev set followed by the out-of-domain one. Upstream evaluates in-domain on
# all of it, including CoLA-OOD; here each row is in only one of the two.
COLA_ROWS, COLA_IN_DOMAIN = 1043, 527
MNLI_SOURCES = _glue("mnli", "train"), _glue("mnli", "validation_matched")
COLA_VALIDATION = _glue("cola", "validation", part=RowRange(COLA_ROWS, 0, COLA_IN_DOMAIN))

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="toy",
            version=1,
            label_names=("yes", "no"),
            patterns={"minimal": NamedPattern(PAIR, "", ("Yes", "No"))},
            default_model="toy",
            splits=toy_splits,
            training=TOY_TRAINING,
            has_variants=True,
            label_pattern=LABEL_PATTERN,
            instruction=toy_instruction,
        ),
        Task(
            name="rte",
            version=2,
            label_names=("entailment", "not_entailment"),
            patterns=NLI_PATTERNS,
            **_sets("rte", _glue("rte", "train"), _glue("rte", "validation"), ("sentence1", "sentence2")),
            partners=("hans",),
            label_pattern=NLI_LABEL_PATTERN,
        ),
        *(
            Task(
                name=name,
                version=1,
                label_names=("entailment", "contradiction"),
                patterns=NLI_PATTERNS,
                **_sets(name, *MNLI_SOURCES, ("premise", "hypothesis"), label_map=label_map),
                partners=("hans",),
                label_pattern=NLI_LABEL_PATTERN,
            )
            for name, label_map in (("mnli", NEUTRAL_REMOVED), ("mnli-original", NEUTRAL_MERGED))
        ),
        Task(
            name="qqp",
            version=1,
            label_names=("not_duplicate", "duplicate"),
            patterns={
                "minimal": NamedPattern(PAIR, "", ("No", "Yes")),
                "eval-harness": NamedPattern(
                    "Question 1: {text1}\nQuestion 2: {text2}\nQuestion: Do both questions ask the same thing?",
                    " Answer:",
                    ("No", "Yes"),
                ),
            },
            **_sets("qqp", _glue("qqp", "train"), _glue("qqp", "validation"), ("question1", "question2"), metrics=("f1",)),
            partners=("paws-qqp",),
            label_pattern="Question 1: {text1} Question 2: {text2} Label: {label} ?",
            subsample_splits=1000,
        ),
        Task(
            name="cola",
            version=1,
            label_names=("unacceptable", "acceptable"),
            patterns={
                "minimal": NamedPattern(SINGLE, "", ("No", "Yes")),
                "gpt-3": NamedPattern("grammatical: {text1} Yes or No?", " answer:", ("No", "Yes")),
            },
            **_sets("cola", _glue("cola", "train"), COLA_VALIDATION, ("sentence", None), metrics=("matthews_correlation",)),
            partners=("cola-ood",),
        ),
        Task(
            name="sst2",
            version=1,
            label_names=("negative", "positive"),
            patterns={"minimal": NamedPattern(SINGLE, "", ("No", "Yes"))},
            **_sets("sst2", _glue("sst2", "train"), _glue("sst2", "validation"), ("sentence", None)),
        ),
        Task(
            name="ag_news",
            version=1,
            label_names=("World", "Sports", "Business", "Sci/Tech"),
            patterns={"minimal": NamedPattern(SINGLE, "", ("World", "Sports", "Business", "Technology"))},
            **_sets(
                "ag_news",
                Source(("ag_news/train", "ag_news/data/train"), "fancyzhx/ag_news", None, "train"),
                Source(("ag_news/test", "ag_news/data/test"), "fancyzhx/ag_news", None, "test"),  # there is no validation split
                ("text", None),
            ),
        ),
        Task(
            name="notes",
            version=1,
            label_names=(),
            patterns={"minimal": NamedPattern(NOTES_PATTERN, "", ())},
            default_model="notes",
            splits=_notes,
            documents=notes_documents,
            unrelated=notes_unrelated,
            training=NOTES_TRAINING,
            answer="text",
            headline="exact_match",
            context="document",
        ),
        Task(
            name="squad",
            version=1,
            label_names=(),
            patterns={"minimal": NamedPattern(QUESTION, QUESTION_PREFIX, ())},
            **_sets(
                "squad",
                *(
                    Source((f"squad/{split}", f"squad/plain_text/{split}"), "rajpurkar/squad", None, split)
                    for split in ("train", "validation")
                ),
                ("question", None),
                answer_column="answers",
                document_column="context",
                title_column="title",
            ),
            answer="text",
            headline="exact_match",
            context="document",
        ),
        Task(
            name="questions",  # its rows are in the user's files (`tasks.questions`)
            version=1,
            label_names=(),
            patterns={"minimal": NamedPattern(QUESTION, QUESTION_PREFIX, ())},
            answer="text",
            headline="contains",
        ),
        Task(
            name="code",  # its rows are in the user's files (`tasks.questions`, `tasks.completions`)
            version=1,
            label_names=(),
            patterns={"minimal": NamedPattern("{text1}", "", ())},
            answer="text",
            headline="code_exact_match",
            metrics=("identifier_match", "identifier_f1"),
            delimiter="",
            stops=("\n",),
        ),
    )
}

LEXICAL_OVERLAP = "lexical_overlap"
HANS_SUBCASES: dict[str, tuple[str, ...]] = {
    LEXICAL_OVERLAP: tuple(
        """le_around_prepositional_phrase le_around_relative_clause le_conjunction le_passive le_relative_clause
        ln_conjunction ln_passive ln_preposition ln_relative_clause ln_subject/object_swap""".split()
    ),
    "subsequence": tuple(
        """se_PP_on_obj se_adjective se_conjunction se_relative_clause_on_obj se_understood_object
        sn_NP/S sn_NP/Z sn_PP_on_subject sn_past_participle sn_relative_clause_on_subject""".split()
    ),
    "constituent": tuple(
        """ce_adverb ce_after_since_clause ce_conjunction ce_embedded_under_since ce_embedded_under_verb
        cn_adverb cn_after_if_clause cn_disjunction cn_embedded_under_if cn_embedded_under_verb""".split()
    ),
}
"""HANS' heuristics and their subcases (McCoy et al. 2019, arXiv:1902.01007); the second letter is e(ntailment) or n(ot)."""

OUT_OF_DOMAIN: dict[str, OutOfDomain] = {
    entry.name: entry
    for entry in (
        OutOfDomain(
            name="hans",
            source=Source(
                ("hans/validation", "hans/heuristics_evaluation_set"),  # the latter is the authors' own release
                "jhu-cogsci/hans",
                hub_split="validation",
                hub_revision="refs/convert/parquet",  # the data set itself is a script, which datasets no longer runs
                rename=(("gold_label", "label"), ("sentence1", "premise"), ("sentence2", "hypothesis")),
                label_words=("entailment", "non-entailment"),
            ),
            text_columns=("premise", "hypothesis"),
            tasks={"rte": None, "mnli": None, "mnli-original": None},
            prefix="hans",
            split_by_label=("entailment", "contradiction"),
        ),
        OutOfDomain(
            name="mnli-mismatched",
            source=_glue("mnli", "validation_mismatched"),
            text_columns=("premise", "hypothesis"),
            tasks={"rte": NEUTRAL_REMOVED, "mnli": NEUTRAL_REMOVED, "mnli-original": NEUTRAL_MERGED},
            prefix="mnli_mm",
            split_by_label=("entailment", "contradiction"),
        ),
        OutOfDomain(
            name="paws-qqp",
            source=Source(
                ("paws_qqp/dev_and_test",),
                rename=(("id", "idx"),),
                bytes_literals=True,
                hint="the hub has no copy of PAWS-QQP; make it with github.com/google-research-datasets/paws and name it with "
                "--paws_qqp_file or --eval_task_path, or do without it: --eval_task_name none",
            ),
            text_columns=("sentence1", "sentence2"),
            tasks={"qqp": None},
            prefix="paws-qqp",
            metrics=("f1",),
        ),
        OutOfDomain(
            name="cola-ood",
            source=Source(
                ("cola_ood/dev",),
                header=("code", "label", "annotation", "sentence"),
                otherwise=_glue(
                    "cola",
                    "validation",
                    part=RowRange(COLA_ROWS, COLA_IN_DOMAIN, COLA_ROWS),
                    hint="name CoLA-OOD's dev.tsv with --cola_ood_file, or do without it: --eval_task_name none",
                ),
            ),
            text_columns=("sentence", None),
            tasks={"cola": None},
            prefix="cola-ood",
            metrics=("matthews_correlation",),
        ),
    )
}

task_to_keys: dict[str, tuple[str, str | None]] = {
    **{name: task.train.text_columns for name, task in TASKS.items() if task.train},
    **{name: entry.text_columns for name, entry in OUT_OF_DOMAIN.items()},
}
"""Task or out-of-domain set -> its text columns; the name is upstream's."""


def get_task(name: str) -> Task:
    """The entry named `name`, with the out-of-domain sets of its partners.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError(f"--task {name}: no such task; choose one of {', '.join(sorted(TASKS))}")
    task = TASKS[name]
    return replace(task, out_of_domain=tuple(s for partner in task.partners for s in eval_sets(OUT_OF_DOMAIN[partner], name)))


def eval_sets(
    entry: OutOfDomain, task_name: str, *, heuristics: tuple[str, ...] = (LEXICAL_OVERLAP,), subcase: str | None = None
) -> list[EvalSet]:
    """The evaluation sets of an out-of-domain entry for a task, with upstream's names.

    Args:
        heuristics: heuristics of HANS to use, each as a separate set.
        subcase: the only subcase of HANS to use; it belongs to one of `heuristics` and has a single label.
    """
    wanted: list[tuple[str, tuple[tuple[str, str], ...]]] = [(entry.prefix, ())]
    labels: dict[int | None, str] = {i: f"-{name}" for i, name in enumerate(entry.split_by_label)} or {None: ""}
    if entry.name == "hans" and subcase:
        (heuristic,) = (h for h in heuristics if subcase in HANS_SUBCASES[h])
        wanted = [(f"hans-{heuristic}-{subcase}", (("heuristic", heuristic), ("subcase", subcase)))]
        label = 0 if subcase[1] == "e" else 1
        labels = {label: labels[label]}
    elif entry.name == "hans":
        wanted = [(f"hans-{heuristic}", (("heuristic", heuristic),)) for heuristic in heuristics]
    return [
        EvalSet(
            prefix + name,
            entry.source,
            entry.text_columns,
            label_map=entry.tasks[task_name],
            label=label,
            where=where,
            metrics=entry.metrics,
        )
        for prefix, where in wanted
        for label, name in labels.items()
    ]
