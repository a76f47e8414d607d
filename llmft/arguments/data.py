"""Which rows, which demonstrations, and how prompts are written."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import UPSTREAM, flag

QUESTIONS = "--task questions|code"
OWN_FILES = ("--train_file", "--query_file", "--retain_file", QUESTIONS)
WORDS = (QUESTIONS, "--query_file", "--retain_file")
PBFT = "--method pbft"
SHOWN = ("--context demonstrations", "--train_on demonstrations")
NOT_DRAWN = {"--sample_indices_file": "which lists the demonstrations in order"}
"""Conditions of flags that several scripts have; a script ignores conditions on flags that it does not have."""


@dataclass
class PromptArguments(Checked):
    """How a row is shown."""

    _argument_group_name = "prompt"

    pattern: str | None = flag(
        "Prompt with {text1} and {text2}, instead of a named one.",
        excludes={"--student_pattern --teacher_pattern": "which are used instead of it"},
    )
    target_prefix: str | None = flag(
        r"Text between pattern and label; \n and \t mean newline and tab. Default: the named pattern's.",
        needs=PBFT,
        may_be_empty=True,
    )
    chat: bool = flag(
        "Use the model's chat template: the prompt above is the user's turn, the answer the assistant's, and demonstrations are "
        "earlier turns.",
        False,
        excludes={"--upstream_prompts": "", "--label_delimiter": "the template determines the text between query and answer"},
    )
    system_prompt: str | None = flag(
        "Start of the system message, for teacher and student: a text, or a file that contains it. Default: the template's own.",
        kind="text or path",
        needs="--chat",
    )
    context_role: str = flag(
        "Where the context goes: into the `system` message, or before the first `user` turn.",
        "system",
        choices=("system", "user"),
        needs="--chat",
    )
    separate_shots_by: str = flag("Text after each demonstration.", r"\n\n", may_be_empty=True)


@dataclass
class DataArguments(PromptArguments):
    """Which task, where its rows are stored, and how a row is shown."""

    _argument_group_name = "task and prompt"

    task_name: str | None = flag(
        "Task: toy, rte, mnli, mnli-original, qqp, cola, sst2, ag_news; with text answers notes, squad, and questions and "
        "code, which read your own files; default: rte.",
        aliases=("--task",),
        excludes="--train_file",
        exempt=("questions", "code"),
        names_run=False,
    )
    task_variant: str | None = flag(
        "Variant of a task that has several; toy: a rule, `flipped`, `confounded` (comma-separated). Default: by --data_seed."
    )
    data_dir: str | None = flag(
        "Folder of local files (glue/rte/train.parquet, ...); default: $LLMFT_DATA_DIR, else the hub.",
        os.environ.get("LLMFT_DATA_DIR"),
        kind="path",
    )
    dataset_cache_dir: str | None = flag("Where hub data sets are cached.", kind="folder")
    subsample_splits: int | None = flag(
        "Rows kept of each split, upstream's fixed draw; 0: all. Default: the task's own (1000 for qqp, else all).",
        at_least=0,
    )
    eval_task_name: str | None = flag(
        "Out-of-domain sets (comma-separated): hans, mnli-mismatched, paws-qqp, cola-ood; or none. Default: the task's partner."
    )
    eval_task_path: str | None = flag("File of the one set named by --eval_task_name.", kind="path", group=UPSTREAM)
    eval_on_hans: bool = flag("Evaluate on hans; any --eval_on_... limits evaluation to the sets named.", False, group=UPSTREAM)
    eval_on_mnli_mismatched: bool = flag("Evaluate on mnli-mismatched.", False, group=UPSTREAM)
    eval_on_paws_qqp: bool = flag("Evaluate on paws-qqp.", False, group=UPSTREAM)
    eval_on_cola_ood: bool = flag("Evaluate on cola-ood.", False, group=UPSTREAM)
    paws_qqp_file: str | None = flag("PAWS-QQP's dev_and_test.tsv; default: under --data_dir.", kind="path", group=UPSTREAM)
    cola_ood_file: str | None = flag(
        "CoLA-OOD's dev.tsv; default: under --data_dir, else the hub's CoLA.", kind="path", group=UPSTREAM
    )
    hans_heuristics: str = flag("HANS: lexical_overlap, subsequence, constituent (comma-separated), or all.", "lexical_overlap")
    hans_subcase: str | None = flag("HANS: a single subcase, such as le_passive; default: all subcases of a heuristic.")
    train_file: str | None = flag(
        "Your own training rows, instead of a task or for --task questions: parquet, jsonl, json, csv or tsv.",
        kind="path",
        needs=("--validation_file", QUESTIONS),
    )
    validation_file: str | None = flag(
        "In-domain evaluation rows; default with --task questions: the rows of --query_file that have answers.",
        kind="path",
        needs=("--train_file", QUESTIONS),
    )
    test_file: str | None = flag(
        "An additional evaluation set, in a separate group `test`.", kind="path", needs=("--train_file", QUESTIONS)
    )
    out_of_domain_file: str | None = flag("Out-of-domain evaluation rows.", kind="path", needs=("--train_file", QUESTIONS))
    text1_column: str = flag("Column of your own files that holds {text1}.", "text1", needs=OWN_FILES)
    text2_column: str | None = flag("Column of your own files that holds {text2}; default: text2, if it exists.", needs=OWN_FILES)
    label_column: str = flag(
        "Column of your own files that holds the labels: numbers from 0, or text.", "label", needs=OWN_FILES, answers="label"
    )
    label_names: str | None = flag(
        "Labels of your own files in order (comma-separated); default: those in --train_file, sorted.",
        needs="--train_file",
        answers="label",
    )
    answer_column: str = flag(
        "Column of your own files that holds text answers: a text, or a list of accepted texts; the first one is trained on.",
        "answer",
        needs=WORDS,
        answers="text",
    )
    document_column: str | None = flag(
        "Column of your own files that holds the document a row is about: its text, or with --context_file the name of one of "
        "those files. Default: none; for tasks about documents, their own column or `document`.",
        needs=WORDS,
        answers="text",
    )
    turns_column: str | None = flag(
        'Column of your own files that holds conversations, [{"role": "user", "content": "..."}, {"role": "assistant", ...}, '
        "...], instead of question and answer: each assistant turn is an answer, and the turns before it are read with its "
        "query; a user turn may have its own document. Default: turns, if it exists.",
        needs=WORDS,
        answers="text",
    )
    max_train_samples: int | None = flag(
        "Training rows (ft.py) or queries (distill.py), drawn by --data_seed; default: all.",
        needs="--train_on train",
        evaluation="ignored",
    )
    max_eval_samples: int | None = flag("Rows of each evaluation set, upstream's fixed draw; default: all.", at_least=1)
    metric: str | None = flag(
        "Additional metrics (comma-separated): f1, matthews_correlation (labels); exact_match, f1, contains, rougeL, "
        "edit_similarity (text), code_exact_match, identifier_match, identifier_f1 (code); the file of a module of the library "
        "evaluate, or its name on the hub.",
        kind="path",
    )
    rules: str | None = flag(
        "Rules that answers are judged by instead of correct answers, a JSON object or a file with one: "
        '{"name": {"check": "ends_with", "text": "..."}}; other checks: equals (text), json_keys (keys), lower_case, matches '
        "(pattern).",
        kind="text or path",
        needs=QUESTIONS,
        excludes={"--metric": "which compares with correct answers"},
        answers="text",
    )
    run_code: str | None = flag(
        "Run the programs that answers complete, each in a process with resource limits, with the modules of this folder: the "
        "metric `runs`. Code written by a model is executed only with this flag.",
        kind="path",
        needs="--task code",
        excludes={"--rules": "which judge the answers instead"},
    )
    pattern_name: str = flag(
        "Name of a pattern of Mosbach et al. 2023, Table 5.",
        "minimal",
        choices=("minimal", "gpt-3", "eval-harness"),
        excludes="--pattern",
    )
    target_tokens: str | None = flag(
        "A word for each label, in label order (comma-separated); default: the task's own.", needs=PBFT, answers="label"
    )
    label_delimiter: str | None = flag(
        "Text between query and label, also in demonstrations. Default: a space; nothing after a pattern that ends in a newline, "
        "a tab or a special token, or if the label words are in a script without spaces.",
        needs=PBFT,
        excludes="--upstream_prompts",
        may_be_empty=True,
    )
    task_description: str = flag("Text before the demonstrations.", "", may_be_empty=True)
    multi_token_labels: bool = flag(
        "Allow labels of several tokens, scored by the sum of their log-probabilities (eval.py, distill.py).",
        False,
        excludes={
            "--targets hard|gold": "which are learnt from labels of one token",
            "--ce_weight": "the cross-entropy is with labels of one token",
        },
        answers="label",
    )
    max_seq_length: int | None = flag(
        "Maximum length of a prompt in tokens (eval.py, ft.py); the longer text of longer prompts is cut at its end. Default: "
        "the model's window, without cutting.",
        at_least=1,
    )
    upstream_prompts: bool = flag(
        r"Use the exact strings of uds-lsv/llmft (\n stays two characters; its spacing), to compare with published numbers.",
        False,
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics in --metric, without duplicates."""
        return tuple(dict.fromkeys(name.strip() for name in (self.metric or "").split(",") if name.strip()))


