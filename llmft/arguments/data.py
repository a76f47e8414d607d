"""Which rows, which demonstrations, and how prompts are written."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import UPSTREAM, flag

QUESTIONS = "--task_name questions|code"
OWN_FILES = ("--train_file", "--query_file", QUESTIONS)
WORDS = (QUESTIONS, "--query_file")
PBFT = "--method pbft"
SHOWN = "--context demonstrations"
"""Conditions of flags in several scripts; one on a flag that a script does not have does not count there."""


@dataclass
class PromptArguments(Checked):
    """How a row is shown."""

    _argument_group_name = "prompt"

    pattern: str | None = flag("Prompt with {text1} and {text2}, in place of a named one.")
    target_prefix: str | None = flag(
        r"Text between pattern and label; \n and \t mean newline and tab. Default: the named pattern's.",
        needs=PBFT,
        may_be_empty=True,
    )
    chat: bool = flag(
        "Ask in the model's chat template: the prompt above is the user's turn, the answer the assistant's, demonstrations are "
        "earlier turns.",
        False,
        excludes={"--upstream_prompts": "", "--label_delimiter": "the template says what stands between query and answer"},
    )
    system_prompt: str | None = flag(
        "What the system message begins with, for teacher and student: a text, or a file with one. Default: the template's own.",
        kind="text or path",
        needs="--chat",
    )
    context_role: str = flag(
        "Where the context stands: in the message of `system`, or in front of the first turn of `user`.",
        "system",
        choices=("system", "user"),
        needs="--chat",
    )
    separate_shots_by: str = flag("Text behind each demonstration.", r"\n\n", may_be_empty=True)


@dataclass
class DataArguments(PromptArguments):
    """Which task, where its rows lie, and how a row is shown."""

    _argument_group_name = "task and prompt"

    task_name: str | None = flag(
        "Task: toy, rte, mnli, mnli-original, qqp, cola, sst2, ag_news; with answers in words notes, squad, and questions and "
        "code, which read files of your own; default: rte.",
        aliases=("--task",),
        excludes="--train_file",
        exempt=("questions", "code"),
        names_run=False,
    )
    task_variant: str | None = flag(
        "Variant of a task that has several; toy: a rule, `flipped`, `confounded`, comma between. Default: by --data_seed."
    )
    data_dir: str | None = flag(
        "Folder with local files (glue/rte/train.parquet, ...); default: $LLMFT_DATA_DIR, else the hub.",
        os.environ.get("LLMFT_DATA_DIR"),
        kind="path",
    )
    dataset_cache_dir: str | None = flag("Where hub data sets are kept.", kind="folder")
    subsample_splits: int | None = flag(
        "Rows that each split is cut to, upstream's fixed draw; 0: whole. Default: the task's (1000 for qqp, else whole).",
        at_least=0,
    )
    eval_task_name: str | None = flag(
        "Out-of-domain sets, comma between: hans, mnli-mismatched, paws-qqp, cola-ood; or none. Default: the task's partner."
    )
    eval_task_path: str | None = flag("File of the one set that --eval_task_name names.", kind="path", group=UPSTREAM)
    eval_on_hans: bool = flag("Evaluate on hans; with any --eval_on_... the sets named are all there are.", False, group=UPSTREAM)
    eval_on_mnli_mismatched: bool = flag("Evaluate on mnli-mismatched.", False, group=UPSTREAM)
    eval_on_paws_qqp: bool = flag("Evaluate on paws-qqp.", False, group=UPSTREAM)
    eval_on_cola_ood: bool = flag("Evaluate on cola-ood.", False, group=UPSTREAM)
    paws_qqp_file: str | None = flag("PAWS-QQP's dev_and_test.tsv; default: below --data_dir.", kind="path", group=UPSTREAM)
    cola_ood_file: str | None = flag(
        "CoLA-OOD's dev.tsv; default: below --data_dir, else the hub's CoLA.", kind="path", group=UPSTREAM
    )
    hans_heuristics: str = flag("HANS: lexical_overlap, subsequence, constituent, comma between; or all.", "lexical_overlap")
    hans_subcase: str | None = flag("HANS: the only subcase, as le_passive; default: all of a heuristic.")
    train_file: str | None = flag(
        "Training rows of your own, in place of a task or for --task_name questions: parquet, jsonl, json, csv or tsv.",
        kind="path",
        needs=("--validation_file", QUESTIONS),
    )
    validation_file: str | None = flag(
        "In-domain evaluation rows; default, of --task_name questions: those of --query_file that have answers.",
        kind="path",
        needs=("--train_file", QUESTIONS),
    )
    test_file: str | None = flag(
        "One more evaluation set, in a group `test` of its own.", kind="path", needs=("--train_file", QUESTIONS)
    )
    out_of_domain_file: str | None = flag("Out-of-domain evaluation rows.", kind="path", needs=("--train_file", QUESTIONS))
    text1_column: str = flag("Column of {text1} in your own files.", "text1", needs=OWN_FILES)
    text2_column: str | None = flag("Column of {text2} in your own files; default: text2, if there is one.", needs=OWN_FILES)
    label_column: str = flag(
        "Column of the labels in your own files: numbers from 0, or text.", "label", needs=OWN_FILES, answers="label"
    )
    label_names: str | None = flag(
        "Labels of your own files in order, comma between; default: sorted, as in --train_file.",
        needs="--train_file",
        answers="label",
    )
    answer_column: str = flag(
        "Column of the answers in words in your own files: a text, or a list of accepted ones, the first of which is learnt.",
        "answer",
        needs=WORDS,
        answers="text",
    )
    document_column: str | None = flag(
        "Column in your own files of the document that a row is about: its text, or with --context_file the name of one of these "
        "files. Default: none; of tasks about documents their own column, or `document`.",
        needs=WORDS,
        answers="text",
    )
    turns_column: str | None = flag(
        'Column in your own files of conversations, [{"role": "user", "content": "..."}, {"role": "assistant", ...}, ...], in '
        "place of question and answer: each turn of the assistant is an answer, and the turns before it are read with its query; "
        "a turn of the user may have its document. Default: turns, if there is one.",
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
        "More metrics of predictions and right answers, comma between: f1, matthews_correlation (labels); exact_match, f1, "
        "contains, rougeL, edit_similarity (words), code_exact_match, identifier_match, identifier_f1 (code); the file of a "
        "module of the library evaluate, or its name on the hub.",
        kind="path",
    )
    rules: str | None = flag(
        "Rules by which answers are judged in place of right answers, a JSON object or the file of one: "
        '{"name": {"check": "ends_with", "text": "..."}}; other checks: equals (text), json_keys (keys), lower_case, matches '
        "(pattern).",
        kind="text or path",
        needs=QUESTIONS,
        excludes={"--metric": "which compares with right answers"},
        answers="text",
    )
    run_code: str | None = flag(
        "Run the programs that answers complete, in a process with limits each, with the modules of this folder: the metric "
        "`runs`. What a model writes is executed only with this flag.",
        kind="path",
        needs="--task_name code",
        excludes={"--rules": "by which answers are judged instead"},
    )
    pattern_name: str = flag(
        "A pattern of Mosbach et al. 2023, Table 5, by its name.",
        "minimal",
        choices=("minimal", "gpt-3", "eval-harness"),
        excludes="--pattern",
    )
    target_tokens: str | None = flag(
        "A word for each label in label order, comma between; default: the task's.", needs=PBFT, answers="label"
    )
    label_delimiter: str | None = flag(
        "Text between query and label, in demonstrations too. Default: a space; nothing behind a pattern that ends in a newline, "
        "a tab or a special token, and with label words of a script without spaces.",
        needs=PBFT,
        excludes="--upstream_prompts",
        may_be_empty=True,
    )
    task_description: str = flag("Text in front of the demonstrations.", "", may_be_empty=True)
    multi_token_labels: bool = flag(
        "A label may be several tokens: it is scored by the log-probability of them all (eval.py, distill.py).",
        False,
        excludes={
            "--targets hard|gold": "which are learnt from labels of one token",
            "--ce_weight": "the cross-entropy is with labels of one token",
        },
        answers="label",
    )
    max_seq_length: int | None = flag(
        "Longest prompt in tokens: longer ones lose the end of their longer text. Default: the model's window, never cut.",
        at_least=1,
    )
    upstream_prompts: bool = flag(
        r"The literal strings of uds-lsv/llmft (\n stays two characters, its spacing), to compare with published numbers.", False
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of --metric, each once."""
        return tuple(dict.fromkeys(name.strip() for name in (self.metric or "").split(",") if name.strip()))


@dataclass
class DemonstrationArguments(Checked):
    """Which rows are the demonstrations."""

    _argument_group_name = "demonstrations"

    num_shots: int = flag("Demonstrations in the context; 0 for none.", 16, at_least=0, needs=SHOWN)
    balanced: bool = flag("As many demonstrations of each label.", True, needs=SHOWN)
    shuffle: bool = flag("Demonstrations in an order by --data_seed, else in the order of the data.", True, needs=SHOWN)
    sample_indices_file: str | None = flag(
        "File with the demonstrations' idx in prompt order, in place of a draw: csv with a column idx, or a .json list.",
        kind="path",
        needs=SHOWN,
    )

    @property
    def asked_for(self) -> bool:
        """Whether there are demonstrations to show."""
        return self.num_shots > 0 or self.sample_indices_file is not None


@dataclass
class CalibrationArguments(Checked):
    """What is done about a model's bias towards one label."""

    _argument_group_name = "calibration"

    calibrate: bool = flag(
        "Divide out the label prior of content-free queries behind the same context (Zhao et al. 2021), in ICL and teacher.",
        False,
        excludes={"--context label": "a content-free query has no label to show"},
        answers="label",
    )
