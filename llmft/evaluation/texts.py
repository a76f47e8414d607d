"""Text answers: what a model writes after a query, and how probable it finds the right answer there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llmft.errors import InputError, quote
from llmft.evaluation.answer_part import AnswerPart, find_part, match_of
from llmft.evaluation.answers import ASKED, Answers, Asking, Question, Reference
from llmft.evaluation.metrics import load_metric, more_metrics, row_scores
from llmft.evaluation.running import run_scores
from llmft.evaluation.scores import Headline, Scores, mean_of_known, of_objects
from llmft.prompts.render import decode_escapes
from llmft.runs.notes import say_note
from llmft.tasks.texts import CATEGORY, CONVERSATION, THOUGHT, THOUGHT_IDS, TURN, WRONG_ANSWER, conversation_text

if TYPE_CHECKING:
    import torch

    from llmft.arguments.config import Config
    from llmft.models.reading.continuations import Continued
    from llmft.models.reading.generation import Generation
    from llmft.prompts.prompter import Prompter
    from llmft.prompts.tokens import TokenizedPrompts
    from llmft.tasks.schema import Row, Task

TEXT_METRICS = ("exact_match", "f1", "contains", "rougeL", "edit_similarity")
"""Metrics of every row, each from 0 to 1 (`llmft.evaluation.metrics`), in addition to the headline if that is another."""


@dataclass(frozen=True)
class AnswerTokens(Question):
    """The question for the log-probability of each token of given answers.

    Attributes:
        tokens: (P,) the tokens of all answers, one answer after another.
    """

    tokens: np.ndarray

    @property
    def key(self) -> dict[str, Any]:
        """What the prompts' key lacks: each answer's last token."""
        return {"support": "answer", "answers": hashlib.sha256(self.tokens.astype("<i8")).hexdigest()}

    def keep(self, logits: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """`token_logprobs` (p,), in float32 or better."""
        import torch

        from llmft.models.wrapping import precise

        tokens = torch.from_numpy(self.tokens).to(logits.device)[positions]
        return {"token_logprobs": precise(logits).log_softmax(-1).gather(1, tokens[:, None])[:, 0]}


@dataclass(frozen=True)
class Texts(Answers):
    """Words that a model writes until it ends its answer.

    Columns in addition to those of all `Scores`: `query`, `document` (its name), `category`; for conversations `conversation`
    and `turn`, the number of the answer in it (the query then includes all turns before it); `accepted`, all accepted answers
    (`target` is the first); the row's `TEXT_METRICS` and headline; `runs`, if completed programs are run; `wrong_answer`, 1 if
    the answer contains a known wrong answer of the row, else 0, None if none is known; `nll`, the mean negative log-probability
    (nats) per token of the first accepted answer, end token included, and `target_tokens`, its length; `answer_ids` and
    `tokens`, what was written and its length; and with a reference `kl`, the mean divergence per token from the teacher along its
    answer, `teacher_tokens`, the length of that, and `same_answer`.

    Attributes:
        prompter: tokenizes answers.
        generation: how answers are generated.
        headline: a metric that is shipped for texts.
        pattern: its first group matches the part of the output that counts as the answer; None for all of it.
        library: the folder that completed programs are run with; None if nothing is run.
    """

    in_words: ClassVar[bool] = True
    supports: ClassVar[tuple[str, ...]] = ("topk", "vocab", "sampled")
    defaults: ClassVar[dict[str, Any]] = {"support": "topk"}

    prompter: Prompter
    generation: Generation
    headline: Headline
    pattern: re.Pattern[str] | None = None
    library: str | None = None

    @classmethod
    def create(
        cls,
        model: torch.nn.Module,
        prompter: Prompter,
        sample: Row,
        *,
        task: Task | None = None,
        config: Config | None = None,
        calibrate: bool = False,
    ) -> Texts:
        """Answers generated according to the flags: greedily by default.

        Raises:
            InputError: only label words can be calibrated, not texts.
        """
        from llmft.arguments.context import WritingArguments
        from llmft.models.reading.generation import Generation
        from llmft.models.wrapping import bare_model

        if calibrate:
            raise InputError("--calibrate: is defined for labels, but these answers are text; drop this flag")
        flags = WritingArguments() if config is None else config.writing
        stops = (task.stops if task else ()) or prompter.stops
        stops = tuple(dict.fromkeys((*stops, *getattr(bare_model(model), "learnt_stops", ()))))
        stops = stops if flags.stops is None else tuple(map(decode_escapes, flags.stops))
        seed = 0 if config is None or config.run is None else config.run.data_seed
        generation = Generation(flags.max_new_tokens, flags.generation_temperature, stops, prompter.end_ids, seed)
        library = config.data.run_code if config is not None else None
        for name in TEXT_METRICS:  # now: this takes over a second, which would else be part of what the first queries cost
            load_metric(name, "text")
        return cls(prompter, generation, cls.headline_of(task), library=library)

    @staticmethod
    def headline_of(task: Task | None) -> Headline:
        """The task's own, or else exact match with an accepted answer."""
        return Headline(task.headline if task is not None and task.headline else "exact_match", higher_is_better=True)

    @property
    def behind(self) -> int:
        """The maximum number of an answer's tokens that the model reads after the query."""
        return self.generation.max_new_tokens

    def check(self, prompter: Prompter, rows: Sequence[Row]) -> None:
        """Check that the rows' answers are not too long, with the thoughts before them, and that given tokens are those of the
        answer, or of the thought.

        Raises:
            InputError: one is too long, has no tokens, or merges with the end of its query; or its tokens are another text.
        """
        answered = [row for row in rows if row["answer"] or row.get("answer_ids")]
        for row in answered:
            self._check_tokens(row, "answer", row["answer"])
            self._check_tokens(row, THOUGHT, [row[THOUGHT]] if isinstance(row.get(THOUGHT), str) else [])
        thoughts = [len(row.get(THOUGHT_IDS, ())) for row in answered]
        sizes = self.sizes(answered) + np.array(thoughts, int)
        if len(sizes) and sizes.max() > self.generation.max_new_tokens:
            row = answered[int(sizes.argmax())]
            what = f"the answer of row {row['idx']}" + (" with its thought" if row.get(THOUGHT_IDS) else "")
            raise InputError(
                f"--max_new_tokens {self.generation.max_new_tokens}: {what} has {sizes.max()} tokens; use at least that many, or "
                "leave out long answers"
            )

    def check_stops(self, rows: Sequence[Row]) -> None:
        """Check that right answers can be given before a stop text ends them; a note counts those that cannot.

        Raises:
            InputError: none can.
        """
        answered = [row for row in rows if row["answer"]]
        ended = [(row, stop) for row in answered if (stop := self._ended_by(row)) is not None]
        if not ended:
            return
        row, stop = ended[0]
        line = (
            f"--stop {quote(stop)}: ends the answers of {len(ended)} of {len(answered)} rows within them, the first being row "
            f"{row['idx']}, so they cannot be scored right; give another --stop ('' for none)"
        )
        if len(ended) == len(answered):
            raise InputError(line)
        say_note(line)

    def _ended_by(self, row: Row) -> str | None:
        """The stop text that ends a row's first accepted answer so early that it is wrong; None if one of the accepted answers
        is right where it ends."""
        texts = [self.prompter.prompt_format.space + answer.rstrip() for answer in row["answer"]]
        cut = [self._before_stop(text) for text in texts]
        if any(before == text for before, text in zip(cut, texts, strict=True)):
            return None
        scores = row_scores([self.headline.name], [before.strip() for before in cut], [row["answer"]] * len(cut))
        if max(scores[self.headline.name]) == 1:  # as of "No." that a full stop ends
            return None
        return min((stop for stop in self.generation.stop if stop in texts[0]), key=texts[0].find)

    def _check_tokens(self, row: Row, what: str, texts: Sequence[str]) -> None:
        """Check that a row's tokens of an answer, or of a thought, are those of one of these texts, if there are any."""
        ids = row.get(f"{what}_ids")
        if ids is None:
            return
        known = max(ids, default=0) < len(self.prompter.tokenizer)
        whole = self._decoded(ids).strip() if known else ""
        if not known or (texts and not {whole, self.written(ids)} & {text.strip() for text in texts}):
            said = quote(whole) if known else "nothing"
            raise InputError(
                f"{what}_ids of row {row['idx']}: mean {said} to the tokenizer of {self.prompter.tokenizer.name_or_path}, which "
                f"is not its {what}; drop that column of the file"
            )

    def tokens(self, rows: Sequence[Row]) -> list[list[int]]:
        """Each row's answer as it follows its query, end token included: the generated tokens if there are any, else the first
        accepted one."""
        return self.prompter.answer_tokens(rows)

    def sizes(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) number of tokens of each row's answer."""
        return np.array([*map(len, self.tokens(rows))], int)

    def continued(self, prompts: TokenizedPrompts, rows: Sequence[Row]) -> Continued:
        """The rows' prompts, each followed by the model's thoughts, `thought_ids`, if there are any, and by its answer."""
        from llmft.models.reading.continuations import Continued

        return Continued.by_answers(prompts, self.tokens(rows), [row.get(THOUGHT_IDS, []) for row in rows])

    def ask(
        self, asking: Asking, prompts: TokenizedPrompts, rows: Sequence[Row], reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """What the model writes; log-probabilities of the tokens of right answers; divergences along those of a reference."""
        from llmft.models.reading.continuations import Continued

        arrays = {"answer_ids": of_objects(asking.write(prompts, rows=len(rows)))}
        with asking.aside() as judging:
            arrays |= self._read_answers(judging, prompts, rows)
            if reference is not None:
                taught = self.tokens(reference.rows)
                arrays |= judging.read(Continued.by_answers(prompts, taught), reference.question, rows=0)
                arrays["teacher_ids"] = of_objects(taught)
        return arrays

    def _read_answers(self, asking: Asking, prompts: TokenizedPrompts, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Log-probabilities of the tokens of right answers."""
        from llmft.models.reading.continuations import Continued

        tokens = self.tokens(rows)
        question = AnswerTokens(np.array([token for answer in tokens for token in answer], int))
        arrays = asking.read(Continued.by_answers(prompts, tokens), question, rows=0)
        return {**arrays, "target_tokens": np.array([*map(len, tokens)], int)}

    def columns(self, rows: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of `Scores` from the result of `ask`."""
        predictions = [*map(self.written, arrays["answer_ids"])]
        columns = {
            "idx": np.array([row["idx"] for row in rows]),
            "prediction": of_objects(predictions),
            "query": of_objects([*map(conversation_text, rows)]),
            "document": of_objects([row["document"] for row in rows]),
            **{name: of_objects([row.get(name) for row in rows]) for name in (CATEGORY, CONVERSATION, TURN)},
            **self._judged(rows, predictions, arrays),
            "tokens": np.array([*map(len, arrays["answer_ids"])], int),
            "answer_ids": arrays["answer_ids"],
        }
        if "kl" in arrays:
            columns["teacher_tokens"] = np.array([*map(len, arrays["teacher_ids"])], int)
            columns["kl"] = means(arrays["kl"], columns["teacher_tokens"])
            pairs = zip(arrays["answer_ids"], arrays["teacher_ids"], strict=True)
            columns["same_answer"] = np.array([one == other for one, other in pairs], float)
        return columns

    def _judged(self, rows: Sequence[Row], predictions: Sequence[str], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns that judge the answers."""
        accepted, wrong = ([row.get(column) or () for row in rows] for column in ("answer", WRONG_ANSWER))
        scores = row_scores(dict.fromkeys((*TEXT_METRICS, self.headline.name)), predictions, accepted)
        metrics = {name: np.array(values, float) for name, values in scores.items()}
        contains, pairs = load_metric("contains", "text").row_score, zip(predictions, wrong, strict=True)
        return {
            "target": of_objects([answers[0] for answers in accepted]),
            "score": metrics[self.headline.name],
            "accepted": of_objects([[*answers] for answers in accepted]),
            **metrics,
            **({"runs": np.array(run_scores(self.library, rows, predictions))} if self.library is not None else {}),
            WRONG_ANSWER: of_objects([contains(text, answers) if answers else None for text, answers in pairs]),
            "nll": -means(arrays["token_logprobs"], arrays["target_tokens"]),
            "target_tokens": arrays["target_tokens"],
        }

    def written(self, ids: Sequence[int]) -> str:
        """The text of an answer, or the part that `pattern` matches, if it does; without the end token or stop string, and
        stripped."""
        text = self.text(ids)
        match = None if self.pattern is None else match_of(self.pattern, text)
        return (text if match is None else match[1]).strip()

    def part(self, ids: Sequence[int]) -> AnswerPart | None:
        """The part of an answer that `pattern` matches; None if it does not, or there is no pattern."""
        return None if self.pattern is None else find_part(self.pattern, ids, self.text)

    def text(self, ids: Sequence[int]) -> str:
        """The whole text, without the end token or stop string."""
        return self._before_stop(self._decoded(ids))

    def _decoded(self, ids: Sequence[int]) -> str:
        """The text without the end token."""
        end = -1 if ids and ids[-1] in self.generation.end_ids else len(ids)
        return self.prompter.tokenizer.decode(list(ids[:end]), skip_special_tokens=True)

    def _before_stop(self, text: str) -> str:
        ends = [place for stop in self.generation.stop if (place := text.find(stop)) >= 0]
        return text[: min(ends, default=len(text))]

    def examples(self, prompts: TokenizedPrompts, rows: Sequence[Row], *, gold: bool) -> list[dict[str, Any]]:
        """The rows as training examples: `input_ids`, a prompt and its answer without the last token; `asked`, the length of
        the answer; and if `gold`, its tokens as `answer`."""
        examples = []
        for i, tokens in enumerate(self.tokens(rows)):
            example: dict[str, Any] = {"input_ids": [*prompts.whole(i), *tokens[:-1]], ASKED: len(tokens)}
            examples.append(example | ({"answer": tokens} if gold else {}))
        return examples

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer, besides end tokens."""
        return self.generation.stop

    def ending_as(self, other: Texts) -> Texts:
        """The same, but answers end with the texts that end those of `other`, and with its end tokens as well as their own."""
        ends = tuple(dict.fromkeys((*self.generation.end_ids, *other.generation.end_ids)))
        return replace(self, generation=replace(self.generation, stop=other.stops, end_ids=ends))

    def metrics(self, scores: Scores, names: Sequence[str] = ()) -> dict[str, Any]:
        """`TEXT_METRICS`, the headline, `runs` if programs are run, `wrong_answer` (over the `n_wrong_answer` rows with a known
        wrong answer), `nll` (nats per token of the right answers), `tokens` (mean per answer), `n`, `n_asked`, `n_shortened`,
        and those of `names`.

        Raises:
            InputError: a metric fails.
        """
        n, sizes = len(scores), scores["target_tokens"]
        of_rows = [*dict.fromkeys((*TEXT_METRICS, self.headline.name)), *(["runs"] if "runs" in scores.columns else [])]
        metrics = {
            **{name: float(np.mean(scores[name])) for name in of_rows},
            **mean_of_known(WRONG_ANSWER, scores[WRONG_ANSWER]),
            "nll": float(scores["nll"] @ sizes / sizes.sum()),
            "tokens": float(np.mean(scores["tokens"])),
            "n": n,
            "n_asked": n,
            "n_shortened": scores.shortened,
        }
        others = [name for name in names if name not in of_rows]
        return more_metrics(others, "text", scores["prediction"].tolist(), scores["accepted"].tolist(), metrics)

    def divergence(self, teacher: Scores, student: Scores) -> dict[str, float]:
        """`kl`, mean divergence per token along the teacher's answers, in nats; `agreement`, the share of answers that are the
        same, token by token."""
        sizes = student["teacher_tokens"]
        return {"kl": float(student["kl"] @ sizes / sizes.sum()), "agreement": float(np.mean(student["same_answer"]))}


def means(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) the mean of each row's segment of the values (P,); no segment is empty."""
    return np.add.reduceat(values.astype(float), np.concatenate([[0], sizes.cumsum()[:-1]])) / sizes
