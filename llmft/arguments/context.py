"""What stands in front of a query, and how answers in words are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag
from llmft.errors import InputError

READ = ("--context file|document|dialogue", "--train_on document", "--document_column")
"""What reads files of text."""
CONTEXTS = ("demonstrations", "instruction", "label", "file", "document", "dialogue", "none")
TEXT = "text"


class ContextFile(NamedTuple):
    """A file of text for a context.

    Attributes:
        name: what rows call it.
        path: where it lies.
        flag: the flag that it comes by, for messages.
    """

    name: str
    path: str
    flag: str = "--context_file"

    @property
    def head(self) -> str:
        """What stands in front of its text: its name, where it comes from a folder."""
        return f"{self.name}\n" if self.flag == "--context_dir" else ""


def files_of(names: str | None) -> list[str]:
    """The names that a flag gives, comma between."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def names_documents(context: str, document_column: str | None) -> bool:
    """Whether the files of --context_file are the documents that rows name by --document_column.

    Args:
        context: the value of --context; "" where a script has none.
    """
    return document_column is not None and not {"file", "dialogue"} & {*files_of(context)}


def files_in(folder: Path, globs: str) -> list[Path]:
    """The files of a folder that one of the patterns fits, comma between, by their paths; none whose name, or that of a folder
    it is in, begins with a dot."""
    paths = {path for pattern in files_of(globs) for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


@dataclass
class DocumentArguments(Checked):
    """Files of text that queries are about."""

    _argument_group_name = "context"

    context_file: str | None = flag(
        "File whose text stands in front of the query, or one for each of --num_contexts, comma between; of --context dialogue a "
        "jsonl of earlier turns (`role`, `content`); of --context document the documents that rows name by --document_column.",
        kind="path",
        needs=READ,
    )
    context_dir: str | None = flag(
        "Folder of documents, each with its path in front, by which rows name it; of --context file all of them are one text.",
        kind="path",
        needs=READ,
    )
    context_glob: str = flag(
        "Which files of --context_dir, as Python's glob writes it; several with commas between.",
        "**/*",
        needs="--context_dir",
        names_run=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_dir is not None and self.context_file is not None:
            raise InputError(f"--context_dir {self.context_dir}: does not go with --context_file; leave one of them out")

    @property
    def context_files(self) -> list[ContextFile]:
        """The files of --context_file in their order, or those of --context_dir by their paths.

        Raises:
            InputError: the folder has none.
        """
        if self.context_dir is None:
            return [ContextFile(Path(name).name, name) for name in files_of(self.context_file)]
        folder, shown = Path(self.context_dir), f"--context_dir {self.context_dir}"
        if not folder.is_dir():
            raise InputError(f"{shown}: no such folder; name one with documents")
        paths = files_in(folder, self.context_glob)
        if not paths:
            raise InputError(f"{shown}: --context_glob {self.context_glob} fits no file in it; give another, as **/*.md")
        return [ContextFile(path.relative_to(folder).as_posix(), str(path), "--context_dir") for path in paths]

    @property
    def texts(self) -> list[list[ContextFile]]:
        """The files of each text of --context file: one of --context_file, all of --context_dir."""
        return [self.context_files] if self.context_dir else [[file] for file in self.context_files]

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
            if self.reads(kind) and self.context_file is None and (self.context_dir is None or kind == "dialogue"):
                raise InputError(f"--context {kind}: name the file with --context_file")
        if self.reads("file") + self.reads("dialogue") + self.reads("document") > 1:
            raise InputError(f"--context {self.context}: --context_file can be one of file, document and dialogue; choose one")


@dataclass
class ChunkArguments(Checked):
    """How documents are cut that are too long to be read at once."""

    _argument_group_name = "chunks of documents"

    chunk_tokens: int | None = flag(
        "Cut documents into chunks of at most so many tokens; a query is asked behind the one that its column `chunk` names, or "
        "whose words fit it best. Default: a document is read whole.",
        at_least=8,
        needs="--context file|document",
        answers=TEXT,
    )
    chunk_overlap: int | None = flag(
        "Tokens at most that a chunk shares with the one before, fewer than half of --chunk_tokens; default: a tenth of these.",
        at_least=0,
        needs="--chunk_tokens",
        answers=TEXT,
    )
    chunk_neighbours: int = flag(
        "So many chunks on either side are read along with a query's own.", 0, at_least=0, needs="--chunk_tokens", answers=TEXT
    )

    @property
    def overlap(self) -> int:
        """Tokens that chunks share."""
        return self.chunk_tokens // 10 if self.chunk_overlap is None else self.chunk_overlap

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_tokens is not None and 2 * self.overlap >= self.chunk_tokens:
            raise InputError(
                f"--chunk_overlap {self.chunk_overlap}: must be fewer than half of --chunk_tokens {self.chunk_tokens}; give less"
            )


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
