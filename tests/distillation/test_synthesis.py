"""What a model is prompted to ask about, and which of its queries are kept."""

import hashlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmft.distillation.sifting import (
    ALIKE,
    ANSWER_CUT,
    ANSWER_EMPTY,
    ANSWER_POINTS,
    CUT,
    EMPTY,
    KNOWN,
    POINTS,
    REASONS,
    REPEATED,
    Sieve,
    WrittenPair,
    numbers_not_in,
    points_at_text,
)
from llmft.distillation.synthesis import SEED_PROMPTS, apportion, assign, tidied
from llmft.models.reading.generation import Generation
from llmft.tasks.chunks import Chunk

TEXT = "The mill opened in 1,854. Ada founded it. Its door is red."
CHUNKS = [Chunk("d", 0, len(TEXT), TEXT), Chunk("e", 0, 9, "The inn.")]
END = 0


class Letters:
    """Answers whose tokens are letters, and which have at most 60."""

    generation = Generation(60, end_ids=(END,))
    prompter = SimpleNamespace(tokenizer=None)

    def written(self, ids):
        return "".join(map(chr, ids)).replace(chr(END), "").strip()


def ids(text, *, ends=True):
    return [*map(ord, text)] + [END] * ends


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 60))
@settings(max_examples=30)
def test_queries_are_shared_out_by_size_and_all_are_told_something_else(sizes, number):
    counts = apportion(sizes, number)
    assert sum(counts) == number
    assert all(abs(count - number * size / sum(sizes)) < 1 for count, size in zip(counts, sizes, strict=True))
    chunks = [CHUNKS[0]._replace(document=str(i)) for i in range(len(sizes))]
    assignments = assign(chunks, sizes, SEED_PROMPTS, number)
    assert len(assignments) == number
    assert len({(one.chunk, one.told, one.round) for one in assignments}) == number  # else two queries would be the same draw
    for place, count in enumerate(counts):
        mine = [one for one in assignments if one.chunk == place]
        assert len(mine) == count
        if count >= 18:
            assert {one.seed_prompt for one in mine} == set(SEED_PROMPTS)
            assert all(any(sentence in one.told for one in mine) for sentence in ("opened", "founded", "door"))


@pytest.mark.parametrize(
    ("written", "query"),
    [
        ("Who founded the mill?", "Who founded the mill?"),
        ('Question: "Who founded the mill?"', "Who founded the mill?"),
        ("Here is a question:\n\n1. Who founded the mill?\n2. When?", "Who founded the mill?"),
        ("**Q1:** Who founded the mill?", "Who founded the mill?"),
        ("1854 was which year?", "1854 was which year?"),
        ("Who founded the mill? To answer this, read on. When?", "Who founded the mill?"),
        ('"Who wrote "Is it red?" and when?"', 'Who wrote "Is it red?" and when?'),
        ('"Who founded the mill?" This asks for a name.', "Who founded the mill?"),
        ('What did he say in "Who? Me!" to her?', 'What did he say in "Who? Me!" to her?'),
        ("Q-learning updates which table?", "Q-learning updates which table?"),
        ("What does `a ? b : C` do in C?", "What does `a ? b : C` do in C?"),
        ("What does 'Who is there?' mean in the play?", "What does 'Who is there?' mean in the play?"),
        ("What did he answer to «Who? Me!» in the play?", "What did he answer to «Who? Me!» in the play?"),
        ("Question - Who founded the mill?", "Who founded the mill?"),
        (" \n", ""),
    ],
)
def test_the_question_of_what_is_written(written, query):
    assert tidied(written) == query


POINTED = """
What does the passage above say?|According to the text, who is Ada?|Which year is mentioned above?|Who is named in this document?
What is the main idea of the given paragraph?|Why does the author like it?|What is described in the following excerpt?
As stated earlier, who came?|Sum up the sentence.
"""
PLAIN = """
Who founded the Ulgal bakery?|Which text editor is meant for beginners?|What is above the door?|Name what stands below the bridge.
When were the documents of the abbey found?
"""


NAMED = """
Which key opens the context menu?|What is the maximum length of the text field?|What is printed on the bank statement?
Where is the reference section of the library?|How long is the passage of the ship through the canal?|Who is the author of Dune?
"""
DOCUMENT = """The document tells of the text. Press M for the Context
menu. The text field, the bank statement, the reference section of the hall; the passage of the ship. Ada is the author of Dune.
The following section, after this sentence, is about the passages."""


def queries(lines):
    return lines.strip().replace("\n", "|").split("|")


def test_what_points_at_a_text_is_told_from_what_does_not():
    for document in ("", DOCUMENT):
        assert all(points_at_text(query, document) for query in queries(POINTED))
        assert not any(points_at_text(query, document) for query in queries(PLAIN))
    assert all(points_at_text(query, "") for query in queries(NAMED))
    assert not any(points_at_text(query, DOCUMENT) for query in queries(NAMED))
    assert points_at_text("Which key does the author say opens the context menu?", DOCUMENT)


def test_a_query_about_what_its_document_names_is_kept():
    documents, query = {"d": "Press M to open the context menu."}, "Which key opens the context menu?"
    for document, reason in (("d", None), ("e", POINTS)):
        sieve = Sieve(documents | {"e": "The inn."}, [Chunk(document, 0, 8, "Press M.")], 0.85)
        sieve.take([WrittenPair.written(0, "fact", Letters(), ids(query))])
        assert [pair.reason for pair in sieve.pairs] == [reason]


