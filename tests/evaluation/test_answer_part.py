"""The part of an answer after the model's thoughts."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.evaluation.answer_part import find_part
from llmft.evaluation.scorer import Scorer
from llmft.evaluation.texts import Texts
from llmft.models.reading.batches import BatchSize
from llmft.pipelines.teacher_answers import split_answers
from llmft.prompts.prompter import Prompter
from tests.conftest import byte_level_bpe, tiny_model
from tests.evaluation.test_texts import FORMAT, ROWS

TOKENIZER = byte_level_bpe(None)
PATTERN = re.compile("(?s).*:(.+)")


def encoded(text):
    return TOKENIZER(text, add_special_tokens=False).input_ids


@given(thought=st.text("the cat é🙂.\n", max_size=12), answer=st.text("a mat é🙂!", min_size=1, max_size=8))
def test_an_answer_is_cut_between_its_tokens_and_never_tokenized_again(thought, answer):
    ids = encoded(f"{thought}:{answer}")
    part = find_part(PATTERN, ids, TOKENIZER.decode)
    if not answer.strip():
        assert part is None
        return
    learnt = TOKENIZER.decode(ids[part.begin :])
    assert part.text == answer.strip() and part.ends_answer
    assert learnt.strip().endswith(part.text)
    assert part.whole_token == (learnt.strip() == part.text)
    assert part.begin == len(ids) - 1 or not TOKENIZER.decode(ids[part.begin + 1 :]).strip().endswith(part.text)


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("so : a mat", "(?s).*:(.+)", ("a mat", True, True)),
        ("the cat sat", "the (cat)", ("cat", True, False)),  # more after it
        ("the cat", "t(he cat)", ("he cat", False, True)),  # within the token "the"
        ("the cat", "dog (.+)", None),
        ("the cat :  ", ":(.+)", None),
        ("the cat", "(dog)?", None),
    ],
)
def test_parts_by_hand(text, pattern, expected):
    part = find_part(re.compile(pattern), encoded(text), TOKENIZER.decode)
    assert (part and (part.text, part.whole_token, part.ends_answer)) == expected


def test_answers_without_a_match_are_dropped_and_counted_and_thoughts_are_kept(capsys):
    scorer = Scorer.create(tiny_model("llama"), Prompter(TOKENIZER, FORMAT), Texts, ROWS[0], BatchSize(3))
    (end, *_) = scorer.answers.generation.end_ids
    texts = ("so : a mat", "no", "so the : cat", "a : mat : no")
    queries = [{**row, "answer_ids": [*encoded(text), end]} for row, text in zip(ROWS, texts, strict=True)]
    answers = replace(scorer.answers, pattern=re.compile(r"[^:]*:( [^:]*)"))
    rows, counts = split_answers(answers, queries)
    assert counts == {"written": 4, "learnt": 2, "unmatched": 1, "more_behind": 1, "within_token": 0}
    assert capsys.readouterr().err == (
        "note: the teacher's answers: 2 of 4 rows left out: 1 without a match of --answer_pattern [^:]*:( [^:]*), "
        "1 with more text after it\n"
    )
    assert [row["idx"] for row in rows] == [0, 2]
    for row, query in zip(rows, (queries[0], queries[2]), strict=True):
        assert row["thought_ids"] + row["answer_ids"] == query["answer_ids"] and row["answer_ids"][-1] == end
    assert [answers.written(query["answer_ids"]) for query in queries] == ["a mat", "no", "cat", "mat"]

    prompts = scorer.prompter.prompts(rows)
    asked = answers.continued(prompts, rows)
    whole = answers.continued(prompts, [queries[0], queries[2]])
    assert asked.texts == whole.texts  # the teacher reads its thoughts, and is asked only at the tokens of the answer
    assert asked.counts == [len(row["answer_ids"]) for row in rows]
    with pytest.raises(InputError, match="none of the teacher's 4 answers ends in a match, the first being 'so : a mat'"):
        split_answers(replace(answers, pattern=re.compile("dog (.+)")), queries)
