"""Which rows, which demonstrations, and how prompts are written."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import UPSTREAM, flag

OWN_FILES = ("--train_file", "--query_file")
PBFT = "--method pbft"
SHOWN = "--context demonstrations"
"""Conditions of flags in several scripts; one on a flag that a script does not have does not count there."""


@dataclass
class DataArguments(Checked):
    """Which task, where its rows lie, and how a row is shown."""

    _argument_group_name = "task and prompt"

    task_name: str | None = flag(
        None,
        "Task: toy, rte, mnli, mnli-original, qqp, cola, sst2, ag_news; default: rte.",
        aliases=("--task",),
        excludes="--train_file",
        names_run=False,
    )
    task_variant: str | None = flag(
        None, "Variant of a task that has several; toy: a rule, `flipped`, `confounded`, comma between. Default: by --data_seed."
    )
    data_dir: str | None = flag(
        os.environ.get("LLMFT_DATA_DIR"),
        "Folder with local files (glue/rte/train.parquet, ...); default: $LLMFT_DATA_DIR, else the hub.",
        kind="path",
    )
    dataset_cache_dir: str | None = flag(None, "Where hub data sets are kept.", kind="folder")
    subsample_splits: int | None = flag(
        None,
        "Rows that each split is cut to, upstream's fixed draw; 0: whole. Default: the task's (1000 for qqp, else whole).",
        at_least=0,
    )
    eval_task_name: str | None = flag(
        None,
        "Out-of-domain sets, comma between: hans, mnli-mismatched, paws-qqp, cola-ood; or none. Default: the task's partner.",
    )
    eval_task_path: str | None = flag(None, "File of the one set that --eval_task_name names.", kind="path", group=UPSTREAM)
    eval_on_hans: bool = flag(False, "Evaluate on hans; with any --eval_on_... the sets named are all there are.", group=UPSTREAM)
    eval_on_mnli_mismatched: bool = flag(False, "Evaluate on mnli-mismatched.", group=UPSTREAM)
    eval_on_paws_qqp: bool = flag(False, "Evaluate on paws-qqp.", group=UPSTREAM)
    eval_on_cola_ood: bool = flag(False, "Evaluate on cola-ood.", group=UPSTREAM)
    paws_qqp_file: str | None = flag(None, "PAWS-QQP's dev_and_test.tsv; default: below --data_dir.", kind="path", group=UPSTREAM)
    cola_ood_file: str | None = flag(
        None, "CoLA-OOD's dev.tsv; default: below --data_dir, else the hub's CoLA.", kind="path", group=UPSTREAM
    )
    hans_heuristics: str = flag("lexical_overlap", "HANS: lexical_overlap, subsequence, constituent, comma between; or all.")
    hans_subcase: str | None = flag(None, "HANS: the only subcase, as le_passive; default: all of a heuristic.")
    train_file: str | None = flag(
        None,
        "Training rows of your own, in place of a task: parquet, jsonl, json, csv or tsv.",
        kind="path",
        needs="--validation_file",
    )
    validation_file: str | None = flag(None, "In-domain evaluation rows.", kind="path", needs="--train_file")
    test_file: str | None = flag(
        None, "One more evaluation set, in a group `test` of its own.", kind="path", needs="--train_file"
    )
    out_of_domain_file: str | None = flag(None, "Out-of-domain evaluation rows.", kind="path", needs="--train_file")
    text1_column: str = flag("text1", "Column of {text1} in your own files.", needs=OWN_FILES)
    text2_column: str | None = flag(
        None, "Column of {text2} in your own files; default: text2, if there is one.", needs=OWN_FILES
    )
    label_column: str = flag("label", "Column of the labels in your own files: numbers from 0, or text.", needs=OWN_FILES)
    label_names: str | None = flag(
        None, "Labels of your own files in order, comma between; default: sorted, as in --train_file.", needs="--train_file"
    )
    max_train_samples: int | None = flag(
        None,
        "Training rows (ft.py) or queries (distill.py), drawn by --data_seed; default: all.",
        needs="--train_on train",
        evaluation="ignored",
    )
    max_eval_samples: int | None = flag(None, "Rows of each evaluation set, upstream's fixed draw; default: all.", at_least=1)
    metric: str | None = flag(
        None,
        "More metrics of predictions and right labels, comma between: f1, matthews_correlation, the file of a module of the "
        "library evaluate, or its name on the hub.",
        kind="path",
    )
    pattern_name: str = flag(
        "minimal",
        "A pattern of Mosbach et al. 2023, Table 5, by its name.",
        choices=("minimal", "gpt-3", "eval-harness"),
        excludes="--pattern",
    )
    pattern: str | None = flag(None, "Prompt with {text1} and {text2}, in place of a named one.")
    target_prefix: str | None = flag(
        None,
        r"Text between pattern and label; \n and \t mean newline and tab. Default: the named pattern's.",
        needs=PBFT,
        may_be_empty=True,
    )
    target_tokens: str | None = flag(
        None, "A word for each label in label order, comma between; default: the task's.", needs=PBFT
    )
    label_delimiter: str | None = flag(
        None,
        "Text between query and label, in demonstrations too. Default: a space; nothing behind a pattern that ends in a newline, "
        "a tab or a special token, and with label words of a script without spaces.",
        needs=PBFT,
        excludes="--upstream_prompts",
        may_be_empty=True,
    )
    separate_shots_by: str = flag(r"\n\n", "Text behind each demonstration.", may_be_empty=True)
    task_description: str = flag("", "Text in front of the demonstrations.", may_be_empty=True)
    multi_token_labels: bool = flag(
        False, "A label may be several tokens: it is scored by the log-probability of them all (eval.py, distill.py)."
    )
    max_seq_length: int | None = flag(
        None,
        "Longest prompt in tokens: longer ones lose the end of their longer text. Default: the model's window, never cut.",
        at_least=1,
    )
    upstream_prompts: bool = flag(
        False, r"The literal strings of uds-lsv/llmft (\n stays two characters, its spacing), to compare with published numbers."
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of --metric, each once."""
        return tuple(dict.fromkeys(name.strip() for name in (self.metric or "").split(",") if name.strip()))


@dataclass
class DemonstrationArguments(Checked):
    """Which rows are the demonstrations."""

    _argument_group_name = "demonstrations"

    num_shots: int = flag(16, "Demonstrations in the context; 0 for none.", at_least=0, needs=SHOWN)
    balanced: bool = flag(True, "As many demonstrations of each label.", needs=SHOWN)
    shuffle: bool = flag(True, "Demonstrations in an order by --data_seed, else in the order of the data.", needs=SHOWN)
    sample_indices_file: str | None = flag(
        None,
        "File with the demonstrations' idx in prompt order, in place of a draw: csv with a column idx, or a .json list.",
        kind="path",
        needs=SHOWN,
    )


@dataclass
class CalibrationArguments(Checked):
    """What is done about a model's bias towards one label."""

    _argument_group_name = "calibration"

    calibrate: bool = flag(
        False,
        "Divide out the label prior of content-free queries behind the same context (Zhao et al. 2021), in ICL and teacher.",
        excludes="--context label",
        because="a content-free query has no label to show",
    )