def test_numbers_that_stand_nowhere_in_a_document():
    assert numbers_not_in("in 1854, at 3 or 4:30", "founded 1,854; at 4.30") == ["3"]
    assert numbers_not_in("in May", "May 3") == numbers_not_in("10.", "10") == []


LONG = "x" * 60


@pytest.mark.parametrize(
    ("written", "query", "reason"),
    [
        (f"Who paints it? X{LONG}"[:60], "Who paints it?", None),
        (
            'What is the name of the very old water mill that is called "',
            "What is the name of the very old water mill that is called",
            CUT,
        ),
    ],
)
def test_a_question_is_whole_where_only_what_follows_it_is_cut(written, query, reason):
    assert len(written) == Letters.generation.max_new_tokens
    pair = WrittenPair.written(0, "fact", Letters(), ids(written, ends=False))
    assert (pair.query, pair.reason) == (query, reason)


WRITTEN = [  # chunk, what the writer writes, the answer, the answer without, why it is dropped
    (0, ids(""), None, None, EMPTY),
    (0, ids(LONG, ends=False), None, None, CUT),
    (0, ids("Who is named in the passage?"), None, None, POINTS),
    (0, ids("Who founded the mill?"), ids("Ada"), ids("Bob"), None),
    (0, ids("who founded a mill"), ids("Eve"), ids("Bob"), REPEATED),  # whatever its answer
    (1, ids("Who founded the mill?"), ids("Ada."), ids("I do not know"), None),  # of another document
    (0, ids("Who founded the red mill?"), ids("Ada"), ids("Bob"), ALIKE),
    (0, ids("Who founded the red inn?"), ids("Eve in 1855"), ids(""), None),  # another answer
    (0, ids("When did it open?"), ids("."), None, ANSWER_EMPTY),
    (0, ids("Name one vitamin!"), ids("A"), ids("B"), None),  # of which SQuAD's rules leave nothing
    (0, ids("How old is it?"), ids(LONG, ends=False), None, ANSWER_CUT),
    (0, ids("Is it old?"), ids("As the text says."), None, ANSWER_POINTS),
    (0, ids("What colour is blood?"), ids("Red"), ids("red."), KNOWN),
]


@pytest.mark.parametrize("keep_known", [False, True])
def test_pairs_are_dropped_for_what_is_wrong_with_them_and_all_are_counted(keep_known):
    letters = Letters()
    sieve = Sieve({"d": TEXT, "e": "The inn."}, CHUNKS, 0.85, keep_known=keep_known)
    sieve.take([WrittenPair.written(chunk, "fact", letters, query) for chunk, query, *_ in WRITTEN])
    for chunk in (0, 1):
        mine = [row for row in WRITTEN if row[0] == chunk]
        sieve.take_answers(chunk, letters, [answer for _, _, answer, _, _ in mine if answer])
        sieve.take_answers_without(chunk, letters, [without for *_, without, _ in mine if without is not None])
    sieve.drop_duplicates()
    expected = [None if keep_known and row[-1] == KNOWN else row[-1] for row in WRITTEN]
    assert [pair.reason for pair in sieve.pairs] == expected
    assert {pair.reason for pair in sieve.pairs} >= set(REASONS) - {KNOWN}
    summary, kept = sieve.summary, sieve.lines(dropped=False)
    assert summary["kept"] + sum(summary["dropped"].values()) == summary["written"] == len(WRITTEN)
    assert summary["known"] == keep_known and [line["known"] for line in kept].count(True) == keep_known
    assert [line["numbers_not_in_document"] for line in kept if "Eve" in line["answer"]] == [["1855"]]
    assert summary["answers_with_numbers_not_in_document"] == 1
    first = kept[0]
    assert (first["document"], first["chunk"], first["answer_ids"]) == ("d", CHUNKS[0].place, ids("Ada"))
    assert first["chunk"].endswith(hashlib.sha256(TEXT.encode()).hexdigest()[:8])
    assert all(line["reason"] for line in sieve.lines(dropped=True)) and json.dumps(summary)
    (mill, founded, door), (inn,) = summary["coverage"]["sentences"].values()
    assert TEXT[founded[0] : founded[1]] == "Ada founded it." and [mill[2], founded[2], door[2], inn[2]] == [1, 1, keep_known, 1]
    report = sieve.report()
    assert report[0] == f"kept {len(kept)} of {len(WRITTEN)} queries" and f"dropped 1: {ALIKE}" in report
    assert report[-2] == f"d, characters 0 to {len(TEXT)}: 11{1 if keep_known else '.'}"


def test_a_pair_is_no_duplicate_of_one_that_is_dropped():
    chunks = [Chunk("d", 0, 26, TEXT[:26]), Chunk("d", 15, len(TEXT), TEXT[15:])]  # which overlap
    answers = [
        (ids(LONG, ends=False), None),
        (ids("Ada"), ids("Ada")),
        (ids("Ada"), ids("Bob")),
        (ids("Eve"), ids("Bob")),
    ]
    asked = ["Who founded it?", "Who founded the red mill?", "Who founded the mill?", "Who founded it?"]
    letters, sieve = Letters(), Sieve({"d": TEXT}, chunks, 0.85)
    sieve.take([WrittenPair.written(place // 2, "fact", letters, ids(query)) for place, query in enumerate(asked)])
    for chunk in (0, 1):
        mine = answers[2 * chunk : 2 * chunk + 2]
        sieve.take_answers(chunk, letters, [answer for answer, _ in mine])
        sieve.take_answers_without(chunk, letters, [without for _, without in mine if without])
    sieve.drop_duplicates()
    assert [pair.reason for pair in sieve.pairs] == [ANSWER_CUT, KNOWN, None, None]
