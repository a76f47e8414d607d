"""The files that self-study writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmft.errors import InputError
from llmft.runs.store import write_json, write_json_lines


@dataclass(frozen=True)
class StudyFiles:
    """What self-study writes: the pairs that are kept, those that are not, and what there is to say of both."""

    pairs: Path
    dropped: Path
    summary: Path

    @classmethod
    def of(cls, output_file: str) -> StudyFiles:
        """The file of this name, and those beside it."""
        pairs = Path(output_file)
        return cls(pairs, pairs.with_suffix(".dropped.jsonl"), pairs.with_suffix(".summary.json"))

    def finished(self, setting: str, *, overwrite: bool) -> bool:
        """Whether the same command has ended, which is then said.

        Raises:
            InputError: the file is there and comes from another, or the folder cannot be written to.
        """
        there = next(folder for folder in self.pairs.absolute().parents if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise InputError(f"--output_file {self.pairs}: {there} is no folder that can be written to; choose another")
        if not self.pairs.exists() or overwrite:
            return False
        with self.writing():
            noted = json.loads(self.summary.read_text(encoding="utf-8")) if self.summary.exists() else {}
        if noted.get("setting") != setting:
            raise InputError(
                f"--output_file {self.pairs}: is there already, and another command wrote it; name another file, or give "
                "--overwrite_output_dir"
            )
        print(f"already finished: {self.pairs} (--overwrite_output_dir runs it again)")
        return True

    def write(self, pairs: Sequence[dict[str, Any]], dropped: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Write all three, the pairs last."""
        with self.writing():
            self.pairs.parent.mkdir(parents=True, exist_ok=True)
            self.pairs.unlink(missing_ok=True)
            write_json(self.summary, summary)
            for path, lines in ((self.dropped, dropped), (self.pairs, pairs)):
                write_json_lines(path, lines)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context: the files are written."""
        try:
            yield
        except OSError as error:
            raise InputError(f"--output_file {self.pairs}: cannot be written ({error.strerror}); choose another place") from error
