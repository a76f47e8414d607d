import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.prompts.render import PromptFormat, UpstreamPromptFormat, decode_escapes, escaped, read_text
from llmft.tasks.table import TASKS, get_task
from tests.conftest import ROWS

ROW = {"text1": "Dogs bark.", "text2": "Cats bark.", "label": 1, "idx": 0}


def fmt(pattern="{text1} {text2} ?", prefix="", separator=r"\n\n", words=("Yes", "No"), **more):
    return PromptFormat(pattern, prefix, separator, words, **more)


@pytest.mark.parametrize(
    ("prompt_format", "query", "demonstration"),
    [
        (fmt(), "Dogs bark. Cats bark. ?", "Dogs bark. Cats bark. ? No\n\n"),
        (
            fmt("{text1} question: {text2} Yes or No?", " answer:"),
            "Dogs bark. question: Cats bark. Yes or No? answer:",
            "Dogs bark. question: Cats bark. Yes or No? answer: No\n\n",
        ),
        (
            fmt(r"{text1} \n Question: {text2} True or False?", r" \n Answer: ", words=("True", "False")),
            "Dogs bark. \n Question: Cats bark. True or False? \n Answer:",
            "Dogs bark. \n Question: Cats bark. True or False? \n Answer: False\n\n",
        ),
        (
            fmt(r"Review: {text1}\nSentiment:", separator=r"\t"),
            "Review: Dogs bark.\nSentiment:",
            "Review: Dogs bark.\nSentiment: No\t",
        ),
        (fmt("{text1}", separator=""), "Dogs bark.", "Dogs bark. No"),
    ],
    ids=["minimal", "gpt-3", "eval-harness", "one text", "bare"],
)
def test_golden_prompts(prompt_format, query, demonstration):
    assert prompt_format.query(ROW) == query
    assert prompt_format.demonstration(ROW) == demonstration


@pytest.mark.parametrize("name", ["toy", "rte", "sst2"])
def test_golden_prompts_of_the_task_table(name):
    task = get_task(name)
    shown = {
        "toy": "Dogs bark. Cats bark. ? No\n\n",
        "rte": "Dogs bark. Cats bark. ? No\n\n",
        "sst2": "Dogs bark. ? Yes\n\n",
    }
    assert fmt(task.patterns["minimal"].pattern, words=task.patterns["minimal"].target_tokens).demonstration(ROW) == shown[name]


def test_context_is_description_and_demonstrations():
    assert fmt(description=r"Judge:\n").context([ROW]) == "Judge:\n\n\nDogs bark. Cats bark. ? No\n\n"
    assert fmt().context([]) == ""


@given(st.text(), st.text())
def test_the_text_of_an_example_is_put_in_and_never_interpreted(text1, text2):
    prompt = fmt("<{text1}|{text2}>").query({"text1": text1, "text2": text2})
    assert prompt == f"<{text1}|{text2}>"


def test_awkward_text_changes_nothing_but_the_text():
    assert fmt().query(ROWS[1]) == 'dogs {bark} \\n 100% ☃ say "no"\tor\nyes {0} {text1} ?'


@given(st.text(), st.sampled_from(["{text1}", "{text1} ", "{text1} ?  "]), st.sampled_from(["", " ", "  "]))
def test_a_query_never_ends_in_a_space(text, pattern, prefix):
    assert not fmt(pattern, prefix).query({"text1": text}).endswith(" ")


def test_content_free_queries():
    assert [*map(fmt().query, fmt().content_free_rows())] == ["N/A N/A ?", "  ?", "[MASK] [MASK] ?"]
    assert [*map(fmt("{text1}").query, fmt("{text1}").content_free_rows())] == ["N/A", "[MASK]"]


CHAT = r"<|im_start|>user\n{text1}<|im_end|>\n"
DELIMITED = [
    ({}, "Dogs bark. Cats bark. ?", " No"),
    ({"delimiter": ""}, "Dogs bark. Cats bark. ?", "No"),
    ({"delimiter": r"\n"}, "Dogs bark. Cats bark. ?\n", "No"),
    ({"delimiter": ": "}, "Dogs bark. Cats bark. ?:", " No"),
    (
        {"pattern": CHAT, "prefix": r"<|im_start|>assistant\n"},
        "<|im_start|>user\nDogs bark.<|im_end|>\n<|im_start|>assistant\n",
        "No",
    ),
    ({"pattern": r"{text1}\t "}, "Dogs bark.\t", "No"),
    ({"pattern": r"{text1}\n", "delimiter": " "}, "Dogs bark.\n", " No"),
    ({"pattern": "{text1}"}, "Dogs bark.", " No"),
    ({"pattern": "{text1} 对吗？", "words": ("是", "否")}, "Dogs bark. 对吗？", "否"),
    ({"pattern": "{text1} ใช่ไหม", "words": ("ใช่", "ไม่")}, "Dogs bark. ใช่ไหม", "ไม่"),
    ({"pattern": "{text1} 예?", "words": ("예", "아니오")}, "Dogs bark. 예?", " 아니오"),
    ({"pattern": "{text1} ?", "words": ("是", "No")}, "Dogs bark. ?", " No"),
]


