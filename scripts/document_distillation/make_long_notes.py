"""Write a document of several windows of the embedded notes model, and questions about some of its facts.

    python scripts/document_distillation/make_long_notes.py FOLDER --seed 0

makes FOLDER/long.md, notes about places, each in only one part; and, asking for every fourth fact, FOLDER/train.jsonl in
the training wordings and FOLDER/validation.jsonl in the held-out ones. The same seed gives the same files.
"""

import argparse
import random
from pathlib import Path

from llmft.runs.store import write_if_changed, write_json_lines
from llmft.worlds.notes.grammar import HELD_OUT_WORDINGS, TRAIN_WORDINGS
from llmft.worlds.notes.world import NotesDocument, draw_document, question_text

FACTS, PLACES = 24, 5
"""Numbers per part; about 256 tokens."""
MOST_PARTS = 20
"""Parts are drawn until one has only new names, of 120: 20 parts take a second or two, 24 would take hours."""
EVERY = 4
"""One in this many facts is asked for."""


def draw_parts(rng: random.Random, number: int) -> list[NotesDocument]:
    """Documents that share no places."""
    parts: list[NotesDocument] = []
    names: set[str] = set()
    while len(parts) < number:
        part = draw_document(rng, FACTS, PLACES)
        places = {place.name for place in part.places}
        if not names & places:
            names |= places
            parts.append(part)
    return parts


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    sizes = {"choices": range(1, MOST_PARTS + 1), "metavar": "N"}
    parser.add_argument("--parts", type=int, default=12, help="up to 20; 12 fill four windows (default: %(default)s)", **sizes)
    arguments = parser.parse_args()
    parts = draw_parts(random.Random(f"long notes {arguments.seed}"), arguments.parts)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(arguments.folder / "long.md", "\n\n".join(part.text for part in parts) + "\n")
    for file, wordings in (("train", TRAIN_WORDINGS), ("validation", HELD_OUT_WORDINGS)):
        rows = [
            {"text1": question_text(fact.place, fact.attribute, wording), "answer": " ".join(fact.value)}
            for part in parts
            for fact in part.facts[::EVERY]
            for wording in wordings
        ]
        write_json_lines(arguments.folder / f"{file}.jsonl", rows)


if __name__ == "__main__":
    main()
