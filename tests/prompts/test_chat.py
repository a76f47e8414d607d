"""Prompts in chat templates, written here in the manner of the families that bear their names."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders

from llmft.errors import InputError
from llmft.prompts.alignment import check_alignment
from llmft.prompts.chat import ChatFormat
from llmft.prompts.chat_template import OPTIONS
from llmft.prompts.control import control_tokens
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat, Turn
from llmft.prompts.turns import read_turns
from llmft.prompts.verbalizer import label_sequences
from tests.conftest import byte_level_bpe, sentencepiece_bpe
from tests.prompts.test_control import HOSTILE, PIECES
from tests.prompts.test_tokens import split_bpe

SPECIAL = "<s> </s> <|im_start|> <|im_end|> <|head|> <|eoh|> <|eot|> <turn> </turn> [INST] [/INST]".split()


def taught(tokenizer):
    """The tokenizer with the special tokens of all the templates below."""
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL], special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    if tokenizer.backend_tokenizer.decoder is None:
        tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZERS = {"split": taught(split_bpe()), "byte": taught(byte_level_bpe(None)), "sentencepiece": taught(sentencepiece_bpe())}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN2 = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + CHATML
QWEN3 = """
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\n' }}
    {%- if m.role == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
    {{- m.content.split('</think>')[-1] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""
LLAMA3 = """
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- if messages[0].role == 'system' %}
    {%- set system, messages = messages[0].content | trim, messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|head|>system<|eoh|>\n\nToday: ' + date_string + '\n\n' + system + '<|eot|>' }}
{%- for m in messages %}
    {{- '<|head|>' + m.role + '<|eoh|>\n\n' + m.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|eoh|>\n\n' }}{% endif %}"""
GEMMA = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
    {{- '<turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + m.content | trim + '</turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<turn>model\n' }}{% endif %}"""
GEMMA3 = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set first, messages = messages[0].content + '\n\n', messages[1:] %}
{%- else %}
    {%- set first = '' %}
{%- endif %}
{%- for m in messages %}
    {{- '<turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + (first if loop.first else '') }}
    {{- m.content | trim + '</turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<turn>model\n' }}{% endif %}"""
MISTRAL = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set first, messages = messages[0].content + '\n\n', messages[1:] %}
{%- else %}
    {%- set first = 'On ' + strftime_now('%Y-%m-%d') + ', answer.\n\n' %}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + (first if loop.first else '') + m.content + ' [/INST]' }}
    {%- else %}
        {{- ' ' + m.content + '</s>' }}
    {%- endif %}
{%- endfor %}"""
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
TEMPLATES = {
    "chatml": CHATML, "qwen2": QWEN2, "qwen3": QWEN3, "llama3": LLAMA3, "gemma": GEMMA, "gemma3": GEMMA3, "mistral": MISTRAL,
    "plain": PLAIN,
}  # fmt: skip
WITHOUT_SYSTEM = ("gemma",)

GOLDEN = {  # what a query stands behind without a context, the query, and what it stands behind with one
    "chatml": (
        "",
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nDOC<|im_end|>\n",
    ),
    "qwen2": (
        "<|im_start|>system\nYou are a helpful assistant.",
        "<|im_end|>\n<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nYou are a helpful assistant.\n\nDOC",
    ),
    "qwen3": (
        "",
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_start|>system\nDOC<|im_end|>\n",
    ),
    "llama3": (
        "<s><|head|>system<|eoh|>\n\nToday: 26 Jul 2024\n\n",
        "<|eot|><|head|>user<|eoh|>\n\nQ?<|eot|><|head|>assistant<|eoh|>\n\n",
        "<s><|head|>system<|eoh|>\n\nToday: 26 Jul 2024\n\nDOC",
    ),
    "gemma3": ("<s><turn>user\n", "Q?</turn>\n<turn>model\n", "<s><turn>user\nDOC\n\n"),
    "mistral": (
        "<s>[INST] On 2024-07-26, answer.\n\n",
        "Q? [/INST]",
        "<s>[INST] On 2024-07-26, answer.\n\nDOC\n\n",
    ),
    "plain": ("", "user: Q?\nassistant:", "system: DOC\n"),
}
ANSWER = {"mistral": " the cat</s>", "plain": " the cat\n", "llama3": "the cat<|eot|>", "gemma3": "the cat</turn>\n"}
ROW = {"text1": "Q?", "text2": None, "label": None, "answer": ("the cat", "cat"), "idx": 0}
SHOTS = tuple({**ROW, "text1": f"the cat {i} ?", "answer": (f"a mat {i}",), "idx": i + 1} for i in range(2))


def tokenizer_of(template, kind="split"):
    tokenizer = TOKENIZERS[kind]
    tokenizer.chat_template = template
    return tokenizer


def chat(template, *shots, kind="split", pattern="{text1}", words=(), **more):
    return Prompter(tokenizer_of(template, kind), ChatFormat(pattern, "", r"\n\n", words, **more), shots)


def pair(template, *shots, kind="split", role="system", **context):
    """Teacher and student."""
    both = {name: context.pop(name) for name in ("system_prompt",) if name in context}
    student = chat(template, kind=kind, context_role=role, **both)
    return replace(student, prompt_format=replace(student.prompt_format, **context), demonstrations=shots), student


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_prompts(family):
    teacher, student = pair(TEMPLATES[family], document="DOC")
    alone, query, behind = GOLDEN[family]
    assert (student.context, student.prompt_format.query(ROW), teacher.context) == (alone, query, behind)
    assert teacher.prompt_format.query(ROW) == query
    shown = replace(teacher, demonstrations=(ROW,)).context
    answer = ANSWER.get(family, "the cat<|im_end|>\n")
    assert shown.startswith(behind + query.removesuffix("<think>\n\n</think>\n\n"))
    assert (shown + query).count(answer) == 1


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("family", TEMPLATES)
def test_prompts_are_those_of_the_library(family, kind):
    shots = [turn for row in SHOTS for turn in (("user", row["text1"]), ("assistant", row["answer"][0]))]
    turns, more = [("system", "Be kind.\n\nDOC it is"), *shots, ("user", "Q?")], {"system_prompt": "Be kind."}
    if family in WITHOUT_SYSTEM:
        turns, more = [("user", f"DOC it is\n\n{shots[0][1]}"), *shots[1:], ("user", "Q?")], {"context_role": "user"}
    messages = [{"role": role, "content": content} for role, content in turns]
    prompter = chat(TEMPLATES[family], *SHOTS, kind=kind, document="DOC it is", **more)
    ids = prompter.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **OPTIONS).input_ids
    assert prompter.prompts([ROW]).whole(0) == ids


CONTEXTS = {
    "document": {"document": "the cat sat"},
    "instruction": {"instruction": "Judge."},
    "dialogue": {"turns": (Turn("user", "Who ?"), Turn("assistant", "the cat"))},
    "system turn": {"turns": (Turn("system", "Be."), Turn("user", "Who ?"), Turn("assistant", "the cat")), "document": "x"},
}


def first_word_differs(family, role, kind, behind_turns):
    """Whether a query's first word stands behind a line break or a space in one prompt only, and is another token there."""
    return kind == "byte" and ((family == "mistral" and behind_turns) or (family, role, behind_turns) == ("plain", "user", False))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("role", ["system", "user"])
@pytest.mark.parametrize("family", TEMPLATES)
def test_teacher_and_student_differ_by_the_context_alone(family, role, kind):
    contexts = [(shots, more) for shots in ((), SHOTS[:1], SHOTS) for more in ({}, *CONTEXTS.values())]
    for shots, more in contexts[1:]:
        teacher, student = pair(TEMPLATES[family], *shots, kind=kind, role=role, **more)
        in_system = role == "system" and (more.keys() - {"turns"} or len(more.get("turns", ())) > 2)
        if family in WITHOUT_SYSTEM and in_system:
            with pytest.raises(
                InputError, match=r"fails on messages of system, user.*: System role not supported; use --context_r"
            ):
                check_alignment(teacher, student, [ROW])
            continue
        if first_word_differs(family, role, kind, bool(shots) or "turns" in more):
            with pytest.raises(InputError, match="begins with different tokens after the context"):
                check_alignment(teacher, student, [ROW, *SHOTS])
            continue
        check_alignment(teacher, student, [ROW, *SHOTS])
        long, short = (one.prompts(SHOTS).whole(0) for one in (teacher, student))
        query = student.prompt_format.query(SHOTS[0])
        same = len(student.tokenizer(query, add_special_tokens=False).input_ids)
        if kind == "sentencepiece":  # it puts a space in front of a text's first word
            same -= query.startswith(("the", "user"))
        assert long[-same:] == short[-same:]
        assert len(long) > len(short)


@pytest.mark.parametrize("family", TEMPLATES)
def test_answers_end_as_the_template_ends_them(family):
    prompter = chat(TEMPLATES[family])
    end = {"llama3": "<|eot|>", "gemma": "</turn>", "gemma3": "</turn>", "mistral": "</s>", "plain": "\n"}.get(
        family, "<|im_end|>"
    )
    assert [*map(prompter.tokenizer.decode, prompter.end_ids)] == [*dict.fromkeys((end, "</s>"))]
    (ids,) = prompter.answer_tokens([ROW])
    space = " " if family in ("mistral", "plain") else ""
    assert prompter.tokenizer.decode(ids) == f"{space}the cat{end}"
    assert prompter.stops == ()
    kept = {**ROW, "answer_ids": [5, 6]}
    assert prompter.answer_tokens([ROW, kept]) == [ids, [5, 6]]


def test_a_system_prompt_is_read_with_and_without_a_context():
    teacher, student = pair(QWEN2, document="DOC", system_prompt="Be kind.")
    assert student.context == "<|im_start|>system\nBe kind."
    assert teacher.context == "<|im_start|>system\nBe kind.\n\nDOC"
    check_alignment(teacher, student, [ROW])
    teacher, student = pair(QWEN2, document="DOC", system_prompt="Be kind.", role="user")
    assert teacher.context == f"{student.context}DOC\n\n"
    assert student.context == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"


def test_behind_a_cartridge_of_the_whole_context_a_student_reads_what_its_teacher_does():
    for family in ("chatml", "qwen2", "llama3", "gemma3"):
        teacher, student = pair(TEMPLATES[family], document="the cat sat")
        behind = replace(student, opens=False).prompts([ROW]).whole(0)
        assert teacher.context_ids + behind == teacher.prompts([ROW]).whole(0)


@pytest.mark.parametrize("family", ["qwen2", "llama3", "mistral"])
@given(text=HOSTILE | st.lists(st.sampled_from([*PIECES, *SPECIAL]), max_size=6).map("".join))
@settings(max_examples=60, deadline=None)
def test_texts_make_no_control_tokens(family, text):
    row, plain = {**ROW, "text1": text, "answer": (f"x{text}",)}, {**ROW, "answer": ("x",)}

    def found(row, document):
        turns = (Turn("user", document), Turn("assistant", "x"))
        prompter = chat(TEMPLATES[family], row, document=document, turns=turns, system_prompt=document)
        watched = {*control_tokens(prompter.tokenizer).values()}
        ids = prompter.prompts([row]).whole(0) + prompter.answer_tokens([row])[0]
        return [number for number in ids if number in watched]

    assert found(row, f"x{text}") == found(plain, "x")


def test_white_space_that_a_template_takes_off_is_in_no_prompt():
    row = {**ROW, "text1": " \nQ? ", "answer": (" the cat ",)}
    teacher, student = pair(LLAMA3, row, document=" DOC\n")
    assert student.prompt_format.query(row) == student.prompt_format.query(ROW)
    assert student.answer_tokens([row]) == student.answer_tokens([ROW])
    assert (
        teacher.context
        == replace(teacher, demonstrations=(ROW,), prompt_format=replace(teacher.prompt_format, document="DOC")).context
    )
    check_alignment(teacher, student, [row])
    assert "user\n \nQ?<|im_end|>" in chat(CHATML).prompt_format.query(row)


def test_labels_behind_the_assistants_header():
    prompter = chat(QWEN2, pattern="{text1} ?", words=("Yes", "No"))
    control, written = prompter.written([ROW])
    space = prompter.prompt_format.space
    sequences = label_sequences(prompter.tokenizer, written.query(ROW), ("Yes", "No"), several=True, space=space, control=control)
    assert [prompter.tokenizer.decode(ids) for ids in sequences] == ["Yes", "No"]


def test_a_long_row_is_cut_within_its_turn():
    prompter = chat(CHATML)
    row = {**ROW, "text1": "the cat sat " * 20}
    longest = prompter.prompts([ROW]).longest + 10
    prompts = replace(prompter, max_length=longest).prompts([row])
    assert prompts.shortened == 1
    assert prompter.tokenizer.decode(prompts.whole(0)).endswith("<|im_end|>\n<|im_start|>assistant\n")


REFUSED = {
    "none": (None, "has no chat template, like most base models; leave --chat out"),
    "raises": ("{{ raise_exception('not today') }}", "fails on messages of user: not today; leave --chat out"),
    "divides": ("{{ 1 / 0 }}", "fails on messages of user: division by zero; leave --chat out"),
    "unsound": ("{% for m in messages %}", "fails on messages of user: Unexpected end of template"),
    "upper": (CHATML.replace("m.content", "m.content | upper"), "changes the texts of messages"),
    "json": (CHATML.replace("m.content", "m.content | tojson"), "changes the texts of messages"),
    "once": ("{{ messages[-1].role }}", "the contents of user are not written once each, in order"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_templates_that_are_refused(what):
    template, says = REFUSED[what]
    with pytest.raises(InputError) as caught:
        chat(template)
    assert says in str(caught.value)
    assert str(caught.value).startswith("--chat: ")


def test_a_template_that_always_opens_a_block_of_thoughts_is_for_answers_in_text_only():
    thinking = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(InputError, match=r"^--chat: .* a label would stand behind '<think>\\n'; leave --chat out"):
        chat(thinking, words=("Yes", "No"))
    assert chat(thinking).prompts([ROW]).suffixes


def test_turns_that_a_template_refuses():
    with pytest.raises(InputError, match="fails on messages of user, user: Roles must alternate; use fewer turns"):
        _ = chat(GEMMA, turns=(Turn("user", "Who ?"),)).context
    alternating = GEMMA.replace("messages[0].role == 'system'", "false").replace("loop.index0 % 2 == 0", "loop.index0 % 2")
    with pytest.raises(InputError, match="fails on messages of system, user, user: Roles must alternate; use fewer turns"):
        _ = chat(
            alternating.replace("{%- if (", "{%- if loop.index0 > 1 and ("), turns=(Turn("user", "Who ?"),), document="x"
        ).context


NUMBERED = CHATML.replace("{{ m.role }}", "{{ m.role }} {{ loop.index }}").replace("assistant\n{% endif", "assistant 2\n{% endif")
MISALIGNED = {
    "numbers turns": (
        CHATML.replace("{{ m.role }}", "{{ m.role }}{% if m.role == 'user' %} {{ loop.index }}{% endif %}"),
        SHOTS,
        {},
    ),
    "drops its opening": ("{% if messages[0].role != 'system' %}<s>x{% endif %}" + CHATML, (), {"document": "DOC"}),
    "has another default": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nI am.<|im_end|>\n{% endif %}"
        + CHATML.replace("{{ m.content }}", "{{ 'You: ' if m.role == 'system' }}{{ m.content }}"),
        (),
        {"document": "DOC"},
    ),
    "speaks of it": (
        CHATML.replace("{{ m.content }}", "{{ 'See: ' if not loop.first }}{{ m.content }}"),
        (),
        {"document": "DOC"},
    ),
}


@pytest.mark.parametrize("what", MISALIGNED)
def test_a_template_by_which_teacher_and_student_differ_by_more_is_refused(what):
    template, shots, context = MISALIGNED[what]
    teacher, student = pair(template, *shots, **context)
    with pytest.raises(InputError, match=r"differ by more than the context|writes a query differently after a context") as caught:
        check_alignment(teacher, student, [ROW])
    assert "<|im_start|>" in str(caught.value)


def test_with_a_system_prompt_for_both_another_default_does_no_harm():
    template, _, context = MISALIGNED["has another default"]
    check_alignment(*pair(template, system_prompt="Be kind.", **context), [ROW])


@pytest.mark.parametrize(("kind", "separator"), [("split", "\n"), ("byte", " ")])
def test_tokens_across_the_border_of_context_and_query_are_refused(kind, separator):
    tokenizer, row = TOKENIZERS[kind], {**ROW, "text1": "\n\nthe cat"}
    student = Prompter(tokenizer, PromptFormat("{text1} ?", "", r"\n\n", ()))
    teacher = replace(student, prompt_format=replace(student.prompt_format, document="x.", separator="\n"))
    with pytest.raises(InputError, match="--context: the query of row 0 begins with different tokens") as caught:
        check_alignment(teacher, student, [*[ROW] * 40, row, *[{**ROW, "text1": "the cat " * 9}] * 40])
    assert "the teacher's ..." in str(caught.value)
    assert "the student's ..." in str(caught.value)
    check_alignment(teacher, student, [ROW])
    check_alignment(*pair(CHATML, kind=kind, document="x."), [ROW, row])  # a header stands between
    with pytest.raises(InputError, match="--context"):
        check_alignment(*pair(CHATML, kind=kind, role="user", document="x.", separator=separator), [row])


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "toy"])
def test_patterns_are_aligned(tokenizers, family):
    student = Prompter(tokenizers[family], PromptFormat("{text1} ?", "", r"\n\n", ()))
    rows = [{**ROW, "text1": text} for text in ("the cat", " a mat", "x")]
    for shots, document in (((), "the cat"), (SHOTS, ""), (SHOTS, "the cat")):
        teacher = replace(student, demonstrations=shots, prompt_format=replace(student.prompt_format, document=document))
        check_alignment(teacher, student, rows)


def test_a_dialogue_in_a_pattern_is_lines(tmp_path):
    file = tmp_path / "turns.jsonl"
    file.write_text('{"role": "user", "content": "Who?\\n"}\n\n{"role": "assistant", "content": "Ann </s>"}\n')
    turns = read_turns(str(file), "--context_file")
    assert turns == (Turn("user", "Who?\n"), Turn("assistant", "Ann </s>"))
    assert PromptFormat("{text1}", "", r"\n\n", (), turns=turns).context([]) == "user: Who?\n\nassistant: Ann </s>\n\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "{role",
            'line 2 is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); write {"role"',
        ),
        ('{"role": "user", "content": "a", "content": "b"}', "line 2 is not JSON (two entries are named 'content'); write"),
        ("[" * 10**5, "line 2 is not JSON (maximum recursion depth exceeded"),
        ('"text"', "line 2 has no text role and content; write"),
        ('{"role": "user"}', "line 2 has no text content; write"),
        ('{"role": "tool", "content": "x"}', "line 2 has the role 'tool'; use system or user or assistant"),
        ('{"role": "user", "content": " "}', "line 2 has an empty content; add text, or drop the turn"),
        (r'{"role": "user", "content": "\ud800"}', "line 2 holds half a surrogate pair; fix the file"),
        ('{"role": "system", "content": "x"}', "turn 2 has the role system; only the first may have it"),
    ],
)
def test_what_is_no_dialogue(tmp_path, line, says):
    file = tmp_path / "turns.jsonl"
    file.write_text('{"role": "user", "content": "Who?"}\n' + line)
    with pytest.raises(InputError) as caught:
        read_turns(str(file), "--context_file")
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"--context_file {file}: ")
