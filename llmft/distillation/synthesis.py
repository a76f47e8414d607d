"""Self-study: the prompts by which a model asks about a document.

After Cartridges (Eyuboglu et al. 2025, arXiv:2506.06266, section 4.1): a model reads a chunk, and one of several generic prompts
asks it to write a query; it answers after the same chunk. The prompts here are ours. Each prompt names a sentence of the chunk,
a different one each time, so that queries cover the whole document.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmft.tasks.chunks import Chunk, passages

ALONE = "Use full names, so that the question is understood by itself, and mention no text. Write the question alone."
SEED_PROMPTS = {
    "fact": f'Write one question that this sentence answers: "{{passage}}" {ALONE}',
    "reverse": "Write one question that describes somebody or something in this sentence without naming it, so that the name is "
    f'the answer: "{{passage}}" {ALONE}',
    "paraphrase": f'Write one question that this sentence answers, in other words than the sentence uses: "{{passage}}" {ALONE}',
    "use_case": f'Write one question that a person would ask who needs to know what this sentence says: "{{passage}}" {ALONE}',
    "structure": "Write one question that connects or compares what this sentence is about with another thing that you have read "
    f'about: "{{passage}}" {ALONE}',
    "summary": "Write one request to sum up in a sentence what is known about the person, place or thing that this sentence is "
    f'about: "{{passage}}" {ALONE}',
}
"""Name -> the writer's prompt; `{passage}` is a sentence of the chunk."""
PASSAGE = "{passage}"
"""Stands for a sentence of the chunk in a seed prompt."""
LABEL = re.compile(r"^(?:\W*(?:question|query|request|q)\W*\d*\s*(?:[:.)]|-\s)\W*|\s*\d+[.)]\s+|\s*[-*•]\s+)", re.IGNORECASE)
"""What may precede a question that a model writes."""
END_OF_QUESTION = re.compile(r"\?(?=[\"'”’»)*_`]*\s\W*[^\Wa-z])")
"""A question mark after which another sentence begins: advice for the answer, or another question."""
QUOTES = "\"'“”‘’`*_ \t"


class Assignment(NamedTuple):
    """One query to be written: about which chunk (its index in a list), with which seed prompt, in which round. No two queries
    of a chunk have the same prompt in a round."""

    chunk: int
    seed_prompt: str
    told: str
    round: int


def assign(chunks: Sequence[Chunk], sizes: Sequence[int], prompts: Mapping[str, str], number: int) -> list[Assignment]:
    """Assign `number` queries to chunks and prompts: chunks get queries in proportion to their size, and each chunk's queries
    cycle through all prompts and all sentences.

    Args:
        sizes: tokens of each chunk.
    """
    assignments = []
    for place, count in enumerate(apportion(sizes, number)):
        sentences = [chunks[place].text[start:end] for start, end in passages(chunks[place].text)]
        names, n, m = [*prompts], len(prompts), len(sentences)
        rounds: Counter[str] = Counter()
        for i in range(count):
            name = names[(i + place) % n]
            told = prompts[name].replace(PASSAGE, sentences[(i + i // math.lcm(n, m)) % m])
            assignments.append(Assignment(place, name, told, rounds[told]))
            rounds[told] += 1
    return assignments


def apportion(sizes: Sequence[int], number: int) -> list[int]:
    """`number` divided in proportion to sizes; what is left over goes to the largest remainders, the first on ties."""
    shares = np.array(sizes, float) * number / sum(sizes)
    counts = shares.astype(int)
    rest = np.argsort(counts - shares, kind="stable")[: number - counts.sum()]
    counts[rest] += 1
    return counts.tolist()


def tidied(text: str) -> str:
    """The first question in what a model has written, without a label, a number or quotes around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = lines[1:] if len(lines) > 1 and lines[0].endswith(":") else lines  # "Here is a question:"
    return first_question(LABEL.sub("", lines[0]).strip(QUOTES)) if lines else ""


def first_question(line: str) -> str:
    """A line up to the first question mark that is not within quotation marks; all of it if no sentence follows one."""
    for mark in END_OF_QUESTION.finditer(line):
        before = line[: mark.start()]
        in_pairs = any(before.count(opening) > before.count(closing) for opening, closing in ("“”", "„“", "«»"))
        if not in_pairs and before.count('"') % 2 == before.count("`") % 2 == 0:
            return line[: mark.end()]
    return line
