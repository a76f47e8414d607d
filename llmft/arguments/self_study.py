"""Command-line arguments of self-study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag
from llmft.errors import InputError


@dataclass
class SelfStudyArguments(Checked):
    """Which queries a model generates about documents, and which of them are kept."""

    _argument_group_name = "self-study"

    output_file: str | None = flag("The jsonl file to write the queries and their answers to.", kind="folder")
    num_queries: int = flag("Number of queries to generate, before any are dropped.", 100, at_least=1)
    seed_prompts: str | None = flag(
        'Prompts for the writer, instead of the built-in ones: a JSON object {"name": "prompt", ...}, or a file with one. '
        "{passage} in a prompt is replaced by a sentence of the chunk, a different one each time.",
        kind="json",
    )
    query_temperature: float = flag("Temperature at which queries are sampled; answers are not.", 0.6, at_least=0)
    max_query_tokens: int = flag("Maximum length of a query in tokens; queries cut off there are dropped.", 64, at_least=1)
    writer_model_name_or_path: str | None = flag(
        "A different model to write the queries; default: the one that answers.", kind="path"
    )
    writer_model_revision: str = flag(
        "Branch, tag or commit of a writer from the hub.", "main", needs="--writer_model_name_or_path"
    )
    keep_known: bool = flag("Keep queries whose answer is the same without the document.", False)
    duplicate_similarity: float = flag(
        "Similarity (0 to 1, of words in any order) from which a query counts as a duplicate of one with the same answer.",
        0.9,
        above=0,
    )
    teacher_cache_dir: str | None = flag(
        "Where generated text is cached, so that a killed command can resume; default: teacher_cache in --output_dir; `none`: "
        "no cache.",
        kind="folder",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_file is None:
            raise InputError("--output_file: not given; name the jsonl file to write")
        if Path(self.output_file).suffix != ".jsonl" or Path(self.output_file).is_dir():
            raise InputError(f"--output_file {self.output_file}: is not the name of a jsonl file; let it end in .jsonl")
