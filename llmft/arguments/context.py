"""What comes before a query, and how text answers are generated."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag
from llmft.errors import InputError

READ = ("--context file|document|dialogue", "--train_on document", "--document_column")
"""Settings that read text files."""
CONTEXTS = ("demonstrations", "instruction", "label", "file", "document", "dialogue", "none")
TEXT = "text"


class ContextFile(NamedTuple):
    """A text file for a context.

    Attributes:
        name: the name that rows use for it.
        path: its location.
        flag: the flag that it was given with, for messages.
    """

    name: str
    path: str
    flag: str = "--context_file"

    @property
    def head(self) -> str:
        """What comes before its text: its name, if it is from a folder."""
        return f"{self.name}\n" if self.flag == "--context_dir" else ""


def files_of(names: str | None) -> list[str]:
    """The names in a comma-separated flag."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def names_documents(context: str, document_column: str | None) -> bool:
    """Whether the files of --context_file are the documents that rows name in --document_column.

    Args:
        context: the value of --context; "" if a script has no such flag.
    """
    return document_column is not None and not {"file", "dialogue"} & {*files_of(context)}


def files_in(folder: Path, globs: str, flag: str) -> list[Path]:
    """The files of a folder that match one of the comma-separated patterns, sorted by path. Files and folders whose names begin
    with a dot are skipped.

    Raises:
        InputError: a pattern is not one that Python's glob takes.
    """
    try:
        paths = {path for pattern in files_of(globs) for path in folder.glob(pattern) if path.is_file()}
    except (NotImplementedError, ValueError) as error:  # an absolute path, or ** as part of a name
        raise InputError(
            f"{flag} {globs}: cannot be used ({error}); use patterns relative to the folder, such as **/*.md"
        ) from error
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def has_text(path: Path) -> bool:
    """Whether a file has more than white space in it; True if it cannot be read, which whoever reads it reports."""
    try:
        with path.open("rb") as lines:
            return any(line.strip() for line in lines)
    except OSError:
        return True


