"""Command-line arguments of putting adapters together."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.context import files_of
from llmft.arguments.flags import flag
from llmft.errors import InputError

MERGES = ("cat", "linear", "ties")


@dataclass
class ComposeArguments(Checked):
    """Which runs' adapters are put together, and how."""

    _argument_group_name = "composing"

    runs: str | None = flag("Folders of the runs whose adapters are put together, comma between.", kind="path")
    merge: str | None = flag(
        "How LoRA adapters become one, comma between: `cat` adds up their updates, `linear` their matrices A and B, `ties` the "
        "same once the small weights and those of the rarer sign are out (TIES). Default: each. Cartridges stand one after the "
        "other."
    )
    merge_weight: float = flag("What each LoRA adapter is multiplied by: 1 for the sum, 1 / n for the mean of n.", 1.0, above=0)
    ties_density: float = flag("Share of each matrix's weights that `ties` keeps, the largest.", 0.2, above=0, below=1)
    output_dir: str = flag("Folder that holds all runs; in its `composed` lies what is put together.", "logfiles", kind="folder")

    @property
    def merges(self) -> tuple[str, ...]:
        """The ways of --merge, or all."""
        return tuple(files_of(self.merge)) or MERGES

    @property
    def folders(self) -> tuple[str, ...]:
        """Those of --runs, each once."""
        return tuple(dict.fromkeys(name.rstrip("/") for name in files_of(self.runs)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.folders) < 2:
            raise InputError(f"--runs {self.runs}: give the folders of two runs or more, comma between")
        unknown = next((name for name in self.merges if name not in MERGES), None)
        if unknown is not None:
            raise InputError(f"--merge {unknown}: unknown; choose one of {', '.join(MERGES)}")