@dataclass
class DemonstrationArguments(Checked):
    """Which rows are the demonstrations."""

    _argument_group_name = "demonstrations"

    num_shots: int = flag("Demonstrations in the context; 0 for none.", 16, at_least=0, needs=SHOWN)
    balanced: bool = flag(
        "The same number of demonstrations of each label.", True, needs=SHOWN, excludes=NOT_DRAWN, answers="label"
    )
    shuffle: bool = flag(
        "Shuffle the demonstrations by --data_seed, else keep the order of the data.", True, needs=SHOWN, excludes=NOT_DRAWN
    )
    sample_indices_file: str | None = flag(
        "File with the idx of the demonstrations in prompt order, instead of a draw: csv with a column idx, or a .json list.",
        kind="path",
        needs=SHOWN,
    )

    @property
    def asked_for(self) -> bool:
        """Whether demonstrations are to be shown."""
        return self.num_shots > 0 or self.sample_indices_file is not None


@dataclass
class CalibrationArguments(Checked):
    """How a model's bias towards one label is corrected."""

    _argument_group_name = "calibration"

    calibrate: bool = flag(
        "Divide out the label prior of content-free queries after the same context (Zhao et al. 2021), in ICL and teacher.",
        False,
        excludes={"--context label": "a content-free query has no label to show"},
        answers="label",
    )
