"""A tokenizer's chat template, taken apart: what it writes itself around the contents of messages.

It is rendered with a stand-in for every content, so that contents can be put in later as text which is never interpreted, and so
that control tokens that the template writes are told from those that a content holds.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from llmft.errors import InputError, one_line, quote
from llmft.prompts.control import control_tokens, look_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DAY = datetime.datetime(2024, 7, 26)
"""Today, for templates that write the date: the same prompt tomorrow. It is the one that Llama 3's write where they know none."""
DIRECTIVES = "aAbBdHIjmMpSyY"
"""Letters of `strftime` that are filled in."""
OPTIONS = {"date_string": DAY.strftime("%d %b %Y"), "enable_thinking": False, "thinking": False}
"""What templates of some families ask for."""
STAND_IN = re.compile("\ufdd1(\\d+)\ufdd1")
LEFT, RIGHT = " \n\n", "\n "
"""White space, of two lengths, that shows at which ends of a content a template takes it off."""
SAMPLE = ' \nAb 1, it\'s {x} <y> & "z"\\\n\n  é\n '
"""A content that shows whether a template changes what it is given."""


class Frame(NamedTuple):
    """What a template writes in front of, between and behind the contents of n messages: n + 1 texts."""

    texts: tuple[str, ...]
    trimmed: tuple[tuple[bool, bool], ...]
    """For each content whether white space is taken off on its left, and on its right."""


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a tokenizer.

    Attributes:
        text: in Jinja.
        mark: what all that it writes itself is put through.
    """

    tokenizer: PreTrainedTokenizerBase
    text: str
    mark: Callable[[str], str] = str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        """The one that comes with the tokenizer.

        Raises:
            InputError: there is none.
        """
        try:
            return cls(tokenizer, tokenizer.get_chat_template())
        except ValueError as error:
            raise InputError(
                f"--chat: {tokenizer.name_or_path} has no chat template, as base models have none; leave --chat out to ask by a "
                "pattern, or choose a model that is tuned to chat"
            ) from error

    def frame(self, roles: Sequence[str]) -> Frame:
        """What is written around the contents of messages of these roles, and behind a user's to have the assistant answer.

        Raises:
            InputError: the template refuses such messages, or changes contents in other ways than taking white space off.
        """
        texts, trimmed = _frame(self.tokenizer, self.text, tuple(roles))
        return Frame(tuple(map(self.mark, texts)), trimmed)

    def takes(self, roles: Sequence[str]) -> bool:
        """Whether it takes messages of these roles."""
        return _takes(self.tokenizer, self.text, tuple(roles))

    @property
    def default_system(self) -> str | None:
        """The content of the system message that it writes where it is given none; None where it writes no such message."""
        if not self.takes(("system", "user")):
            return None
        (before, after, _), _ = self.frame(("system", "user"))
        text = self.frame(("user",)).texts[0]
        if len(text) < len(before) + len(after) or not (text.startswith(before) and text.endswith(after)):
            return None
        return text[len(before) : len(text) - len(after)]


def fit(parts: Sequence[str], trimmed: tuple[bool, bool]) -> list[str]:
    """The parts of a content without the white space at its ends that is taken off, left and right."""
    left, right = trimmed
    parts = [parts[0].lstrip() if left else parts[0], *parts[1:]]
    return [*parts[:-1], parts[-1].rstrip() if right else parts[-1]]


def common_end(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> str:
    """What texts of a template all end in, from the start of one of them or from a control token on; "" for nothing."""
    parted = [units(tokenizer, text) for text in texts]
    alike = len([*takewhile(lambda same: len({*same}) == 1, zip(*map(reversed, parted), strict=False))])
    ends = next(n for n in range(alike, -1, -1) if any(_is_border(one, len(one) - n) for one in parted))
    return "".join(parted[0][len(parted[0]) - ends :])


def _is_border(parted: Sequence[str], place: int) -> bool:
    """Whether a text may be cut in front of this unit: control tokens are longer than a letter."""
    return place in (0, len(parted)) or any(len(unit) > 1 for unit in parted[place - 1 : place + 1])


def units(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The control tokens in a text of a template, and the letters between."""
    names = look_for(tuple(control_tokens(tokenizer)))
    return re.findall(f"{names.pattern}|.", text, re.DOTALL)


@lru_cache(maxsize=256)
def _takes(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...]) -> bool:
    """`_frame` remembers no refusal; this does."""
    try:
        _frame(tokenizer, template, roles)
    except InputError:
        return False
    return True


@lru_cache(maxsize=256)
def _frame(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...]) -> Frame:
    stand_ins = [f"\ufdd1{i}\ufdd1" for i in range(len(roles))]
    texts = _parted(tokenizer, template, roles, stand_ins)
    padded = _parted(tokenizer, template, roles, [f"{LEFT}{text}{RIGHT}" for text in stand_ins])
    kept = [len(long) - len(short) for long, short in zip(padded, texts, strict=True)]  # 5: on both sides
    trimmed = tuple((kept[i] not in (3, 5), kept[i + 1] not in (2, 5)) for i in range(len(roles)))
    contents = [f"{SAMPLE[:5]}{i}{SAMPLE[5:]}" for i in range(len(roles))]
    ours = "".join(text + "".join(fit([content], trim)) for text, content, trim in zip(texts, contents, trimmed, strict=False))
    theirs = _render(tokenizer, template, roles, contents)
    if ours + texts[-1] != theirs:
        raise _changes(tokenizer, f"{quote(SAMPLE)} is written otherwise")
    return Frame(tuple(texts), trimmed)


def _parted(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...], contents: list[str]) -> list[str]:
    """What is written around contents that hold stand-ins."""
    parts = STAND_IN.split(_render(tokenizer, template, roles, contents))
    if parts[1::2] != [str(i) for i in range(len(roles))]:
        raise _changes(tokenizer, f"the contents of {', '.join(roles)} are not written once each, in order")
    return parts[::2]


def _changes(tokenizer: PreTrainedTokenizerBase, how: str) -> InputError:
    return InputError(
        f"--chat: the chat template of {tokenizer.name_or_path} changes the texts of messages: {how}; "
        "leave --chat out and write the turns with --pattern"
    )


def _render(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...], contents: list[str]) -> str:
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        return tokenizer.apply_chat_template(
            messages,
            chat_template=_today() + template,
            tokenize=False,
            add_generation_prompt=roles[-1] != "assistant",
            **OPTIONS,
        )
    except Exception as error:  # a template is code that comes with a model, and fails in any way
        remedy, first = "leave --chat out and write the turns with --pattern", ("system", "user")
        if "system" in roles and (roles == first or not ChatTemplate(tokenizer, template).takes(first)):
            remedy = "give --context_role user, and leave --system_prompt out"
        elif len(roles) > 1:
            remedy = f"give fewer turns or demonstrations, or {remedy}"
        raise InputError(
            f"--chat: the chat template of {tokenizer.name_or_path} fails on messages of {', '.join(_short(roles))}: "
            f"{one_line(error)}; {remedy}"
        ) from error


def _short(roles: Sequence[str]) -> list[str]:
    return [*roles] if len(roles) < 6 else [*roles[:3], "...", roles[-1]]


def _today() -> str:
    """What stands in front of a template to fix the date: transformers passes on plain values alone, no function."""
    steps = "".join(f" | replace('%{letter}', '{DAY.strftime(f'%{letter}')}')" for letter in DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{steps} }}}}{{%- endmacro +%}}"
