import copy
import re
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


def test_a_token_without_an_embedding_is_an_error(tokenizers):
    prompter = Prompter(tokenizers["opt"], PromptFormat("{text1} ?", "", r"\n", ("Yes", "No")), model="--model_name_or_path m")
    rows = [{"text1": text, "text2": None} for text in ("a cat", "a mat")]
    prompts = prompter.prompts(rows)
    highest = max(max(prompts.whole(i)) for i in range(len(rows)))
    assert replace(prompter, embeddings=highest + 1).prompts(rows) == prompts
    token = re.escape(tokenizers["opt"].convert_ids_to_tokens(highest))
    with pytest.raises(InputError, match=rf"--model_name_or_path m: has {highest} embeddings, none for {token} \({highest}\)"):
        replace(prompter, embeddings=highest).check_window(rows)


def test_the_token_that_ends_answers_needs_an_embedding(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["opt"])
    count = len(tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    rows = [{"text1": "a cat", "text2": None}]
    labels = PromptFormat("{text1} ?", "", r"\n", ("Yes", "No"))
    Prompter(tokenizer, labels, embeddings=count).prompts(rows)  # label words have no end
    with pytest.raises(InputError, match=rf"has {count} embeddings, none for <\|im_end\|> \({count}\), which ends answers"):
        Prompter(tokenizer, replace(labels, words=()), embeddings=count).prompts(rows)


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
        replace(prompter, window=3, demonstrations=(), may_cut=True).prompts(rows)
    with pytest.raises(InputError, match=r"shorten it, or leave long rows out$"):
        replace(prompter, window=3, demonstrations=()).prompts(rows)
    with pytest.raises(InputError, match="than the model's window minus 1 tokens for the answer, of"):
        replace(prompter, window=longest, behind=1).prompts(rows)
    soft = replace(prompter, window=longest, virtual=4)
    with pytest.raises(InputError, match=f"^--cartridge_tokens 4: with them the longest prompt has {longest + 4} tokens"):
        replace(soft, virtual_flag="--cartridge_tokens").prompts(rows)
    with pytest.raises(InputError, match=rf"^model: its 4 virtual tokens leave {longest - 4} of the model's window of "):
        soft.prompts(rows)
    assert replace(prompter, max_length=longest - 2).prompts(rows).shortened == 1


ANSWERS = ("the cat", "a </s> b", "Yes", "on a mat, ☃ x")


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_an_answer_in_words_follows_its_query_as_it_does_in_a_demonstration(tokenizers, family):
    tokenizer = tokenizers[family]
    rows = [{"text1": text, "text2": None, "label": None, "answer": (text, "x"), "idx": i} for i, text in enumerate(ANSWERS)]
    shown = Prompter(tokenizer, PromptFormat("{text1} ?", "", r"\n\n", ()), tuple(rows))
    alone = replace(shown, demonstrations=())
    assert (shown.stops, alone.stops) == (("\n\n",), ())
    (last,) = shown.end_ids
    assert tokenizer.convert_ids_to_tokens(last) == "</s>"
    for row, prompt, answer in zip(rows, alone.tokenized(rows).suffixes, alone.answer_tokens(rows), strict=True):
        whole = replace(shown, demonstrations=(row,)).context_ids
        prompt = alone.tokenized(rows).prefix + prompt
        assert whole[: len(prompt) + len(answer) - 1] == prompt + answer[:-1]
        assert answer[-1] == last
        assert last not in answer[:-1]


def test_answers_that_are_no_tokens_or_merge_with_their_query(tokenizers):
    prompter = Prompter(tokenizers["gpt2"], PromptFormat(r"{text1}\n", "", r"\n\n", ()))
    row = {"text1": "the cat", "text2": None, "label": None, "answer": ("x",), "idx": 7}
    assert len(prompter.answer_tokens([row, row])) == 2
    for answer in ("", " "):
        with pytest.raises(InputError, match=rf"the answer of row 7, '{answer}', has no tokens .*; give it some text, or leave"):
            prompter.answer_tokens([row, {**row, "answer": (answer,)}])
    with pytest.raises(InputError) as caught:
        prompter.answer_tokens([row, {**row, "answer": ("\n\nx",)}])
    says = r"--pattern '{text1}\n': the answer of row 7, '\n\nx', merges with the end of its query, 'the cat\n', into "
    assert str(caught.value).startswith(says + "'the' 'Ġcat' 'ĊĊ' 'Ċ'; ")
    assert prompter.answer_tokens([{**row, "answer": (), "answer_ids": [3, 1]}]) == [[3, 1]]


def test_shots_of_text_rows_that_would_fit_are_counted(tokenizers):
    shots = tuple({"text1": "the cat", "text2": None, "label": None, "answer": ("sat",), "idx": i} for i in range(9))
    prompter = Prompter(tokenizers["gpt2"], PromptFormat("{text1} ?", "", r"\n\n", ()), shots, window=20)
    with pytest.raises(InputError, match="--num_shots 2 would fit"):
        prompter.prompts(shots[:1])
