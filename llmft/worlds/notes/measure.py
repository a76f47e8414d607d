"""Measures a model's answers with and without the document, and prints a Markdown table:

    python -m llmft.worlds.notes.measure --model_name_or_path my_notes --documents 20

Answers are generated greedily and count if they equal the reference exactly.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.runs.program import run_main
from llmft.worlds.measuring import load_on_one_thread, numbers
from llmft.worlds.notes import CHECKPOINT
from llmft.worlds.notes.grammar import ATTRIBUTES, NOT_STATED
from llmft.worlds.notes.world import NUM_PLACES, PATTERN, SEPARATOR, document_rows, draw_document

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONTEXTS = ("document", "document and 4 demonstrations", "nothing")
SETS = {"train": "training wordings", "validation": "held-out wordings", "reverse": "reverse", "unanswerable": "unanswerable"}
Outcome = tuple[str, str, list[bool]]  # set, attribute, whether each of CONTEXTS gave the right answer


def question_prompt(row: dict, document: str = "", demonstrations: Sequence[dict] = ()) -> str:
    """The text up to where the answer is due."""
    shown = [f"{PATTERN.format(**one)} {one['answer']}" for one in demonstrations]
    return SEPARATOR.join([*filter(None, [document]), *shown, PATTERN.format(**row)])


def greedy_answers(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], batch_size: int = 32
) -> list[str]:
    """What the model writes after each prompt, up to 8 tokens."""
    import torch

    answers = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(prompts[start : start + batch_size], padding=True, padding_side="left", return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.inference_mode():
            written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
        answers += tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return answers


def measure_document(model, tokenizer, num_facts: int, rng: random.Random) -> Iterator[Outcome]:
    """Yields how each question about a new document with this number of facts is answered."""
    document = draw_document(rng, num_facts, rng.randint(*NUM_PLACES))
    splits = document_rows(document, rng, "new")
    train = splits["train"]
    splits["train"] = [row for row in train if row["answer"] != NOT_STATED]
    for name, rows in splits.items():
        contexts = [
            [question_prompt(row, document.text) for row in rows],
            [question_prompt(row, document.text, rng.sample(train, 4)) for row in rows],
            [question_prompt(row) for row in rows],
        ]
        answers = [greedy_answers(model, tokenizer, prompts) for prompts in contexts]
        for row, *texts in zip(rows, *answers, strict=True):
            yield name, row["kind"], [text == row["answer"] for text in texts]


def table_lines(outcomes: dict[int, list[Outcome]]) -> Iterator[str]:
    """The table: by number of facts and set, then for the held-out wordings by attribute."""
    yield "| facts | questions | " + " | ".join(CONTEXTS) + " |"
    yield "|" + "---|" * (2 + len(CONTEXTS))
    groups: dict[tuple[str, str], list[list[bool]]] = defaultdict(list)
    for num_facts, one_size in outcomes.items():
        for name, _, right in one_size:
            groups[str(num_facts), SETS[name]].append(right)
    for name, attribute, right in (outcome for one_size in outcomes.values() for outcome in one_size):
        if name == "validation":
            groups["all", f"{SETS[name]}, {attribute}"].append(right)
    for key, rights in groups.items():
        means = [fmean(column) for column in zip(*rights, strict=True)]
        yield "| " + " | ".join([*key, *(f"{mean:.3f}" for mean in means)]) + " |"


def main(argv: list[str] | None = None) -> None:
    """The command: a table on standard output."""
    parser = argparse.ArgumentParser(prog="python -m llmft.worlds.notes.measure", description=__doc__.split("\n")[0])
    parser.add_argument("--model_name_or_path", default=str(CHECKPOINT), help="default: the shipped checkpoint")
    parser.add_argument("--facts", type=numbers, default="16,24,32", help="numbers of facts in a document (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=10, help="of each size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides documents and questions (default: %(default)s)")
    arguments = parser.parse_args(argv)
    most = NUM_PLACES[0] * len(ATTRIBUTES)
    if not 1 <= min(arguments.facts) <= max(arguments.facts) <= most:
        raise InputError(f"--facts {','.join(map(str, arguments.facts))}: a document has 1 to {most}")
    if arguments.documents < 1:
        raise InputError(f"--documents {arguments.documents}: ask for 1 or more")
    model, tokenizer = load_on_one_thread(arguments.model_name_or_path)
    rng = random.Random(f"measure {arguments.seed}")
    outcomes = {
        num_facts: [one for _ in range(arguments.documents) for one in measure_document(model, tokenizer, num_facts, rng)]
        for num_facts in arguments.facts
    }
    print("\n".join(table_lines(outcomes)))


if __name__ == "__main__":
    run_main(main)
