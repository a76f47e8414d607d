"""The files that self-study writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmft.errors import InputError
from llmft.runs.store import write_json, write_json_lines


@dataclass(frozen=True)
class StudyFiles:
    """What self-study writes: the pairs that are kept, those that are dropped, and a summary."""

    pairs: Path
    dropped: Path
    summary: Path

    @classmethod
    def of(cls, output_file: str) -> StudyFiles:
        """The file with this name, and those next to it."""
        pairs = Path(output_file)
        return cls(pairs, pairs.with_suffix(".dropped.jsonl"), pairs.with_suffix(".summary.json"))

    def finished(self, setting: str, *, overwrite: bool) -> bool:
        """Whether the same command has already finished; if so, says so.

        Raises:
            InputError: one of the files exists and comes from another command.
        """
        there = next((path for path in (self.pairs, self.dropped, self.summary) if path.exists()), None)
        if there is None or overwrite:
            return False
        if self._setting() != setting:
            raise InputError(
                f"--output_file {self.pairs}: {there.name} is there already, and not from this command; choose another file, or "
                "use --overwrite_output_dir"
            )
        if not self.pairs.exists():  # a command that was killed while it wrote the other two
            return False
        print(f"already finished: {self.pairs} (--overwrite_output_dir runs it again)")
        return True

    def _setting(self) -> str | None:
        """What the summary says of the command that wrote it; None if there is none, or if it is something else."""
        try:
            with self.writing():
                noted = json.loads(self.summary.read_text(encoding="utf-8")) if self.summary.exists() else None
        except ValueError:
            return None
        return noted.get("setting") if isinstance(noted, dict) else None

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
        """Context manager for writing the files."""
        try:
            yield
        except OSError as error:
            raise InputError(f"--output_file {self.pairs}: cannot be written ({error.strerror}); choose another place") from error
