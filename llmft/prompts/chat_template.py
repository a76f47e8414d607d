"""A tokenizer's chat template, taken apart: the text that it writes around the contents of messages.

It is rendered with a placeholder for every content, so that contents can be inserted later as text that is never interpreted, and
so that control tokens of the template can be distinguished from those in a content.
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
"""Today's date for templates that write it, fixed so that prompts never change. It is the default date in Llama 3's templates."""
DIRECTIVES = "aAbBdHIjmMpSyY"
"""Letters of `strftime` that are supported."""
OPTIONS = {"date_string": DAY.strftime("%d %b %Y"), "enable_thinking": False, "thinking": False}
"""Variables used by the templates of some model families."""
STAND_IN = re.compile("\ufdd1(\\d+)\ufdd1")
LEFT, RIGHT = " \n\n", "\n "
"""White space of two lengths, which shows at which ends of a content a template strips it."""
SAMPLE = ' \nAb 1, it\'s {x} <y> & "z"\\\n\n  é\n '
"""A content that shows whether a template changes contents."""


class Frame(NamedTuple):
    """The text of a template before, between and after the contents of n messages: n + 1 texts."""

    texts: tuple[str, ...]
    trimmed: tuple[tuple[bool, bool], ...]
    """For each content, whether white space is stripped on its left and on its right."""


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a tokenizer.

    Attributes:
        text: its source in Jinja.
        mark: function applied to all text that the template writes itself.
    """

    tokenizer: PreTrainedTokenizerBase
    text: str
    mark: Callable[[str], str] = str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        """The template that comes with the tokenizer.

        Raises:
            InputError: it has none.
        """
        try:
            return cls(tokenizer, tokenizer.get_chat_template())
        except ValueError as error:
            raise InputError(
                f"--chat: {tokenizer.name_or_path} has no chat template, like most base models; leave --chat out to use a "
                "pattern, or choose a model that is tuned for chat"
            ) from error

    def frame(self, roles: Sequence[str]) -> Frame:
        """The text around the contents of messages with these roles, and after a user's message to prompt the assistant.

        Raises:
            InputError: the template rejects such messages, or changes contents in other ways than stripping white space.
        """
        texts, trimmed = _frame(self.tokenizer, self.text, tuple(roles))
        return Frame(tuple(map(self.mark, texts)), trimmed)

    def takes(self, roles: Sequence[str]) -> bool:
        """Whether it accepts messages with these roles."""
        return _takes(self.tokenizer, self.text, tuple(roles))

    @property
    def default_system(self) -> str | None:
        """The content of the system message that it writes if none is given; None if it writes none."""
        if not self.takes(("system", "user")):
            return None
        (before, after, _), _ = self.frame(("system", "user"))
        text = self.frame(("user",)).texts[0]
        if len(text) < len(before) + len(after) or not (text.startswith(before) and text.endswith(after)):
            return None
        return text[len(before) : len(text) - len(after)]


def fit(parts: Sequence[str], trimmed: tuple[bool, bool]) -> list[str]:
    """The parts of a content, with white space stripped on the left and right as given."""
    left, right = trimmed
    parts = [parts[0].lstrip() if left else parts[0], *parts[1:]]
    return [*parts[:-1], parts[-1].rstrip() if right else parts[-1]]


def common_end(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> str:
    """The common end of several texts of a template, cut at the start of one of them or at a control token; "" if none."""
    parted = [units(tokenizer, text) for text in texts]
    alike = len([*takewhile(lambda same: len({*same}) == 1, zip(*map(reversed, parted), strict=False))])
    ends = next(n for n in range(alike, -1, -1) if any(_is_border(one, len(one) - n) for one in parted))
    return "".join(parted[0][len(parted[0]) - ends :])


def _is_border(parted: Sequence[str], place: int) -> bool:
    """Whether a text may be cut before this unit: control tokens are longer than a letter."""
    return place in (0, len(parted)) or any(len(unit) > 1 for unit in parted[place - 1 : place + 1])


def units(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The control tokens in a text of a template, and the letters between."""
    names = look_for(tuple(control_tokens(tokenizer)))
    return re.findall(f"{names.pattern}|.", text, re.DOTALL)


@lru_cache(maxsize=256)
def _takes(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...]) -> bool:
    """Caches rejections too, which `_frame` does not."""
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
    kept = [len(long) - len(short) for long, short in zip(padded, texts, strict=True)]  # 5: both sides
    trimmed = tuple((kept[i] not in (3, 5), kept[i + 1] not in (2, 5)) for i in range(len(roles)))
    contents = [f"{SAMPLE[:5]}{i}{SAMPLE[5:]}" for i in range(len(roles))]
    ours = "".join(text + "".join(fit([content], trim)) for text, content, trim in zip(texts, contents, trimmed, strict=False))
    theirs = _render(tokenizer, template, roles, contents)
    if ours + texts[-1] != theirs:
        raise _changes(tokenizer, f"{quote(SAMPLE)} is written differently")
    return Frame(tuple(texts), trimmed)


def _parted(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...], contents: list[str]) -> list[str]:
    """The text around contents that contain placeholders."""
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
    except Exception as error:  # a template is code that comes with a model, and can fail in any way
        remedy, first = "leave --chat out and write the turns with --pattern", ("system", "user")
        if "system" in roles and (roles == first or not ChatTemplate(tokenizer, template).takes(first)):
            remedy = "use --context_role user, and leave --system_prompt out"
        elif len(roles) > 1:
            remedy = f"use fewer turns or demonstrations, or {remedy}"
        raise InputError(
            f"--chat: the chat template of {tokenizer.name_or_path} fails on messages of {', '.join(_short(roles))}: "
            f"{one_line(error)}; {remedy}"
        ) from error


def _short(roles: Sequence[str]) -> list[str]:
    return [*roles] if len(roles) < 6 else [*roles[:3], "...", roles[-1]]


def _today() -> str:
    """Jinja code before a template that fixes the date: transformers passes only plain values to templates, no functions."""
    steps = "".join(f" | replace('%{letter}', '{DAY.strftime(f'%{letter}')}')" for letter in DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{steps} }}}}{{%- endmacro +%}}"
