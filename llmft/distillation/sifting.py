"""Self-study: which of the pairs that a model has written are worth learning from, and which parts of the documents they
cover."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from rapidfuzz import fuzz

from llmft.distillation.synthesis import QUOTES, tidied
from llmft.evaluation.metrics.text_metric import squad_words
from llmft.tasks.chunks import Chunk, closest, passages

if TYPE_CHECKING:
    from llmft.evaluation.answers import Answers

TEXTS = r"(?:passage|text|document|excerpt|paragraph|article|context|snippet|section|sentence|statement)"
POINTING = re.compile(
    rf"\b(?:the|this|that|given|provided|above|following|preceding) (?:\w+ )?{TEXTS}\b"
    r"|\b(?:mentioned|described|stated|given|shown|listed|provided|discussed) (?:above|below|here|earlier)\b"
    rf"|\b(?:above|following|preceding)(?:-mentioned)? (?:information|description|list)\b|\b{TEXTS} (?:above|below)\b"
    rf"|\bthese {TEXTS}s\b|\bthe author\b|\baccording to (?:it|this)\b",
    re.IGNORECASE,
)
"""Phrases that may point at a text which the student will not see (English)."""
NEXT_WORD = re.compile(r"\s+\w+")
ALWAYS_POINTING = frozenset("this that these given provided above below following preceding here earlier".split())
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
EMPTY, CUT, POINTS = "query empty", "query cut", "query points at the text"
ANSWER_EMPTY, ANSWER_CUT, ANSWER_POINTS = "answer empty", "answer cut", "answer points at the text"
KNOWN, REPEATED, ALIKE = "same answer without the document", "query asked before", "query like another with the same answer"
REASONS = (EMPTY, CUT, POINTS, ANSWER_EMPTY, ANSWER_CUT, ANSWER_POINTS, KNOWN, REPEATED, ALIKE)
"""Reasons for dropping pairs, in the order in which they are checked; the first that applies counts."""
MOST = 9
"""The largest count of questions about a sentence that the figure distinguishes."""


@dataclass
class WrittenPair:
    """A query and its answer.

    Attributes:
        chunk: index of its chunk in the list of all chunks.
        reason: why it is dropped; None if it is not.
    """

    chunk: int
    seed_prompt: str
    query: str
    answer: str = ""
    answer_ids: list[int] = field(default_factory=list)
    known: bool = False
    reason: str | None = None

    @classmethod
    def written(cls, chunk: int, seed_prompt: str, answers: Answers, ids: Sequence[int]) -> Self:
        """The pair for a query that a model has written as these tokens."""
        text = answers.written(ids)
        query = tidied(text)
        cut = ran_out(answers, ids) and text.rstrip().rstrip(QUOTES).endswith(query)  # a first question of several is whole
        return cls(chunk, seed_prompt, query, reason=EMPTY if not query else CUT if cut else None)


@dataclass
class Sieve:
    """Pairs about the chunks of documents; which are dropped, and why.

    Args:
        documents: id -> text.
        similarity: threshold, from 0 to 1, above which a query counts as like another with the same answer.
        keep_known: whether to keep queries that get the same answer without the document.
    """

    documents: Mapping[str, str]
    chunks: Sequence[Chunk]
    similarity: float
    keep_known: bool = False
    pairs: list[WrittenPair] = field(default_factory=list)

    def take(self, pairs: Sequence[WrittenPair]) -> None:
        """Add pairs that have no answers yet, and drop those whose query points at the text."""
        self.pairs = [*pairs]
        for pair in self.left():
            if points_at_text(pair.query, self.documents[self.chunks[pair.chunk].document]):
                pair.reason = POINTS

    def left(self, chunk: int | None = None) -> list[WrittenPair]:
        """The pairs that are not dropped: those about the chunk with this index, or all."""
        return [pair for pair in self.pairs if pair.reason is None and chunk in (None, pair.chunk)]

    def take_answers(self, chunk: int, answers: Answers, ids: Sequence[list[int]]) -> None:
        """Give the remaining pairs of a chunk their answers, and drop those whose answer is not worth learning."""
        for pair, tokens in zip(self.left(chunk), ids, strict=True):
            pair.answer, pair.answer_ids = answers.written(tokens), tokens
            if not re.search(r"\w", pair.answer):
                pair.reason = ANSWER_EMPTY
            elif ran_out(answers, tokens):
                pair.reason = ANSWER_CUT
            elif points_at_text(pair.answer, self.documents[self.chunks[chunk].document]):
                pair.reason = ANSWER_POINTS

    def take_answers_without(self, chunk: int, answers: Answers, ids: Sequence[list[int]]) -> None:
        """Compare the answers of a chunk's remaining pairs with the model's answers without the document."""
        for pair, tokens in zip(self.left(chunk), ids, strict=True):
            pair.known = plain(answers.written(tokens)) == plain(pair.answer)
            if pair.known and not self.keep_known:
                pair.reason = KNOWN

    def drop_duplicates(self) -> None:
        """Drop pairs whose query repeats, or is like, that of an earlier one about the same document. To be called last, so that
        the earlier one is kept."""
        asked: set[tuple[str, str]] = set()
        answered: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for pair in self.left():
            document, query = self.chunks[pair.chunk].document, plain(pair.query)
            others = answered[document, plain(pair.answer)]
            if (document, query) in asked:
                pair.reason = REPEATED
            elif any(fuzz.token_sort_ratio(query, other) >= 100 * self.similarity for other in others):
                pair.reason = ALIKE
            else:
                asked.add((document, query))
                others.append(query)

    def lines(self, *, dropped: bool) -> list[dict[str, Any]]:
        """The remaining pairs, or the dropped ones with the reason, in the format of the files."""
        return [self._line(pair) for pair in self.pairs if (pair.reason is not None) == dropped]

    def _line(self, pair: WrittenPair) -> dict[str, Any]:
        chunk = self.chunks[pair.chunk]
        line = {"document": chunk.document, "chunk": chunk.place, "seed_prompt": pair.seed_prompt, "query": pair.query}
        if pair.answer_ids:
            invented = numbers_not_in(pair.answer, self.documents[chunk.document])
            line |= {"answer": pair.answer, "answer_ids": pair.answer_ids, "known": pair.known}
            line |= {"numbers_not_in_document": invented}
        return line if pair.reason is None else {"reason": pair.reason, **line}

    @cached_property
    def covered(self) -> list[list[tuple[int, int, int]]]:
        """The sentences of each chunk: start and end in the document, and how many of the remaining pairs are about it. A pair
        is about the sentence of its chunk that shares the most rare words with it, or about none."""
        return [coverage(chunk, [f"{pair.query} {pair.answer}" for pair in self.left(i)]) for i, chunk in enumerate(self.chunks)]

    @property
    def summary(self) -> dict[str, Any]:
        """Counts: pairs written, kept and dropped, by reason and seed prompt; answers with numbers that are not in their
        document; and how often each sentence was asked about."""
        dropped = Counter(pair.reason for pair in self.pairs if pair.reason is not None)
        prompts = dict.fromkeys(pair.seed_prompt for pair in self.pairs)
        kept = self.lines(dropped=False)
        by_prompt = {
            name: {
                "written": sum(pair.seed_prompt == name for pair in self.pairs),
                "kept": sum(line["seed_prompt"] == name for line in kept),
            }
            for name in prompts
        }
        sentences = {chunk.id: [list(span) for span in spans] for chunk, spans in zip(self.chunks, self.covered, strict=True)}
        return {
            "written": len(self.pairs),
            "kept": len(kept),
            "dropped": {reason: dropped[reason] for reason in REASONS},
            "known": sum(line["known"] for line in kept),
            "answers_with_numbers_not_in_document": sum(bool(line["numbers_not_in_document"]) for line in kept),
            "seed_prompts": by_prompt,
            "coverage": {"columns": ["start", "end", "pairs"], "sentences": sentences},
        }

    def report(self) -> list[str]:
        """The printed summary, line by line; for each chunk one digit per sentence, how often it was asked about."""
        summary = self.summary
        lines = [f"kept {summary['kept']} of {summary['written']} queries"]
        lines += [f"dropped {count}: {reason}" for reason, count in summary["dropped"].items() if count]
        lines += [f"seed prompt {name}: kept {of['kept']} of {of['written']}" for name, of in summary["seed_prompts"].items()]
        invented = summary["answers_with_numbers_not_in_document"]
        if invented:
            lines.append(f"{invented} answers contain numbers that are not in the document (numbers_not_in_document)")
        counts = [[count for *_, count in spans] for spans in self.covered]
        asked, sentences = sum(count > 0 for chunk in counts for count in chunk), sum(map(len, counts))
        lines.append(f"{asked} of {sentences} sentences were asked about; how often, one digit per sentence ({MOST}: or more):")
        for chunk, numbers in zip(self.chunks, counts, strict=True):
            digits = "".join(str(min(number, MOST)) if number else "." for number in numbers)
            lines.append(f"{chunk.document}, characters {chunk.start} to {chunk.end}: {digits}")
        return lines


def ran_out(answers: Answers, ids: Sequence[int]) -> bool:
    """Whether a text was cut because it reached the maximum number of tokens."""
    generation, end = answers.generation, ids[-1] if ids else None
    stopped = any(stop in answers.prompter.tokenizer.decode(list(ids)) for stop in generation.stop)
    return len(ids) == generation.max_new_tokens and end not in generation.end_ids and not stopped


def points_at_text(text: str, document: str) -> bool:
    """Whether a text refers to the document, or to part of it, as a reader who does not see it cannot. Words that the document
    uses itself, such as "the context menu" or "the author of", do not."""
    matches = [*POINTING.finditer(text)]
    spread = " ".join(document.casefold().split()) if matches else ""
    return any(not _names_something(text, match, spread) for match in matches)


def _names_something(text: str, match: re.Match[str], document: str) -> bool:
    """Whether a phrase, with the word after it if there is one, is how the document, in lower case, calls something. Fewer than
    three words could be about any text."""
    after = NEXT_WORD.match(text, match.end())
    words = text[match.start() : (after or match).end()].casefold().split()
    used = re.search(rf"\b{re.escape(' '.join(words))}\b", document)
    return len(words) > 2 and not ALWAYS_POINTING & {*words} and used is not None


def numbers_not_in(answer: str, text: str) -> list[str]:
    """The numbers of an answer, in digits, that a text does not contain; punctuation between digits does not count."""
    known = {re.sub(r"\D", "", number) for number in NUMBER.findall(text)}
    return [number for number in NUMBER.findall(answer) if re.sub(r"\D", "", number) not in known]


def plain(text: str) -> str:
    """A text's words by the rules of SQuAD, joined by spaces."""
    return " ".join(squad_words(text))


def coverage(chunk: Chunk, texts: Sequence[str]) -> list[tuple[int, int, int]]:
    """The sentences of a chunk: start and end in the document, and for how many of the texts each is the most similar."""
    spans = passages(chunk.text)
    counts = np.zeros(len(spans), int)
    if texts:
        nearest, similarity = closest([chunk.text[start:end] for start, end in spans], texts)
        np.add.at(counts, nearest[similarity > 0], 1)
    return [(chunk.start + start, chunk.start + end, int(count)) for (start, end), count in zip(spans, counts, strict=True)]