@dataclass
class DocumentArguments(Checked):
    """Text files that queries are about."""

    _argument_group_name = "context"

    context_file: str | None = flag(
        "File whose text comes before the query, or one for each of --num_contexts (comma-separated). With --context dialogue, a "
        "jsonl of earlier turns (`role`, `content`); with --context document, the documents that --document_column refers to.",
        kind="path",
        needs=READ,
    )
    context_dir: str | None = flag(
        "Folder of documents. Each is preceded by its path, which rows use as its name; with --context file all form one text. "
        "Files without text are left out.",
        kind="path",
        needs=READ,
    )
    context_glob: str = flag(
        "Which files of --context_dir to read: patterns of Python's glob (comma-separated).",
        "**/*",
        needs="--context_dir",
        names_run=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_dir is not None and self.context_file is not None:
            raise InputError(f"--context_dir {self.context_dir}: cannot be combined with --context_file; drop one of them")

    @cached_property
    def context_files(self) -> list[ContextFile]:
        """The files of --context_file in the order given, or those of --context_dir that have text, sorted by path.

        Raises:
            InputError: the folder does not exist, has no matching file, or has text in none of them.
        """
        if self.context_dir is None:
            return [ContextFile(Path(name).name, name) for name in files_of(self.context_file)]
        paths = [*filter(has_text, self.paths)]
        if not paths:
            matched = f"--context_glob {self.context_glob}: none of the {len(self.paths)} files that it matches has text"
            raise InputError(f"--context_dir {self.context_dir}: {matched}; use another, such as **/*.md")
        names = [path.relative_to(self.context_dir).as_posix() for path in paths]
        return [ContextFile(name, str(path), "--context_dir") for name, path in zip(names, paths, strict=True)]

    @cached_property
    def paths(self) -> list[Path]:
        """The files of --context_dir, with or without text.

        Raises:
            InputError: the folder does not exist or has no matching file.
        """
        folder, shown = Path(self.context_dir), f"--context_dir {self.context_dir}"
        if not folder.is_dir():
            raise InputError(f"{shown}: no such folder; name a folder of documents")
        paths = files_in(folder, self.context_glob, "--context_glob")
        if not paths:
            raise InputError(f"{shown}: --context_glob {self.context_glob} matches no file in it; use another, such as **/*.md")
        return paths

    @property
    def full_paths(self) -> list[str]:
        """The full paths of these files, and of their folder. Links to files keep their names, which rows use."""
        folder = [str(Path(self.context_dir).resolve())] if self.context_dir else []
        return [os.path.abspath(file.path) for file in self.context_files] + folder

    @property
    def texts(self) -> list[list[ContextFile]]:
        """The files of each text of --context file: one file of --context_file, or all files of --context_dir."""
        return [self.context_files] if self.context_dir else [[file] for file in self.context_files]

    def files_of_context(self, number: int) -> list[ContextFile]:
        """The files of context `number`; all contexts have the same if there is only one text."""
        return self.texts[number if len(self.texts) > 1 else 0]

    @property
    def contexts(self) -> tuple[str, ...]:
        """The requested kinds of context: none if a script has no --context."""
        return ()

    def reads(self, kind: str) -> bool:
        """Whether a context of this kind comes before a query."""
        return kind in self.contexts


@dataclass
class ContextArguments(DocumentArguments):
    """What comes before a query."""

    context: str = flag(
        "What comes before the query (comma-separated): `demonstrations` (--num_shots), `instruction` (--instruction), "
        "`file` (--context_file), `document` (the query's own), `dialogue` (earlier turns, --context_file), `label` (the "
        "query's correct label, in --label_pattern); or `none`. Default: demonstrations; for tasks about documents, document.",
        "demonstrations",
    )
    instruction: str | None = flag(
        "A text, or a file that contains it; default: the task's own instruction, if it has one.",
        kind="text or path",
        needs="--context instruction",
    )

    @property
    def contexts(self) -> tuple[str, ...]:
        """The requested kinds of context."""
        return tuple(name.strip() for name in self.context.split(","))

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.contexts
        if {*names} - {*CONTEXTS} or len({*names}) < len(names) or ("none" in names and len(names) > 1):
            raise InputError(f"--context {self.context}: choose from {', '.join(CONTEXTS)} (comma-separated, each once)")
        for kind in ("file", "dialogue"):
            if self.reads(kind) and self.context_file is None and (self.context_dir is None or kind == "dialogue"):
                raise InputError(f"--context {kind}: name the file with --context_file")
        if self.reads("file") + self.reads("dialogue") + self.reads("document") > 1:
            raise InputError(f"--context {self.context}: --context_file can be only one of file, document and dialogue")


@dataclass
class ChunkArguments(Checked):
    """How documents that are too long to be read at once are cut into chunks."""

    _argument_group_name = "chunks of documents"

    chunk_tokens: int | None = flag(
        "Cut documents into chunks of at most this many tokens. A query is asked after the chunk in its `chunk` column, or else "
        "after the best match by words. Default: documents are read whole.",
        at_least=8,
        needs="--context file|document",
        answers=TEXT,
    )
    chunk_overlap: int | None = flag(
        "Maximum overlap of a chunk with the previous one, in tokens, less than half of --chunk_tokens; default: a tenth of it.",
        at_least=0,
        needs="--chunk_tokens",
        answers=TEXT,
    )
    chunk_neighbours: int = flag(
        "Number of neighbouring chunks on each side that are read together with the query's own.",
        0,
        at_least=0,
        needs="--chunk_tokens",
        answers=TEXT,
    )

    @property
    def overlap(self) -> int:
        """Overlap of chunks in tokens."""
        return self.chunk_tokens // 10 if self.chunk_overlap is None else self.chunk_overlap

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_tokens is not None and 2 * self.overlap >= self.chunk_tokens:
            raise InputError(
                f"--chunk_overlap {self.chunk_overlap}: must be less than half of --chunk_tokens {self.chunk_tokens}; lower it"
            )


@dataclass
class WritingArguments(Checked):
    """How a model generates answers."""

    _argument_group_name = "text answers"

    max_new_tokens: int = flag("Maximum length of an answer in tokens.", 64, at_least=1, answers=TEXT)
    generation_temperature: float = flag(
        "Temperature at which answers are sampled; 0: always the most probable token.", 0.0, at_least=0, answers=TEXT
    )
    stop: str | None = flag(
        r"Text that ends an answer, or several separated by `|`; \n and \t mean newline and tab, '' none. Default: if "
        "demonstrations are shown in a pattern, the text that follows an answer there; for --task code, a newline; and what "
        "ended answers in the run that trained the model, if one did.",
        answers=TEXT,
        may_be_empty=True,
    )

    evaluate_elsewhere: bool = flag(
        "Report how far the trained model has moved from the original one on prompts unrelated to the context.",
        True,
        evaluation="refused",
        answers=TEXT,
    )

    @property
    def stops(self) -> tuple[str, ...] | None:
        """The texts of --stop as given, () for an empty one; None without --stop."""
        return None if self.stop is None else tuple(self.stop.split("|")) if self.stop else ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop and not all(self.stops):
            raise InputError(f"--stop {self.stop}: a part is empty, so it matches any answer; put text on both sides of |")
