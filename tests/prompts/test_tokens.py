import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.prompts.render import PromptFormat
from llmft.prompts.tokens import TAIL, leading_ids, token_ids, tokenize_prompts
from llmft.prompts.verbalizer import check_border, label_sequences, parse_words
from tests.conftest import byte_level_bpe, sentencepiece_bpe

FAMILIES = ["gpt2", "opt", "llama", "toy"]
AWKWARD = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["{", "}", "{text2}", "\n", "\n\n", " \n", "a ", "☃", "e\u0301", "\u00a0", "\t", "?", "\u3000", "Yes", " No"]
)
PATTERNS = ["{text1} {text2} ?", "{text1}", r"Review: {text1}\nSentiment:", r"{text1} \n Question: {text2}?\n"]


def split_bpe():
    """A tokenizer that parts words as Llama 3's and Qwen's: punctuation takes the line breaks behind it along."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat.\n\n ...\n   x Yes ?! 12345 it's"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def unigram():
    """A tokenizer that weighs all ways of parting a text, which may depend on all of it."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on a mat ? Yes No\n\n"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


LLAMA3, UNIGRAM = split_bpe(), unigram()


@pytest.mark.parametrize("family", FAMILIES)
@given(
    text1=AWKWARD,
    text2=AWKWARD,
    pattern=st.sampled_from(PATTERNS),
    label=st.sampled_from([0, 1]),
    delimiter=st.sampled_from([None, " ", "", r"\n", r"\t", ": ", ":", r" \n"]),
)
@settings(max_examples=150, deadline=None)
def test_query_and_label_are_a_prefix_of_the_demonstration(tokenizers, family, text1, text2, pattern, label, delimiter):
    tokenizer = tokenizers[family]
    prompt_format = PromptFormat(pattern, "", r"\n\n", ("Yes", "No"), delimiter=delimiter)
    row = {"text1": text1, "text2": text2, "label": label}
    query = prompt_format.query(row)
    assume(query)
    control, space = prompt_format.control(tokenizer, [row]), prompt_format.space
    written = prompt_format.written_as(control.mark)
    sample = written.query({**row, "text1": "x", "text2": "x"})
    demonstration = written.demonstration(row)
    try:
        labels = label_sequences(tokenizer, sample, prompt_format.words, several=True, space=space, control=control)
        check_border(control, [written.query(row)], prompt_format.words, labels, space=space)
    except InputError:  # the label and what is before it are one word, or (GPT-2's) two newlines are parted by what follows
        assert space == ""
        reject()
    expected = token_ids(tokenizer, written.query(row), control) + labels[label]
    assert token_ids(tokenizer, demonstration, control)[: len(expected)] == expected


@pytest.mark.parametrize(("family", "lead"), [("gpt2", 0), ("opt", 1), ("llama", 1), ("toy", 1)])
def test_a_beginning_of_text_token_is_kept_and_no_end_token_added(tokenizers, family, lead):
    tokenizer = tokenizers[family]
    assert len(leading_ids(tokenizer)) == lead
    assert token_ids(tokenizer, "x Yes") == tokenizer("x Yes").input_ids


@given(st.lists(st.text(alphabet="ab \n?", max_size=8), min_size=1, max_size=6), st.text(alphabet="ab \n?", max_size=10))
@settings(deadline=None)
def test_prefix_and_suffix_make_up_the_tokens_of_the_whole_text(tokenizers, queries, context):
    tokenizer = tokenizers["opt"]
    queries = [query + "?" for query in queries]
    prompts = tokenize_prompts(tokenizer, context, queries)
    assert [prompts.whole(i) for i in range(len(queries))] == [token_ids(tokenizer, context + query) for query in queries]
    assert all(prompts.suffixes)
    firsts = {suffix[0] for suffix in prompts.suffixes}
    assert len(firsts) > 1 or min(map(len, prompts.suffixes)) == 1  # nothing more could have been shared


