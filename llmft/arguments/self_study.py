"""Command-line arguments of self-study."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag
from llmft.errors import InputError


@dataclass
class SelfStudyArguments(Checked):
    """Which queries a model writes about documents, and which of them are kept."""

    _argument_group_name = "self-study"

    output_file: str | None = flag("The jsonl file that the queries and their answers are written to.", kind="folder")
    num_queries: int = flag("Queries that are written, before any is dropped.", 100, at_least=1)
    seed_prompts: str | None = flag(
        'What the writer is told, in place of our own: a JSON object {"name": "prompt", ...}, or the file of one. {passage} in '
        "a prompt stands for a sentence of the chunk, a different one each time.",
        kind="json",
    )
    query_temperature: float = flag("Temperature at which queries are sampled; answers are not.", 0.6, at_least=0)
    max_query_tokens: int = flag("A query has at most so many tokens; one that is cut there is dropped.", 64, at_least=1)
    writer_model_name_or_path: str | None = flag(
        "Another model that writes the queries; default: the one that answers.", kind="path"
    )
    writer_model_revision: str = flag("Branch, tag or commit of a hub model that writes.", "main")
    keep_known: bool = flag("Keep queries that get the same answer without the document.", False)
    duplicate_similarity: float = flag(
        "From this similarity on (0 to 1, of words in any order) a query is a duplicate of one with the same answer.",
        0.9,
        above=0,
    )
    teacher_cache_dir: str | None = flag(
        "Where what the models write is kept, by which a killed command goes on; default: teacher_cache in --output_dir; `none` "
        "keeps nothing.",
        kind="folder",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_file is None:
            raise InputError("--output_file: not given; name the jsonl file to write")
