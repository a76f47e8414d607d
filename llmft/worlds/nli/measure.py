"""Measures what a model does with the toy world in context, and prints a Markdown table:

    python -m llmft.worlds.nli.measure --model_name_or_path my_toy --queries 100

Every query gets its own demonstrations, half of them "Yes": each number is a mean over contexts as well as queries.
"""

import argparse
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from llmft.errors import InputError
from llmft.runs.program import run_main
from llmft.worlds.measuring import load_on_one_thread, numbers
from llmft.worlds.nli import CHECKPOINT, world
from llmft.worlds.nli.grammar import OUT_OF_DOMAIN, RULES
from llmft.worlds.nli.tokenizer import BLANK_LINE
from llmft.worlds.nli.world import LABEL_PATTERN, LABEL_WORDS, PATTERN

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Rows = list[dict]


def prompt(query: dict, demonstrations: Rows = (), opening: str = "", pattern: str = PATTERN, shown: str = "") -> str:
    """The text up to where the answer is due. `opening` is an instruction, `shown` the {label} of LABEL_PATTERN."""
    parts = [opening] if opening else []
    parts += [PATTERN.format(**row) + " " + LABEL_WORDS[row["label"]] for row in demonstrations]
    return BLANK_LINE.join([*parts, pattern.format(**{**query, "label": shown})])


def sample_rows(rows: Rows, n: int, rng: random.Random) -> Rows:
    """Draws n rows in random order, the same number of each label; if n is odd, the extra label is random.

    Raises:
        InputError: there are fewer.
    """
    counts = [n // 2, n - n // 2]
    rng.shuffle(counts)
    of_labels = [[row for row in rows if row["label"] == label] for label in (0, 1)]
    if any(count > len(one) for one, count in zip(of_labels, counts, strict=True)):
        most = 2 * min(map(len, of_labels))
        raise InputError(f"--queries or --shots {n}: there are only {most} rows to draw them from; use fewer")
    drawn = [row for one, count in zip(of_labels, counts, strict=True) for row in rng.sample(one, count)]
    return rng.sample(drawn, n)


def label_logits(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: list[str], batch_size: int = 32
) -> np.ndarray:
    """(n, 2) logits of LABEL_WORDS after each prompt. Batches have similar lengths; padding is on the right, where nothing sees
    it.

    Raises:
        InputError: a prompt does not fit the model's window.
    """
    import torch

    labels = tokenizer.convert_tokens_to_ids(list(LABEL_WORDS))
    encoded = [tokenizer(text)["input_ids"] for text in prompts]
    longest, window = max(map(len, encoded)), model.config.max_position_embeddings
    if longest > window:
        raise InputError(f"--shots: a prompt has {longest} tokens, and the model's window {window}; ask for fewer")
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    logits = np.empty((len(prompts), len(labels)), np.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [encoded[i] for i in chosen]}, padding_side="right", return_tensors="pt")
        last = batch["attention_mask"].sum(dim=1) - 1
        with torch.inference_mode():
            out = model(**batch).logits  # (B, T, vocabulary)
        logits[chosen] = out[torch.arange(len(chosen)), last][:, labels].numpy()
    return logits


def accuracy(model, tokenizer, queries: Rows, prompts: list[str]) -> float:
    """The share of queries whose own label scores higher than the other."""
    answers = label_logits(model, tokenizer, prompts).argmax(axis=1)
    return float((answers == [row["label"] for row in queries]).mean())


def measure(model, tokenizer, shots: list[int], n: int, rng: random.Random) -> Iterator[tuple[str, str, list[float]]]:
    """Yields (rule, set, accuracies): by number of shots, then with only an instruction, then with a shown label.

    Accuracies are means over both flips with n queries each. The shown label is right or wrong at random and counts as
    the answer.
    """
    for rule in RULES:
        totals: dict[str, np.ndarray] = {}
        for flipped in (False, True):
            splits = world.toy_splits(f"{rule},flipped" if flipped else rule, 0)
            sets = {
                "in-domain": splits["validation"],
                "out-of-domain": [row for name in OUT_OF_DOMAIN for row in splits[name]],
                "unseen words": splits["unseen_words"],
            }
            for name, rows in sets.items():
                queries = sample_rows(rows, n, rng)
                shown = [{**query, "label": rng.randrange(2)} for query in queries]
                prompts = [
                    *((queries, [prompt(q, sample_rows(splits["train"], k, rng)) for q in queries]) for k in shots),
                    (queries, [prompt(query, opening=world.instruction(rule, flipped)) for query in queries]),
                    (shown, [prompt(row, pattern=LABEL_PATTERN, shown=LABEL_WORDS[row["label"]]) for row in shown]),
                ]
                scores = np.array([accuracy(model, tokenizer, *pair) for pair in prompts])
                totals[name] = totals.get(name, 0) + scores / 2
        for name, scores in totals.items():
            yield rule, name, scores.tolist()


def main(argv: list[str] | None = None) -> None:
    """The command: a table on standard output."""
    parser = argparse.ArgumentParser(prog="python -m llmft.worlds.nli.measure", description=__doc__.split("\n")[0])
    parser.add_argument("--model_name_or_path", default=str(CHECKPOINT), help="default: the shipped checkpoint")
    parser.add_argument("--shots", type=numbers, default="0,2,4,8,16,32", help="how many (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=100, help="per rule, flip and set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides queries and demonstrations (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.queries < 1:
        raise InputError(f"--queries {arguments.queries}: ask for 1 or more")
    model, tokenizer = load_on_one_thread(arguments.model_name_or_path)
    columns = ["rule", "set", *(f"{k} shots" for k in arguments.shots), "instruction", "shown label"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    rng = random.Random(arguments.seed)
    for rule, name, scores in measure(model, tokenizer, arguments.shots, arguments.queries, rng):
        print(f"| {rule} | {name} | " + " | ".join(f"{score:.3f}" for score in scores) + " |", flush=True)


if __name__ == "__main__":
    run_main(main)
