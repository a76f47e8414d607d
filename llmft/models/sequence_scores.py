"""Labels of several tokens: a label's score is the log-probability of its whole token sequence behind the prompt.

    score(y) = sum over t of log p(y_t | prompt, y_1 ... y_(t-1))

Behind a prompt go the labels' *continuations*: a label's tokens but its last, which predicts nothing that is asked for. One
that begins another is read off the longer, so labels of one token need none. There is a row of logits for the prompt's last
token and for each token of a continuation, R rows in all, in that order; no other position is projected to the vocabulary
(in a padded batch, up to the longest continuation's length).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmft.models.label_scores import index_on, last_logits, left_pad, on_device, precise


@dataclass(frozen=True)
class LabelSequences:
    """The token sequences of L labels; each has at least one token."""

    sequences: tuple[tuple[int, ...], ...]

    @classmethod
    def create(cls, sequences: Sequence[Sequence[int]]) -> LabelSequences:
        """From L lists of token ids, in label order."""
        return cls(tuple(map(tuple, sequences)))

    def __post_init__(self) -> None:
        if not all(self.sequences):
            raise ValueError(f"a label has no tokens: {self.sequences}")

    @property
    def continuations(self) -> list[tuple[int, ...]]:
        """C token sequences that every prompt is continued by; a single empty one where all labels are one token."""
        needed = list(dict.fromkeys(sequence[:-1] for sequence in self.sequences))
        return [one for one in needed if not any(other != one and other[: len(one)] == one for other in needed)]

    @property
    def rows(self) -> int:
        """R, rows of logits a prompt."""
        return 1 + sum(map(len, self.continuations))

    def logprobs(self, logits: torch.Tensor) -> torch.Tensor:
        """Sequence log-probabilities (n, L), in float32 or better, from the rows' logits (n, R, V)."""
        rows: list[int] = []
        for sequence in self.sequences:
            first = 1  # row of the first token of the continuation that the label is read off
            for continuation in self.continuations:
                if continuation[: len(sequence) - 1] == sequence[:-1]:
                    break
                first += len(continuation)
            rows += [0, *range(first, first + len(sequence) - 1)]
        tokens = [token for sequence in self.sequences for token in sequence]
        rows_and_tokens = (index_on(logits.device, tuple(one)) for one in (rows, tokens))
        logprobs = precise(logits).log_softmax(-1)[:, *rows_and_tokens]  # (n, tokens of all labels)
        return torch.stack([part.sum(-1) for part in logprobs.split([*map(len, self.sequences)], dim=1)], dim=1)


def masked_row(
    queries: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    prefix_length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Arguments of a model: n queries in one row of T tokens, each followed by the C continuations side by side, behind a prefix
    of P tokens; each token gets the position it has in a text of its own. The mask is made on the device.

    Returns:
        `input_ids` and `position_ids` (1, T) int64; `attention_mask` (1, 1, T, P + T) of `dtype`, 0 where a token may look: the
        prefix, its own query, its own continuation; `logits_to_keep` (n * R,): the places whose logits are asked for.
    """
    pieces = [piece for query in queries for piece in (query, *continuations)]
    lengths = torch.tensor([len(piece) for piece in pieces])
    ids = torch.tensor([[token for piece in pieces for token in piece]])
    index = torch.arange(ids.shape[1])
    piece = torch.repeat_interleave(torch.arange(len(pieces)), lengths)  # (T,) whose token
    query = piece - piece % (1 + len(continuations))  # (T,) the query's piece that it belongs to
    continues = piece != query
    place = index - (lengths.cumsum(0) - lengths)[piece]  # (T,) within the piece
    row = {
        "input_ids": ids,
        "position_ids": (prefix_length + place + continues * lengths[query])[None],
        "logits_to_keep": (continues | (place == lengths[query] - 1)).nonzero()[:, 0],
        "piece": piece,
        "query": query,
    }
    row = on_device(row, device)
    piece, query, index = row.pop("piece"), row.pop("query"), torch.arange(len(index), device=device)
    seen = (piece[:, None] == piece[None, :]) | (query[:, None] == piece[None, :])
    mask = torch.zeros(1, 1, len(index), prefix_length + len(index), dtype=dtype, device=device)
    mask[..., prefix_length:].masked_fill_(~(seen & (index[:, None] >= index[None, :])), torch.finfo(dtype).min)
    return {**row, "attention_mask": mask}


def sequence_batch(prompts: Sequence[Sequence[int]], labels: LabelSequences) -> dict[str, torch.Tensor]:
    """Each of B prompts with each of the C continuations, padded on the left.

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each (B, C, T) int64.
    """
    texts = [[*prompt, *continuation] for prompt in prompts for continuation in labels.continuations]
    return {name: tensor.unflatten(0, (len(prompts), -1)) for name, tensor in left_pad(texts).items()}


def sequence_logits(model: torch.nn.Module, batch: dict[str, torch.Tensor], labels: LabelSequences) -> torch.Tensor:
    """The rows' logits (B, R, V) of what `sequence_batch` returns, on the model's device."""
    names = ("input_ids", "attention_mask", "position_ids")
    lengths = [len(continuation) for continuation in labels.continuations]
    width = 1 + max(lengths)
    logits = last_logits(model, {name: batch[name].flatten(0, 1) for name in names}, width)  # (B * C, width, V)
    logits = logits.unflatten(0, (-1, len(lengths))).flatten(1, 2)  # (B, C * width, V)
    rows = [width - 1 - lengths[0]]
    for i, length in enumerate(lengths):
        rows += range((i + 1) * width - length, (i + 1) * width)
    return logits[:, index_on(logits.device, tuple(rows))]


def sequence_label_logits(model: torch.nn.Module, batch: dict[str, torch.Tensor], labels: LabelSequences) -> torch.Tensor:
    """Sequence log-probabilities (B, L) of the labels, with gradients: what training on label sequences needs.

    Args:
        model: a causal language model, possibly wrapped (PEFT, DDP, DeepSpeed).
        batch: what `sequence_batch` returns for `labels`, on the model's device; anything beside it is not read.
        labels: the labels' sequences.
    """
    return labels.logprobs(sequence_logits(model, batch, labels))
