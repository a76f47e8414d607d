"""Queries of conversations: what was said before them is read by teacher and student alike."""

from dataclasses import replace

import pytest

from llmft.errors import InputError
from llmft.prompts.alignment import check_alignment
from llmft.prompts.chat_template import OPTIONS
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat, Turn, UpstreamPromptFormat
from tests.prompts.test_chat import CHATML, CONTEXTS, GEMMA, ROW, SHOTS, TEMPLATES, TOKENIZERS, WITHOUT_SYSTEM, chat, pair

HISTORY = (Turn("user", "Who ?"), Turn("assistant", "the cat"))
TALK = {**ROW, "history": HISTORY}
LONGER = {**ROW, "history": (*HISTORY, Turn("user", "a mat ?"), Turn("assistant", "yes")), "idx": 5}

GOLDEN = {
    "chatml": "<|im_start|>user\nWho ?<|im_end|>\n<|im_start|>assistant\nthe cat<|im_end|>\n"
    "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_start|>user\nWho ?<|im_end|>\n<|im_start|>assistant\nthe cat<|im_end|>\n"
    "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "llama3": "<|eot|><|head|>user<|eoh|>\n\nWho ?<|eot|><|head|>assistant<|eoh|>\n\nthe cat<|eot|>"
    "<|head|>user<|eoh|>\n\nQ?<|eot|><|head|>assistant<|eoh|>\n\n",
    "gemma3": "Who ?</turn>\n<turn>model\nthe cat</turn>\n<turn>user\nQ?</turn>\n<turn>model\n",
    "mistral": "Who ? [/INST] the cat</s>[INST] Q? [/INST]",
    "plain": "user: Who ?\nassistant: the cat\nuser: Q?\nassistant:",
}


@pytest.mark.parametrize("family", GOLDEN)
def test_golden_prompts_of_chats(family):
    teacher, student = pair(TEMPLATES[family], document="DOC")
    assert teacher.prompt_format.query(TALK) == student.prompt_format.query(TALK) == GOLDEN[family]
    assert teacher.context == replace(teacher, demonstrations=()).context  # which is as in front of a single question


def test_golden_prompts_of_patterns():
    lines = PromptFormat("user: {text1}", r"\nassistant:", r"\n\n", (), document="DOC")
    assert lines.context(()) + lines.query(TALK) == "DOC\n\nuser: Who ?\nassistant: the cat\nuser: Q?\nassistant:"
    assert lines.demonstration(TALK) == "user: Who ?\nassistant: the cat\nuser: Q?\nassistant: the cat\n\n"
    upstream = UpstreamPromptFormat("{text1}", "A:", "\n", ())
    assert upstream.query(TALK) == "user: Who ?\nassistant: the cat\nQ? A:"
    assert upstream.demonstration(TALK).startswith("user: Who ?\nassistant: the cat\nQ?A:")


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("family", TEMPLATES)
def test_prompts_are_those_of_the_library(family, kind):
    turns = [("system", "Be kind.\n\nDOC it is")]
    for row in (TALK, LONGER):  # a demonstration is a conversation, too
        turns += [*row["history"], ("user", "Q?"), ("assistant", "the cat")]
    turns, more = turns[:-1], {"system_prompt": "Be kind."}
    if family in WITHOUT_SYSTEM:
        turns, more = [("user", f"DOC it is\n\n{turns[1][1]}"), *turns[2:]], {"context_role": "user"}
    messages = [{"role": role, "content": content} for role, content in turns]
    prompter = chat(TEMPLATES[family], TALK, kind=kind, document="DOC it is", **more)
    ids = prompter.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **OPTIONS).input_ids
    assert prompter.prompts([LONGER]).whole(0) == ids


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("role", ["system", "user"])
@pytest.mark.parametrize("family", TEMPLATES)
def test_teacher_and_student_differ_by_the_context_alone(family, role, kind):
    for shots, more in (((), CONTEXTS["document"]), (SHOTS, {}), ((TALK,), CONTEXTS["dialogue"])):
        if family in WITHOUT_SYSTEM and role == "system" and "document" in more:
            continue
        teacher, student = pair(TEMPLATES[family], *shots, kind=kind, role=role, **more)
        check_alignment(teacher, student, [ROW, TALK, LONGER])
        long, short = (one.prompts([TALK]).whole(0) for one in (teacher, student))
        query = student.prompt_format.query(TALK)
        same = len(student.tokenizer(query, add_special_tokens=False).input_ids)
        same -= kind == "sentencepiece"  # it puts a space in front of a text's first word
        assert long[-same:] == short[-same:]
        assert len(long) > len(short)


def test_a_template_that_writes_turns_otherwise_behind_a_context_is_refused():
    numbered = CHATML.replace("{{ m.role }}", "{{ m.role }}{% if m.role == 'assistant' %} {{ loop.index }}{% endif %}")
    teacher, student = pair(numbered, document="DOC")
    assert student.prompts([TALK]).suffixes
    says = "writes the turns of row 0 or its query differently after a context; leave --chat out"
    with pytest.raises(InputError, match=says):
        check_alignment(teacher, student, [ROW, TALK])
    with pytest.raises(InputError, match=says):  # nor is it asked so where there is no student
        teacher.prompts([TALK])
    check_alignment(teacher, student, [ROW])


def test_turns_that_a_template_refuses_are_named_by_their_row():
    two = {**ROW, "history": (Turn("user", "Who ?"),), "idx": 3}
    with pytest.raises(InputError, match=r"fails on messages of user, user: Roles must alternate; .* \(row 3\)$"):
        chat(GEMMA).prompts([ROW, two])
    assert chat(CHATML).prompt_format.query(two).count("<|im_start|>user") == 2


def test_control_tokens_in_a_history_are_text():
    hostile = {**ROW, "history": (Turn("user", "x <|im_end|>"), Turn("assistant", "</s>"))}
    for prompter in (chat(CHATML), Prompter(TOKENIZERS["split"], PromptFormat("{text1}", "", "", ()))):
        ids, plain = (prompter.prompts([row]).whole(0) for row in (hostile, TALK))
        watched = prompter.tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
        assert [ids.count(number) for number in watched] == [plain.count(number) for number in watched]
