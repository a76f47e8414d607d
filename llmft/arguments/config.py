"""All arguments of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from llmft.arguments.context import ChunkArguments, DocumentArguments, WritingArguments
from llmft.arguments.data import CalibrationArguments, DataArguments, DemonstrationArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.methods import AdapterArguments, FineTuningArguments, InContextArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.run import RunArguments
from llmft.arguments.self_study import SelfStudyArguments


@dataclass
class Config:
    """The arguments of a run by group; groups that a script does not have are None."""

    model: ModelArguments
    data: DataArguments
    shots: DemonstrationArguments
    context: DocumentArguments
    writing: WritingArguments
    chunks: ChunkArguments | None = None
    calibration: CalibrationArguments | None = None
    trained: AdapterArguments | None = None
    in_context: InContextArguments | None = None
    fine_tuning: FineTuningArguments | None = None
    distillation: DistillationArguments | None = None
    self_study: SelfStudyArguments | None = None
    run: RunArguments | None = None
    """None only until `prepare` knows the learning rate."""

    @classmethod
    def of(cls, groups: Iterable[Any]) -> Config:
        """The config made of these groups."""
        kinds = get_type_hints(cls)
        return cls(**{name: group for group in groups for name, kind in kinds.items() if isinstance(group, kind)})

    @property
    def cuts(self) -> bool:
        """Whether documents are cut into chunks."""
        return self.chunks is not None and self.chunks.chunk_tokens is not None

    @property
    def by_document(self) -> bool:
        """Whether each row is asked after its own document or chunk."""
        return self.context.reads("document") or (self.cuts and self.context.reads("file"))

    @property
    def groups(self) -> dict[str, Any]:
        """Name of the dataclass -> group, as listed in records."""
        values = (getattr(self, field.name) for field in fields(self))
        return {type(group).__name__: group for group in values if group is not None}
