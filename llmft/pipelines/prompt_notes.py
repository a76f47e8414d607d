"""Notes about a run's prompts on stderr: the label tokens, words of labels in another order, second texts that are left out, text
that looks like control tokens, repeated rows, cut prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from llmft.errors import quote
from llmft.pipelines.job import Job
from llmft.prompts.control import control_tokens, look_for
from llmft.prompts.render import row_texts
from llmft.runs.notes import say_note
from llmft.tasks.table import Row
from llmft.tasks.texts import asks

if TYPE_CHECKING:
    from llmft.evaluation.scorer import Scorer
    from llmft.evaluation.scores import Scores


def say_prompts(
    job: Job, scorers: Mapping[str, Scorer], train_rows: Sequence[Row] = (), *, trained_as: str = "trained on"
) -> None:
    """Print notes on label tokens and their order, on texts that are left out, on text that looks like control tokens, and on
    evaluation rows that the model has been shown.

    Args:
        scorers: role (`teacher`, `student`, or "") -> its scorer.
        train_rows: the rows or queries used for training.
        trained_as: how the message refers to them.
    """
    if not job.record.writes:
        return
    about_words = (*label_lines(scorers), *order_lines(job, scorers))
    for line in (*about_words, *text_lines(job, scorers), *control_lines(job, scorers, train_rows)):
        say_note(line)
    for line in repetition_lines(job, train_rows, trained_as):
        say_note(line, "warning")


def say_cut(job: Job, scores: Mapping[str, Scores], train: tuple[int, int] = (0, 0)) -> None:
    """Print a note that counts the prompts that were cut, if there are any.

    Args:
        scores: set -> its scores.
        train: how many prompts of training rows were cut, and how many there are.
    """
    counts = {"training rows": train, **{name: (one.shortened, len(one)) for name, one in scores.items()}}
    parts = [f"{cut} of {total} ({name})" for name, (cut, total) in counts.items() if cut]
    if parts:
        say_note(f"--max_seq_length {job.config.data.max_seq_length}: the texts of prompts were cut, {', '.join(parts)}")


def label_lines(scorers: Mapping[str, Scorer]) -> Iterator[str]:
    """The last tokens of one query, then those of each label; one line if all roles agree, none for a classifier."""
    borders = {who: scorer.answers.border for who, scorer in scorers.items() if scorer.answers.border}
    if len(set(borders.values())) == 1:
        borders = {"": next(iter(borders.values()))}
    for who, border in borders.items():
        yield f"label tokens{f' of the {who}' if who else ''}: {border}"


def order_lines(job: Job, scorers: Mapping[str, Scorer]) -> Iterator[str]:
    """Which word each label has, where the words are the names of the labels in another order."""
    names, asked = job.task.label_names, [scorer for scorer in scorers.values() if scorer.answers.border]  # no classifiers
    for words, flag in dict.fromkeys((one.prompter.prompt_format.words, one.prompter.prompt_format.words_flag) for one in asked):
        folded = [[text.strip().casefold() for text in texts] for texts in (words, names)]
        if folded[0] != folded[1] and sorted(folded[0]) == sorted(folded[1]):
            pairs = ", ".join(f"{quote(name)} is {quote(word)}" for name, word in zip(names, words, strict=True))
            yield f"{flag} {','.join(words)}: these are the names of the labels in another order, so {pairs} in prompts"


def text_lines(job: Job, scorers: Mapping[str, Scorer]) -> Iterator[str]:
    """Patterns that leave out the second text of rows."""
    if any(row["text2"] is not None for rows in job.eval_sets.values() for row in rows):
        formats = [scorer.prompter.prompt_format for scorer in scorers.values()]
        for pattern, flag in dict.fromkeys((one.pattern, one.pattern_flag) for one in formats):
            if "{text2}" not in pattern:
                yield f"{flag} {quote(pattern)}: leaves out the rows' second text; {{text2}} stands for it"


def control_lines(job: Job, scorers: Mapping[str, Scorer], train_rows: Sequence[Row]) -> Iterator[str]:
    """The number of rows whose text contains what would be a control token in a pattern."""
    prompters = [scorer.prompter for scorer in scorers.values()]
    prompter = prompters[0]
    control = look_for(tuple(control_tokens(prompter.tokenizer)))
    sets = [
        *job.contexts,
        train_rows,
        *job.eval_sets.values(),
        *(rows for group in job.other_sets.values() for rows in group.values()),
    ]
    matches = [control.findall("\n".join(row_texts(row))) for rows in sets for row in rows]
    names = dict.fromkeys(name for names in matches for name in names)
    read_as = "text" if prompter.prompt_format.control(prompter.tokenizer, ()).ids else "control tokens, as upstream does"
    if names:
        examples = ", ".join(map(repr, [*names][:3]))
        count = f"{sum(map(bool, matches))} of {len(matches)} rows"
        yield f"text in {count} looks like control tokens ({examples}); it is read as {read_as}"
    if any(control.search(text) for one in prompters for text in one.prompt_format.taken_texts):
        yield "text of a file in the context looks like control tokens; it is read as text"


def repetition_lines(job: Job, train_rows: Sequence[Row], trained_as: str) -> Iterator[str]:
    """How many evaluation rows have the texts of a demonstration or a training row; compared by text, since idx differ between
    files."""
    seen = {
        "are answered in the context": [row for context in job.contexts for row in context],
        f"are {trained_as}": train_rows,
    }
    parts = []
    for how, rows in seen.items():
        texts = set(map(asks, rows))
        for name, evaluated in job.eval_sets.items():
            count = sum(asks(row) in texts for row in evaluated)
            if count:
                parts.append(f"{count} of {len(evaluated)} of {name} {how}")
    if parts:
        yield f"evaluation rows whose texts the model has been shown: {', '.join(parts)}"
