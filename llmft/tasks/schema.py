"""What an entry of the task table is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from llmft.arguments.training_defaults import Defaults
from llmft.tasks.rules import Rule

Row = dict[str, Any]
"""`text1`, `text2` (or None), `label` (None where labels are optional and it has none), `idx`, and the columns that its set is
chosen by. Of a task with answers in words, `label` is None and there are: `answer`, a tuple of the accepted ones, the first of
which is shown and learnt, () for none; `document`, the id of the document that it is about, or None; and where its file has
them `answer_ids`, the tokens of the answer, `chunk`, the place in the document that it is about, `category`, a text by which
scores are told apart, `wrong_answer`, a tuple of answers that are known to be wrong, and of a conversation `history`, a tuple of
the turns before the query, `turn`, the number of the answer, and `conversation`. Of a task with rules `rules` is a tuple
of the names of those that hold for it."""


class NamedPattern(NamedTuple):
    """One way of asking: pattern and prefix as flags of these names take them, and a word for each label in label order."""

    pattern: str
    prefix: str
    target_tokens: tuple[str, ...]


class RowRange(NamedTuple):
    """Rows `start` to `stop`, numbered anew, of a split that must have `of` rows."""

    of: int
    start: int
    stop: int


@dataclass(frozen=True)
class Source:
    """Where the rows of one split lie, and how they are written there.

    Looked for in this order: `file`, `local_files` below `--data_dir`; without `--data_dir` the hub; then `otherwise`.

    Attributes:
        local_files: names below `--data_dir` without their ending; the first that exists is read.
        hub_path, hub_name, hub_split, hub_revision: as `datasets.load_dataset` takes them; no path: the hub has no copy.
        file, flag: a file that a flag names.
        header: the columns of a tsv that has no first line naming them.
        rename: (column in the file, the name it gets).
        label_words: labels written as words, in the order of their numbers.
        numbers: whether labels may be written as numbers.
        bytes_literals: whether texts are Python literals of UTF-8 bytes, b'...'.
        part: which rows of the split, where it is not all.
        otherwise: the source to take where this one is not there.
        hint: what to do where none is there.
    """

    local_files: tuple[str, ...] = ()
    hub_path: str | None = None
    hub_name: str | None = None
    hub_split: str | None = None
    hub_revision: str | None = None
    file: str | None = None
    flag: str | None = None
    header: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    label_words: tuple[str, ...] = ()
    numbers: bool = True
    bytes_literals: bool = False
    part: RowRange | None = None
    otherwise: Source | None = None
    hint: str = "put it there, or leave --data_dir out to load from the hub"


@dataclass(frozen=True)
class EvalSet:
    """A set of rows: those of a source that have the given label and the given values in the given columns.

    Attributes:
        text_columns: the columns that become `text1` and `text2`.
        label_column: the column of the labels, or None where none are to be read.
        answer_column: the column of the answers, of a set that has words in place of labels.
        answer_optional: whether rows without a label (see `rows.label_of`), or without an answer in words, are rows too.
        document_column: the column of the document that a row is about: its text, or the id of one that the task has.
        turns_column: where there is such a column, rows are conversations, each answer of which is a row (`tasks.turns`).
        title_column: where there is such a column, ids of documents begin with what it holds.
        label_map: the task's label for each label of the source, None for rows that are left out; None: they are the same.
        label: the only label, after mapping, whose rows are taken.
        where: (column, value) that rows must have.
        metrics: metrics by name or file (`llmft.evaluation.metrics`) that this set is measured by beside accuracy.
    """

    name: str
    source: Source
    text_columns: tuple[str, str | None]
    label_column: str | None = "label"
    answer_column: str | None = None
    answer_optional: bool = False
    document_column: str | None = None
    turns_column: str | None = None
    title_column: str | None = None
    label_map: tuple[int | None, ...] | None = None
    label: int | None = None
    where: tuple[tuple[str, Any], ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutOfDomain:
    """An entry of the second table: what a task's rows are tested against.

    Attributes:
        tasks: task -> `label_map` from this set's labels to the task's.
        prefix: what the names of its sets begin with.
        split_by_label: a name for each label of the task, where every label's rows are a set of their own.
    """

    name: str
    source: Source
    text_columns: tuple[str, str | None]
    tasks: dict[str, tuple[int | None, ...] | None]
    prefix: str
    split_by_label: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def read_from(self, file: str | None, flag: str) -> OutOfDomain:
        """The same entry, its rows read from the file that `flag` names (None: from where they lie)."""
        return self if file is None else replace(self, source=replace(self.source, file=file, flag=flag))


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        patterns: ways of asking by name; `minimal` is used unless another is asked for.
        partners: names of the out-of-domain sets that are taken unless others are asked for.
        subsample_splits: rows that every split is cut to; 0 for none.
        splits: where given, makes the rows, in place of `train` and the evaluation sets' sources.
        label_pattern: the prompt that shows its own answer at `{label}`, for `--context label`.
        training: how parts of the default model are trained, where the general defaults do not fit it; None where they do.
        instruction: of variant and data seed, the text that tells a model what to do, for `--context instruction`.
        metrics: metrics, as those of a set, that all sets are measured by.
        answer: the kind of its answers, a key of `llmft.evaluation.kinds.ANSWERS`.
        headline: the metric that it is judged by; "" for that of its kind of answers.
        context: what stands in front of a query unless --context says otherwise.
        rules: what answers in words are judged by in place of right answers, where there are any.
        documents: of variant and data seed, the documents that its rows may be about, by id. None: rows hold the documents
            themselves, or are about none.
        delimiter: what stands between query and answer, as --label_delimiter; None for what the pattern's end makes of it.
        stops: texts that end an answer unless --stop says otherwise.
        unrelated: of variant and data seed, prompts that have nothing to do with the documents; None for those of
            `tasks.unrelated`.
    """

    name: str
    version: int
    label_names: tuple[str, ...]
    patterns: dict[str, NamedPattern]
    default_model: str = "facebook/opt-125m"
    train: EvalSet | None = None
    in_domain: EvalSet | None = None
    partners: tuple[str, ...] = ()
    out_of_domain: tuple[EvalSet, ...] = ()
    test: tuple[EvalSet, ...] = ()
    subsample_splits: int = 0
    splits: Callable[[str | None, int], dict[str, list[Row]]] | None = field(default=None, compare=False)
    training: Defaults | None = field(default=None, compare=False)
    has_variants: bool = False
    label_pattern: str = "{text1} Label: {label} ?"
    instruction: Callable[[str | None, int], str] | None = field(default=None, compare=False)
    metrics: tuple[str, ...] = ()
    answer: str = "label"
    headline: str = ""
    context: str = "demonstrations"
    rules: tuple[Rule, ...] = ()
    documents: Callable[[str | None, int], dict[str, str]] | None = field(default=None, compare=False)
    unrelated: Callable[[str | None, int], list[str]] | None = field(default=None, compare=False)
    delimiter: str | None = None
    stops: tuple[str, ...] = ()

    @property
    def row_sets(self) -> tuple[EvalSet, ...]:
        """All sets that are read from sources, the training rows first."""
        return tuple(s for s in (self.train, self.in_domain, *self.out_of_domain, *self.test) if s is not None)

    def metrics_of(self, eval_set: str) -> tuple[str, ...]:
        """The metrics beside accuracy that the evaluation set of this name is measured by."""
        of_set = next((s.metrics for s in self.row_sets if s.name == eval_set), ())
        return tuple(dict.fromkeys((*of_set, *self.metrics)))
