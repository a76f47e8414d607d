from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.prompts.prompter import Prompter, shorten
from llmft.prompts.render import PromptFormat

TEXT = st.text(alphabet="ab \n{}☃", max_size=40)


def words(row):
    """A stand-in for a tokenizer: letters and the pattern's three tokens."""
    return len(row["text1"]) + len(row["text2"] or "") + 3


@given(TEXT, st.one_of(st.none(), TEXT), st.integers(3, 90))
def test_the_result_fits_and_only_ends_are_lost(text1, text2, limit):
    row = {"text1": text1, "text2": text2, "label": 1, "idx": 7}
    short = shorten(row, words, limit)
    assert words(short) <= limit
    assert text1.startswith(short["text1"])
    assert (text2 or "").startswith(short["text2"] or "")
    assert (short["label"], short["idx"]) == (1, 7)
    if words(row) <= limit:
        assert short == row


@given(st.text(alphabet="ab", min_size=1, max_size=40), st.integers(3, 43))
def test_no_more_is_lost_than_must_be(text, limit):
    short = shorten({"text1": text, "text2": None}, words, limit)
    assert words(short) == min(limit, len(text) + 3)


def test_the_longer_text_is_cut():
    row = {"text1": "a" * 30, "text2": "b" * 5}
    assert shorten(row, words, 20) == {"text1": "a" * 12, "text2": "b" * 5}


def test_what_cannot_fit_is_none():
    assert shorten({"text1": "abc", "text2": "b"}, words, 2) is None


def test_a_prompt_over_the_window_is_an_error(tokenizers):
    shown = tuple({"text1": "the cat sat", "text2": None, "label": i % 2, "idx": i} for i in range(20))
    prompter = Prompter(tokenizers["opt"], PromptFormat("{text1} ?", "", r"\n", ("Yes", "No")), shown)
    rows = [{"text1": text, "text2": None} for text in ("a mat", "a cat on a mat")]
    longest = prompter.prompts(rows).longest
    assert replace(prompter, window=longest).prompts(rows).longest == longest
    with pytest.raises(InputError) as caught:
        replace(prompter, window=longest - 3).prompts(rows)
    says = f"--num_shots 20: the longest prompt has {longest} tokens, 3 more than the model's window of {longest - 3}; "
    assert str(caught.value) == says + "--num_shots 18 would fit (the first 18 of these)"
    with pytest.raises(InputError, match="not even one of these would fit"):
        replace(prompter, window=3).prompts(rows)
    with pytest.raises(InputError, match="cut them with --max_seq_length"):
        replace(prompter, window=3, demonstrations=()).prompts(rows)
    with pytest.raises(InputError, match="than the model's window leaves beside 1 tokens of a label of"):
        replace(prompter, window=longest, behind=1).prompts(rows)
    assert replace(prompter, max_length=longest - 2).prompts(rows).shortened == 1
