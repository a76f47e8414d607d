"""Command-line arguments of composing adapters."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.context import files_of
from llmft.arguments.flags import flag
from llmft.errors import InputError

MERGES = ("cat", "linear", "ties")


@dataclass
class ComposeArguments(Checked):
    """Which runs' adapters are combined, and how."""

    _argument_group_name = "composing"

    runs: str | None = flag("Folders of the runs whose adapters are combined (comma-separated).", kind="path")
    merge: str | None = flag(
        "How LoRA adapters are merged (comma-separated): `cat` sums their updates, `linear` their matrices A and B, `ties` "
        "averages the matrices' large weights that have the majority's sign (TIES). Default: each of them. Cartridges are "
        "concatenated."
    )
    merge_weight: float = flag(
        "Factor applied to each LoRA adapter: 1 for the sum; 1 / n for the mean of n with `cat`; `ties` gives the mean with 1.",
        1.0,
        above=0,
    )
    ties_density: float = flag("Fraction of each matrix's weights, the largest ones, that `ties` keeps.", 0.2, above=0, below=1)
    output_dir: str = flag("Folder that holds all runs; the results go to its subfolder `composed`.", "logfiles", kind="folder")

    @property
    def merges(self) -> tuple[str, ...]:
        """The methods in --merge, or all."""
        return tuple(files_of(self.merge)) or MERGES

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in --runs, without duplicates."""
        return tuple(dict.fromkeys(name.rstrip("/") for name in files_of(self.runs)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.folders) < 2:
            raise InputError(f"--runs {self.runs}: give the folders of two or more runs (comma-separated)")
        unknown = next((name for name in self.merges if name not in MERGES), None)
        if unknown is not None:
            raise InputError(f"--merge {unknown}: unknown; choose one of {', '.join(MERGES)}")
