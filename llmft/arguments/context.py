"""What stands in front of a query, and how answers in words are written."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag
from llmft.errors import InputError

CONTEXTS = ("demonstrations", "instruction", "label", "file", "document", "dialogue", "none")
TEXT = "text"


def files_of(names: str | None) -> list[str]:
    """The names that a flag gives, comma between."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def names_documents(context: str, document_column: str | None) -> bool:
    """Whether the files of --context_file are the documents that rows name by --document_column.

    Args:
        context: the value of --context; "" where a script has none.
    """
    return document_column is not None and not {"file", "dialogue"} & {*files_of(context)}


@dataclass
class DocumentArguments(Checked):
    """Files of text that queries are about."""

    _argument_group_name = "context"

    context_file: str | None = flag(
        "File whose text stands in front of the query, or one for each of --num_contexts, comma between; of --context dialogue a "
        "jsonl of earlier turns (`role`, `content`); of --context document the documents that rows name by --document_column.",
        kind="path",
        needs=("--context file|document|dialogue", "--train_on document", "--document_column"),
    )

    @property
    def context_files(self) -> list[str]:
        """The files of --context_file."""
        return files_of(self.context_file)

    @property
    def contexts(self) -> tuple[str, ...]:
        """The kinds of context asked for: none where a script has no --context."""
        return ()

    def reads(self, kind: str) -> bool:
        """Whether a context of this kind stands in front of a query."""
        return kind in self.contexts


@dataclass
class ContextArguments(DocumentArguments):
    """What stands in front of a query."""

    context: str = flag(
        "What is read in front of the query, comma between: `demonstrations` (--num_shots), `instruction` (--instruction), "
        "`file` (--context_file), `document` (that of the query), `dialogue` (earlier turns, --context_file), `label` (the "
        "query's right label, in --label_pattern); or `none`. Default: demonstrations; of tasks about documents, document.",
        "demonstrations",
    )
    instruction: str | None = flag(
        "A text, or a file with one; default: the task's own, where it has one.",
        kind="text or path",
        needs="--context instruction",
    )

    @property
    def contexts(self) -> tuple[str, ...]:
        """The kinds of context asked for."""
        return tuple(name.strip() for name in self.context.split(","))

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.contexts
        if {*names} - {*CONTEXTS} or len({*names}) < len(names) or ("none" in names and len(names) > 1):
            raise InputError(f"--context {self.context}: give one or more of {', '.join(CONTEXTS)}, comma between, each once")
        for kind in ("file", "dialogue"):
            if self.reads(kind) and self.context_file is None:
                raise InputError(f"--context {kind}: name the file with --context_file")
        if self.reads("file") + self.reads("dialogue") + self.reads("document") > 1:
            raise InputError(f"--context {self.context}: --context_file can be one of file, document and dialogue; choose one")


@dataclass
class WritingArguments(Checked):
    """How a model writes answers."""

    _argument_group_name = "answers in words"

    max_new_tokens: int = flag("An answer has at most so many tokens.", 64, at_least=1, answers=TEXT)
    generation_temperature: float = flag(
        "Temperature at which answers are sampled; 0: the most probable token each time.", 0.0, at_least=0, answers=TEXT
    )
    stop: str | None = flag(
        r"Text that ends an answer, or several, `|` between; \n and \t mean newline and tab. Default: where demonstrations are "
        "shown in a pattern, what stands behind an answer there.",
        answers=TEXT,
    )

    evaluate_elsewhere: bool = flag(
        "Report how far a trained model is from the model before on prompts that have nothing to do with the context.",
        True,
        names_run=False,
        evaluation="refused",
        answers=TEXT,
    )

    @property
    def stops(self) -> tuple[str, ...] | None:
        """The texts of --stop as they are written; None where it is not given."""
        return None if self.stop is None else tuple(self.stop.split("|"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop is not None and not all(self.stops):
            raise InputError(f"--stop {self.stop}: a part is empty, which stands in every answer; put text in front of each |")
