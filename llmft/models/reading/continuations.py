"""How prompts are continued, and where logits are read: labels of any number of tokens, and texts.

Logits are read at every position that predicts a token of an answer: a prompt's last token, and each token of the answer except
the last. An answer that belongs to one prompt follows it directly; labels, which all prompts share, branch off after each prompt.
The positions of all prompts, concatenated, are the rows of the flat logits (P, V).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch

from llmft.models.reading.batches import left_pad
from llmft.models.reading.packing import last_places
from llmft.models.wrapping import index_on, on_device, precise
from llmft.prompts.tokens import TokenizedPrompts


@dataclass(frozen=True)
class Continued:
    """N prompts and their continuations.

    Attributes:
        prefix: tokens that all begin with.
        texts: (N) how each continues: its query, and all but the last token of an answer that follows it.
        counts: (N) the number of last tokens of a text at which logits are read.
        branches: (N) token sequences, none empty, that branch off after each text; logits are read at all their tokens.
    """

    prefix: list[int]
    texts: Sequence[Sequence[int]]
    counts: Sequence[int]
    branches: Sequence[Sequence[Sequence[int]]]

    @classmethod
    def by_labels(cls, prompts: TokenizedPrompts, labels: LabelSequences) -> Continued:
        """Each prompt continued by all labels: its positions are the `labels.rows`."""
        count = len(prompts.suffixes)
        return cls(prompts.prefix, prompts.suffixes, [1] * count, [labels.continuations] * count)

    @classmethod
    def by_answers(
        cls, prompts: TokenizedPrompts, answers: Sequence[Sequence[int]], thoughts: Sequence[Sequence[int]] | None = None
    ) -> Continued:
        """Each prompt continued by its answer: one position predicts each token.

        Args:
            thoughts: (N) tokens between a prompt and its answer, at which no logits are read; None for none.
        """
        if not all(map(len, answers)):
            raise ValueError(f"answer {[*map(len, answers)].index(0)} has no tokens")
        parts = zip(prompts.suffixes, thoughts or [()] * len(answers), answers, strict=True)
        texts = [[*suffix, *thought, *answer[:-1]] for suffix, thought, answer in parts]
        return cls(prompts.prefix, texts, [*map(len, answers)], [()] * len(texts))

    def of(self, rows: Sequence[int]) -> Continued:
        """Only these rows, in this order."""
        return Continued(self.prefix, *([part[i] for i in rows] for part in (self.texts, self.counts, self.branches)))

    def skipping(self, first: int) -> Continued:
        """The same, but logits that predict the `first` tokens of an answer are not read; those that predict the last always
        are."""
        return replace(self, counts=[max(count - first, 1) for count in self.counts]) if first else self

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N + 1,) row i's positions are those from offset i to offset i + 1."""
        counts = [count + sum(map(len, branches)) for count, branches in zip(self.counts, self.branches, strict=True)]
        return np.cumsum([0, *counts])

    def positions(self, rows: Sequence[int]) -> np.ndarray:
        """(P,) the positions of these rows, concatenated."""
        starts, counts = self.offsets[rows], np.diff(self.offsets)[rows]
        return np.arange(counts.sum()) + np.repeat(starts - counts.cumsum() + counts, counts)

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the texts, JSON-able; lengths are hashed with them, so that tokens cannot move from one text to
        another."""
        digest = hashlib.sha256()
        for tokens in (self.prefix, *self.texts):
            digest.update(np.array([len(tokens), *tokens], dtype="<i8"))
        counts = {"asked": list(map(int, self.counts))} if any(count != 1 for count in self.counts) else {}
        return {"prompts": [digest.hexdigest()], **counts}


@dataclass(frozen=True)
class LabelSequences:
    """The token sequences of L labels; each has at least one token.

    A label's score is the log-probability of its whole sequence after the prompt. A label that is a prefix of another is read
    from the longer one.
    """

    sequences: tuple[tuple[int, ...], ...]

    @classmethod
    def create(cls, sequences: Sequence[Sequence[int]]) -> LabelSequences:
        """From L lists of token ids, in label order."""
        return cls(tuple(map(tuple, sequences)))

    def __post_init__(self) -> None:
        if not all(self.sequences):
            raise ValueError(f"a label has no tokens: {self.sequences}")

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the question for the labels' scores, JSON-able."""
        return {"label_ids": [list(map(int, ids)) for ids in self.sequences], "support": "scores", "topk": None}

    @cached_property
    def continuations(self) -> list[tuple[int, ...]]:
        """C token sequences that continue every prompt; none if all labels are single tokens."""
        beginnings = [start for start in dict.fromkeys(sequence[:-1] for sequence in self.sequences) if start]
        return [start for start in beginnings if not any(b != start and b[: len(start)] == start for b in beginnings)]

    @property
    def rows(self) -> int:
        """R, the number of positions of a prompt: its last token, and each token of the continuations."""
        return 1 + sum(map(len, self.continuations))

    @cached_property
    def _places(self) -> list[list[tuple[int, int]]]:
        """(L) for each label's tokens, the row from which it is read, and the token."""
        places = []
        for sequence in self.sequences:
            first = 1  # row of the first token of the continuation from which the label is read
            for continuation in self.continuations:
                if continuation[: len(sequence) - 1] == sequence[:-1]:
                    break
                first += len(continuation)
            places.append(list(zip([0, *range(first, first + len(sequence) - 1)], sequence, strict=True)))
        return places

    @cached_property
    def _tokens(self) -> list[tuple[int, ...]]:
        """(R) the tokens that are looked up in each row."""
        return [tuple(dict.fromkeys(t for r, t in chain(*self._places) if r == row)) for row in range(self.rows)]

    def keep(self, logits: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is kept of logits (p, V) at these positions (p,) among all: `token_logprobs` (p, m), in float32 or better, for
        the tokens that are looked up in a row, and `best_token` (p,), the argmax."""
        width = max(map(len, self._tokens))
        tokens = index_on(logits.device, tuple(t for row in self._tokens for t in (*row, *[0] * (width - len(row)))))
        looked_up = tokens.view(-1, width)[positions % self.rows]
        return {"token_logprobs": precise(logits).log_softmax(-1).gather(1, looked_up), "best_token": logits.argmax(-1)}

    def sums(self, token_logprobs: torch.Tensor) -> torch.Tensor:
        """Sequence log-probabilities (n, L) from what was kept at all positions of n prompts, (n * R, m)."""
        rows = [row for row, _ in chain(*self._places)]
        columns = [self._tokens[row].index(token) for row, token in chain(*self._places)]
        places = (index_on(token_logprobs.device, tuple(one)) for one in (rows, columns))
        logprobs = token_logprobs.unflatten(0, (-1, self.rows))[:, *places]  # (n, tokens of all labels)
        return torch.stack([part.sum(-1) for part in logprobs.split([*map(len, self.sequences)], dim=1)], dim=1)

    def logprobs(self, logits: torch.Tensor) -> torch.Tensor:
        """Sequence log-probabilities (n, L), in float32 or better, from the logits (n * R, V) of n prompts."""
        return self.sums(self.keep(logits, torch.arange(len(logits), device=logits.device))["token_logprobs"])

    def answers(self, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`label_logprobs` (N, L) float64 and `best_token` (N,), from what was kept at all positions of N prompts."""
        logprobs = self.sums(torch.from_numpy(kept["token_logprobs"])).double().numpy()
        return {"label_logprobs": logprobs, "best_token": kept["best_token"][:: self.rows]}


def masked_row(
    prompts: Continued, front: int, dtype: torch.dtype, device: torch.device, *, windowed: bool = False
) -> dict[str, torch.Tensor]:
    """Arguments of a model: the texts in one row of T tokens, each followed by its branches side by side, after `front` tokens
    that all share; each token has the same position as in a text by itself. The mask is created on the device.

    Args:
        windowed: whether what a token sees depends on the layer; attention is then `attention.packed_attention`.

    Returns:
        `input_ids` and `position_ids` (1, T) int64; `attention_mask` (1, 1, T, front + T) of `dtype`, 0 where a token may look:
        the front, its own text, its own branch; if `windowed`, int32: how far before the token each is in the token's own
        prompt, and -1 where it may not look; `logits_to_keep` (P,): the places whose logits are read.
    """
    rows = list(zip(prompts.texts, prompts.counts, prompts.branches, strict=True))
    pieces = [piece for text, _, branches in rows for piece in (text, *branches)]
    lengths = torch.tensor([len(piece) for piece in pieces])
    counts = torch.tensor([count for _, last, branches in rows for count in (last, *map(len, branches))])
    sizes = torch.tensor([1 + len(branches) for _, _, branches in rows])
    text_of = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # piece -> the piece that is its text
    ids = torch.tensor([[token for piece in pieces for token in piece]])
    index = torch.arange(ids.shape[1])
    piece = torch.arange(len(pieces)).repeat_interleave(lengths)  # (T,) the piece of each token
    text = text_of[piece]
    place = index - (lengths.cumsum(0) - lengths)[piece]  # (T,) within the piece
    row = {
        "input_ids": ids,
        "position_ids": (front + place + (piece != text) * lengths[text])[None],
        "logits_to_keep": last_places(lengths.cumsum(0), counts),
        "piece": piece,
        "text": text,
    }
    row = on_device(row, device)
    piece, text, index = row.pop("piece"), row.pop("text"), torch.arange(len(index), device=device)
    seen = (piece[:, None] == piece[None, :]) | (text[:, None] == piece[None, :])
    hidden = ~(seen & (index[:, None] >= index[None, :]))
    if windowed:
        positions = row["position_ids"][0].int()
        mask = positions[:, None] - torch.cat([torch.arange(front, dtype=torch.int32, device=device), positions])
        mask[:, front:].masked_fill_(hidden, -1)
        return {**row, "attention_mask": mask[None, None]}
    mask = torch.zeros(1, 1, len(index), front + len(index), dtype=dtype, device=device)
    mask[..., front:].masked_fill_(hidden, torch.finfo(dtype).min)
    return {**row, "attention_mask": mask}


def padded_batch(prompts: Continued) -> dict[str, Any]:
    """Each text with each of its branches, including the prefix, padded on the left.

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each (B, T) int64, with one row for each branch and each text without
        branches; and if logits are read not only at last positions, `width`, the number of last columns that have them, and
        `places` (P,) int64, their indices in those (B, width), flattened.
    """
    texts, counts, width = [], [], 1
    for text, last, branches in zip(prompts.texts, prompts.counts, prompts.branches, strict=True):
        for i, branch in enumerate(branches or [()]):
            texts.append([*prompts.prefix, *text, *branch])
            counts.append(len(branch) + (0 if i else last))
            width = max(width, last + len(branch))
    if width == 1:
        return left_pad(texts)
    places = last_places(width * torch.arange(1, len(texts) + 1), torch.tensor(counts))
    return {**left_pad(texts), "width": width, "places": places}
