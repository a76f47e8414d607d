"""The classes of the task table's entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from llmft.arguments.training_defaults import Defaults
from llmft.tasks.rules import Rule

Row = dict[str, Any]
"""`text1`, `text2` (or None), `label` (None if labels are optional and the row has none), `idx`, and the columns that its set is
selected by. In a task with text answers, `label` is None, and there are `answer`, a tuple of the accepted texts, the first of
which is shown and trained on, () for none; `document`, the id of the document that the row is about, or None; and, if in the
file, `answer_ids`, the tokens of the answer, `thought` and `thought_ids`, what the model wrote before it and its tokens, `chunk`,
the place in the document that the row is about, `category`, a text to group scores by, `wrong_answer`, a tuple of answers that
are known to be wrong, and for a conversation `history`, a tuple of the turns before the query, `turn`, the number of the answer,
and `conversation`. In a task with rules, `rules` is a tuple of the names of those that apply."""


class NamedPattern(NamedTuple):
    """A prompt pattern: pattern and prefix as in the flags of these names, and a word for each label in label order."""

    pattern: str
    prefix: str
    target_tokens: tuple[str, ...]


class RowRange(NamedTuple):
    """Rows `start` to `stop`, renumbered, of a split that must have `of` rows."""

    of: int
    start: int
    stop: int


@dataclass(frozen=True)
class Source:
    """Where the rows of one split are stored, and in which form.

    Order of search: `file`, `local_files` under `--data_dir`; without `--data_dir` the hub; then `otherwise`.

    Attributes:
        local_files: names under `--data_dir` without their endings; the first that exists is read.
        hub_path, hub_name, hub_split, hub_revision: arguments of `datasets.load_dataset`; no path: the hub has no copy.
        file, flag: a file, and the flag that names it.
        own: whether the file is the user's own, not one of a known data set.
        header: the columns of a tsv without a header line.
        rename: (column in the file, its new name).
        label_words: labels written as words, in the order of their numbers.
        numbers: whether labels may be written as numbers.
        bytes_literals: whether texts are Python literals of UTF-8 bytes, b'...'.
        part: which rows of the split, if not all.
        otherwise: the source to use if this one does not exist.
        hint: what to do if no source exists.
    """

    local_files: tuple[str, ...] = ()
    hub_path: str | None = None
    hub_name: str | None = None
    hub_split: str | None = None
    hub_revision: str | None = None
    file: str | None = None
    flag: str | None = None
    own: bool = False
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
    """A set of rows: those of a source with the given label and the given values in the given columns.

    Attributes:
        text_columns: the columns that become `text1` and `text2`.
        label_column: the column of the labels, or None if none are to be read.
        answer_column: the column of the answers, for a set with text answers instead of labels.
        answer_optional: whether to keep rows without a label (see `rows.label_of`) or without a text answer.
        document_column: the column of the document that a row is about: its text, or the id of one of the task's documents.
        turns_column: if the file has this column, its rows are conversations; each answer becomes a row (`tasks.turns`).
        title_column: if the file has this column, document ids begin with its values.
        label_map: the task's label for each label of the source, None for rows to drop; None: they are the same.
        label: the only label, after mapping, whose rows are kept.
        where: (column, value) that rows must have.
        metrics: metrics of this set, by name or file (`llmft.evaluation.metrics`), in addition to accuracy.
        columns_of: for a user's file, flag and name of the file whose columns decide whether there is a second text.
        asked_after: full paths of the files whose text all rows are asked after, without a column of documents.
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
    columns_of: str | None = None
    asked_after: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutOfDomain:
    """An entry of the second table: an out-of-domain set.

    Attributes:
        tasks: task -> `label_map` from this set's labels to the task's.
        prefix: start of the names of its sets.
        split_by_label: a name for each label of the task, if the rows of each label form a separate set.
    """

    name: str
    source: Source
    text_columns: tuple[str, str | None]
    tasks: dict[str, tuple[int | None, ...] | None]
    prefix: str
    split_by_label: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def read_from(self, file: str | None, flag: str) -> OutOfDomain:
        """This entry with its rows read from the file that `flag` names (None: from its own source)."""
        return self if file is None else replace(self, source=replace(self.source, file=file, flag=flag))


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        patterns: prompt patterns by name; `minimal` is the default.
        partners: names of the default out-of-domain sets.
        subsample_splits: number of rows to keep of every split; 0 for all.
        splits: if given, generates the rows, instead of the sources of `train` and the evaluation sets.
        label_pattern: the prompt that shows its own answer at `{label}`, for `--context label`.
        training: how parts of the default model are trained, if the general defaults do not suit it; else None.
        instruction: function of variant and data seed; the text that tells a model what to do, for `--context instruction`.
        metrics: metrics of all sets, in the form of those of a set.
        answer: the kind of its answers, a key of `llmft.evaluation.kinds.ANSWERS`.
        headline: the metric that it is judged by; "" for that of its kind of answers.
        context: the default of --context.
        rules: rules that judge text answers instead of correct answers, if any.
        documents: function of variant and data seed; the documents that its rows may be about, by id. None: rows hold the
            documents themselves, or are about none.
        delimiter: text between query and answer, as in --label_delimiter; None for the default that depends on the pattern's end.
        stops: default of --stop.
        unrelated: function of variant and data seed; prompts that are unrelated to the documents; None for those of
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
        """The metrics of the evaluation set of this name, in addition to accuracy."""
        of_set = next((s.metrics for s in self.row_sets if s.name == eval_set), ())
        return tuple(dict.fromkeys((*of_set, *self.metrics)))