@pytest.mark.parametrize(("more", "query", "label"), DELIMITED)
def test_golden_delimiters(more, query, label):
    assert fmt(**more).query(ROW) == query
    assert fmt(**more).demonstration(ROW) == f"{query}{label}\n\n"


def test_no_space_behind_a_control_token_that_the_format_writes():
    assert fmt("{text1}<|assistant|> ").settled(["<|assistant|>"]).demonstration(ROW) == "Dogs bark.<|assistant|>No\n\n"
    assert fmt("{text1}").settled(["</s>"]).demonstration({**ROW, "text1": "a</s>"}) == "a</s> No\n\n"  # which a row holds
    assert fmt("{text1}<|assistant|>", delimiter=" ").settled(["<|assistant|>"]).space == " "


def test_shipped_patterns_end_in_no_white_space():
    for task in TASKS.values():
        assert {fmt(p.pattern, p.prefix, words=p.target_tokens).settled().delimiter for p in task.patterns.values()} == {" "}


@pytest.mark.parametrize(
    ("pattern", "says"), [("no text ?", "no {text1}"), ("{text1} {premise}", "{premise}"), ("{text1} {}", "{}")]
)
def test_unusable_patterns(pattern, says):
    with pytest.raises(InputError, match="--student_pattern") as caught:
        fmt(pattern, pattern_flag="--student_pattern")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "prefix", "query", "demonstration"),
    [
        ("{text1} {text2} ?", " ", "Dogs bark. Cats bark. ? ", "Dogs bark. Cats bark. ? No"),
        ("{text1} {text2} ?", "", "Dogs bark. Cats bark. ?", "Dogs bark. Cats bark. ?No"),
        (
            "{text1} question: {text2} Yes or No?",
            " answer: ",
            "Dogs bark. question: Cats bark. Yes or No? answer:",
            "Dogs bark. question: Cats bark. Yes or No? answer: No",
        ),
        (
            r"{text1} \nQuestion: {text2} True or False?",
            r"\nAnswer: ",
            r"Dogs bark. \nQuestion: Cats bark. True or False? \nAnswer:",
            r"Dogs bark. \nQuestion: Cats bark. True or False?\nAnswer: No",
        ),
    ],
    ids=["minimal", "no prefix", "gpt-3", "eval-harness"],
)
def test_golden_prompts_of_upstream(pattern, prefix, query, demonstration):
    upstream = UpstreamPromptFormat(pattern, prefix, r"\n\n", ("Yes", "No"), description="Judge.")
    assert upstream.query(ROW) == query
    assert upstream.demonstration(ROW) == demonstration + r"\n\n"
    assert upstream.context([ROW]) == r"Judge.\n\n" + demonstration + r"\n\n"


@given(st.sampled_from(ROWS))
def test_upstreams_prompts_hold_any_text_too(row):
    upstream = UpstreamPromptFormat("<{text1}|{text2}>", "", "", ("Yes", "No"))
    assert upstream.query(row) == f"<{row['text1']}|{row['text2']}>"


@given(st.text(alphabet="an\n\t{} "))
def test_escapes_go_both_ways(text):
    assert decode_escapes(escaped(text)) == text


@pytest.mark.parametrize("ends", ["\n\n\n", "\r\n\r\n\r\n", "\n\r\n\n", "\r\r\r"])
def test_a_text_file_of_any_line_ends(tmp_path, ends):
    file, (first, second, *last) = tmp_path / "text.txt", re.findall("\r\n|\n|\r", ends)
    file.write_bytes(f"\ufeffa é{first}{second}b{''.join(last)}".encode())
    assert read_text(str(file), "--context_file") == "a é\n\nb"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a\né".encode("latin-1"), "byte 0xe9 in line 2 is not UTF-8; save it as UTF-8"),
        ("a é".encode("utf-16"), "it is in UTF-16; save it as UTF-8"),
        (b"%PDF-1.7 ", "it is a PDF; save it as text in UTF-8"),
        (b"PAR1", "(it is a parquet file; save it as text in UTF-8); name a text file in UTF-8"),
        (b"\x1f\x8b", "(it is packed by gzip; unpack it); name a text file in UTF-8"),
        (b" \n", "the file has no text; name another file"),
    ],
)
def test_what_is_no_text_file(tmp_path, content, says):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_text(str(file), "--context_file")
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"--context_file {file}: ")
    with pytest.raises(InputError, match=r"^--context_dir .*; leave it out with --context_glob$"):
        read_text(str(file), "--context_dir")


def test_a_querys_end_goes_by_the_delimiter_that_is_given_or_else_by_the_pattern():
    assert fmt(delimiter=": ").settled().end_flag == "--label_delimiter ': '"
    assert fmt(r"{text1}\n", pattern_flag="--teacher_pattern").settled().end_flag == r"--teacher_pattern '{text1}\n'"