PIECES = st.sampled_from(
    [
        "the cat",
        " sat",
        "\n",
        "\n\n",
        " ",
        "   ",
        "\t",
        ".",
        "...\n",
        "?!",
        "x" * 90,
        "\u3000",
        "☃☃",
        "e\u0301",
        "的猫" * 40,
        "</s>",
        "12345",
        "'s",
    ]
)


@pytest.mark.parametrize("family", [*FAMILIES, "llama3", "unigram"])
@given(
    context=st.lists(PIECES, min_size=20, max_size=60).map("".join),
    queries=st.lists(st.lists(PIECES, min_size=1, max_size=4).map("".join), min_size=2, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_a_long_context_is_tokenized_once_and_nothing_changes(tokenizers, family, context, queries):
    tokenizer = {**tokenizers, "llama3": LLAMA3, "unigram": UNIGRAM}[family]
    prompts = tokenize_prompts(tokenizer, context, queries)
    assert [prompts.whole(i) for i in range(len(queries))] == [token_ids(tokenizer, context + query) for query in queries]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_end_of_a_long_context_is_read_with_each_query(tokenizers, family):
    class Counting:
        """Counts the characters that are tokenized."""

        def __init__(self):
            self.seen = 0

        def __call__(self, texts, **kwargs):
            self.seen += len(texts) if isinstance(texts, str) else sum(map(len, texts))
            return tokenizers[family](texts, **kwargs)

        def __getattr__(self, name):
            return getattr(tokenizers[family], name)

    context, queries, counting = "the cat sat on a mat ? Yes\n\n" * 100, [f"the cat {'on ' * i}?" for i in range(200)], Counting()
    prompts = tokenize_prompts(counting, context, queries)
    assert counting.seen < 20 * len(context) + 200 * (2 * TAIL) + sum(map(len, queries))
    assert len(prompts.prefix) > 100
    assert prompts.whole(7) == token_ids(tokenizers[family], context + queries[7])


def test_an_empty_query_is_an_error(tokenizers):
    with pytest.raises(InputError, match="--pattern"):
        tokenize_prompts(tokenizers["gpt2"], "", ["a", ""])


def test_a_query_of_spaces_that_has_no_tokens_of_its_own():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="--pattern"):  # nothing to stand behind
        tokenize_prompts(PreTrainedTokenizerFast(tokenizer_object=words), "", ["a b", " "])
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    prompts = tokenize_prompts(PreTrainedTokenizerFast(tokenizer_object=words), "", ["a b", " "])
    assert (prompts.prefix, prompts.suffixes) == ([], [[0, 2, 3], [0]])


@pytest.mark.parametrize("written", ["Yes,No", "ĠYes,ĠNo", "▁Yes,▁No", " Yes, No"])
def test_words_may_be_written_with_any_mark_for_the_space(written):
    assert parse_words(written, 2) == ("Yes", "No")


@pytest.mark.parametrize(
    ("written", "says"), [("Yes", "1 words for 2"), ("Yes,", "empty"), ("Yes,ĠYes", "same word"), ("a,b,c", "3 words")]
)
def test_unusable_words(written, says):
    with pytest.raises(InputError, match=says):
        parse_words(written, 2, "--teacher_target_tokens")


@pytest.mark.parametrize(
    "tokenizer", [byte_level_bpe(None), byte_level_bpe("</s>"), sentencepiece_bpe()], ids=["gpt2", "opt", "llama"]
)
def test_label_tokens_stand_for_their_words(tokenizer):
    ids = [ids[0] for ids in label_sequences(tokenizer, "the cat ?", ("Yes", "No"), several=False)]
    assert [tokenizer.decode([i]).strip() for i in ids] == ["Yes", "No"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_of_several_tokens_is_an_error(tokenizers, family):
    with pytest.raises(InputError, match="'Zebra' is not one token") as caught:
        label_sequences(tokenizers[family], "the cat ?", ("Yes", "Zebra"), "--student_target_tokens", several=False)
    assert str(caught.value).startswith("--student_target_tokens 'Yes,Zebra'")
