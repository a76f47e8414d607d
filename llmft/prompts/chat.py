"""Prompts in a tokenizer's chat template: a query is a user's turn, and the assistant's next turn is its answer.

    context = [system message: system prompt, instruction, document, description] + turns of a dialogue + demonstrations as turns
    query   = [turns before it] + user's turn + what the template writes until the assistant speaks

A template may write its own system prompt if none is given. A context's system message then begins with that, so that a prompt
with a context and one without differ only by the context; `alignment` checks this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from llmft.errors import InputError, quote
from llmft.prompts.chat_template import ChatTemplate, Frame, common_end, fit
from llmft.prompts.control import control_tokens, look_for
from llmft.prompts.render import Piece, PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>\s*$")
"""Text before an answer that opens a block of thoughts and leaves its end to the model (DeepSeek-R1-Distill, QwQ)."""


class Around(NamedTuple):
    """The text of a template around a query and its answer, and whether it strips white space off their ends, left and right."""

    header: str
    """Before the query, without the end of a context."""
    tail: str
    """After the query, when the assistant is to speak next."""
    behind: str
    """Between the query and an answer: the tail, and the text before an existing assistant turn."""
    end: str
    """After an answer."""
    query_trimmed: tuple[bool, bool]
    answer_trimmed: tuple[bool, bool]


@dataclass(frozen=True)
class ChatFormat(PromptFormat):
    """How a row becomes a user's turn. `read_by` must set the tokenizer before it can be rendered."""

    system_prompt: str | None = None
    """Start of the system message, with or without a context, taken literally; None for the template's own."""
    context_role: str = "system"
    """Where the context goes: into the `system` message, or before the first `user` turn."""
    template: ChatTemplate | None = field(default=None, compare=False, repr=False)

    def settled(self, control_tokens: Iterable[str] = ()) -> ChatFormat:
        """This format with an empty delimiter: the template determines the text between query and answer."""
        return self if self.delimiter is not None else replace(self, delimiter="", default_delimiter=True)

    def read_by(self, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
        """This format with the template of this tokenizer.

        Raises:
            InputError: the tokenizer has none, it rejects a user's turn, or labels would be read within the model's thoughts.
        """
        made = replace(self, template=ChatTemplate.of(tokenizer))
        behind = made.around.behind
        if self.words and (opened := THOUGHTS.search(behind)):
            raise InputError(
                f"--chat: the chat template of {tokenizer.name_or_path} makes the model think before it answers: a label would "
                f"stand behind {quote(opened.group())}; leave --chat out, or use a model that answers at once"
            )
        return replace(made, delimiter=behind[len(behind.rstrip(" ")) :], default_delimiter=True)

    def written_as(self, mark: Callable[[str], str]) -> ChatFormat:
        """As for a pattern; `mark` is also applied to the template's text."""
        return replace(super().written_as(mark), template=replace(self.template, mark=mark))

    @property
    def taken_texts(self) -> list[str]:
        """The texts other than those of rows that are taken literally."""
        return [*super().taken_texts, self.system_prompt or ""]

    @cached_property
    def around(self) -> Around:
        """The text of the template around a query and its answer."""
        template, first = self.template, self._first
        frame, answered = template.frame((*first, "user")), template.frame((*first, "user", "assistant"))
        tail, between = frame.texts[-1], answered.texts[-2]
        return Around(
            template.mark(self._header(first)),
            tail,
            between if between.startswith(tail) else tail,
            answered.texts[-1],
            frame.trimmed[-1],
            answered.trimmed[-1],
        )

    @property
    def _first(self) -> tuple[str, ...]:
        """The roles of the messages before a conversation without a context."""
        return ("system",) if self.system_prompt is not None else ()

    def _header(self, first: tuple[str, ...]) -> str:
        """The text before a query that is the same after a system message, after a turn, and after neither."""
        if self.context_role == "user":  # the context comes right before the query
            return ""
        template = replace(self.template, mark=str)
        others = [roles for roles in (("system", "user"), (*first, "user", "assistant", "user")) if template.takes(roles)]
        return common_end(template.tokenizer, [template.frame(roles).texts[-2] for roles in ((*first, "user"), *others)])

    @property
    def end_flag(self) -> str:
        """The flag that determines the end of a query, for messages."""
        return "--chat"

    @property
    def opens_itself(self) -> bool:
        """True: a template writes a beginning-of-text token itself if it uses one."""
        return True

    @property
    def opening(self) -> str:
        """The text of the template before a query without a context."""
        return replace(self, instruction="", document="", description="", turns=()).context(())

    @property
    def stops(self) -> tuple[str, ...]:
        """Empty: a template ends answers with a token."""
        return ()

    def end_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """The token that the template writes after an answer (the first control token there, else the first token), and the
        tokenizer's own."""
        names = look_for(tuple(control_tokens(tokenizer))).findall(self.around.end)
        ids = tokenizer(names[0] if names else self.around.end, add_special_tokens=False).input_ids
        return tuple(dict.fromkeys([*ids[:1], *super().end_ids(tokenizer)]))

    def query(self, row: Mapping[str, Any]) -> str:
        """The user's turn, and the template's text up to the assistant's."""
        return self.around.header + self.history(row) + self._asked(row) + self.around.behind.rstrip(" ")

    def history(self, row: Mapping[str, Any]) -> str:
        """The turns before a row's query, and the template's text after each."""
        turns = row.get("history", ())
        texts, trimmed = self._behind_turns(self._first, row) if turns else ((), ())
        pairs = zip(turns, texts, trimmed, strict=False)
        return "".join("".join(fit([turn.content], trim)) + text for turn, text, trim in pairs)

    def check_histories(self, demonstrations: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
        """Check that the template renders the rows' histories, and the queries after them, the same with and without the context.

        Raises:
            InputError: it does not, or rejects such turns.
        """
        by_roles = {tuple(turn.role for turn in row["history"]): row for row in rows if row.get("history")}
        front = tuple(role for role, _ in self._messages(demonstrations)) if by_roles else ()
        for row in by_roles.values():
            alone, behind = self._behind_turns(self._first, row), self._behind_turns(front, row)
            if alone != behind or alone.texts[-1] != self.around.tail:
                raise InputError(
                    f"--chat: the chat template of {self.template.tokenizer.name_or_path} writes the turns of row {row['idx']} "
                    "or its query differently after a context; leave --chat out"
                )

    def _behind_turns(self, front: tuple[str, ...], row: Mapping[str, Any]) -> Frame:
        """The template's text after each turn of a row's history and after its query, and how it trims these, if messages with
        the roles `front` come before them."""
        roles = [*(turn.role for turn in row["history"]), "user"]
        try:
            frame = self.template.frame((*front, *roles))
        except InputError as error:
            raise InputError(f"{error} (row {row['idx']})") from error
        return Frame(frame.texts[-len(roles) :], frame.trimmed[-len(roles) :])

    def _asked(self, row: Mapping[str, Any]) -> str:
        return "".join(fit([(self.body(row) + self.prefix).rstrip(" ")], self.around.query_trimmed))

    def answer(self, row: Mapping[str, Any]) -> str:
        """The text of the correct answer."""
        return "".join(fit([super().answer(row)], self.around.answer_trimmed))

    def front(self, demonstrations: Sequence[Mapping[str, Any]]) -> list[Piece]:
        """Everything before a query, in parts.

        Raises:
            InputError: the template rejects these turns, or renders a query differently after them.
        """
        messages = self._messages(demonstrations)
        frame = self.template.frame([*(role for role, _ in messages), "user"])
        parts: list[Piece] = []
        for i, (_, content) in enumerate(messages):
            fitted = fit([part.text for part in content], frame.trimmed[i])
            parts += [Piece(frame.texts[i]), *(part._replace(text=text) for part, text in zip(content, fitted, strict=True))]
        before, behind = frame.texts[-2:]
        if not before.endswith(self.around.header) or behind != self.around.tail:
            raise InputError(
                f"--chat: the chat template of {self.template.tokenizer.name_or_path} writes a query differently after a "
                f"context, with {quote(before)} before and {quote(behind)} after it; leave --chat out and write the "
                "turns with --pattern"
            )
        parts.append(Piece(before.removesuffix(self.around.header)))
        if not any(role == "user" for role, _ in messages):
            parts += self._in_front_of_user()
        return parts

    def alike_turns(self, demonstrations: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the template renders a turn the same at any position, if there are turns before a query."""
        if not self.turns and not demonstrations:
            return True
        turns = self.template.frame(("user", "assistant") * 2 + ("user",)).texts
        return turns[1] == turns[3] and turns[2] == turns[4]

    def _messages(self, demonstrations: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Piece]]]:
        """Role and content of the messages before the query."""
        turns = [(turn.role, turn.content) for turn in self.turns if turn.role != "system"]
        for row in demonstrations:
            turns += row.get("history", ())
            turns += [("user", self._asked(row)), ("assistant", self.answer(row))]
        messages = [(role, [Piece(text, context=True)]) for role, text in turns]
        first = next((content for role, content in messages if role == "user"), [])
        first[:0] = self._in_front_of_user()
        system = self._system()
        return messages if system is None else [("system", system), *messages]

    def _system(self) -> list[Piece] | None:
        """The content of the system message; None to leave it to the template."""
        shown = self._texts if self.context_role == "system" else []
        start = self.system_prompt
        if start is None and shown:
            start = self.template.default_system or ""
        if start is None:
            return None
        context = self.separator.join([*([""] if start else []), *shown])  # with the separator after the text that both read
        return [Piece(text, context=i == 1) for i, text in enumerate((start, context)) if text] or [Piece("")]

    def _in_front_of_user(self) -> list[Piece]:
        """The texts before the first turn of the user."""
        if self.context_role == "system" or not self._texts:
            return []
        text = "".join(text + self.separator for text in self._texts)
        return [Piece(text.lstrip() if self.around.query_trimmed[0] else text, context=True)]

    @property
    def _texts(self) -> list[str]:
        system = [turn.content for turn in self.turns if turn.role == "system"]
        return [text for text in (self.instruction, self.document, self.description, *system) if text]
