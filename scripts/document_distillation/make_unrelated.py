"""Prompts for --retain_file in the vocabulary of the task notes: questions unrelated to the document of a data seed, none of
which is among the fifty that runs are evaluated on.

    python scripts/document_distillation/make_unrelated.py prompts.jsonl [--seed 0] [--number 256]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from llmft.runs.store import write_json_lines
from llmft.worlds.notes.world import draw_notes, draw_unrelated, notes_unrelated


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="data seed of the document (default: %(default)s)")
    parser.add_argument("--number", type=int, default=256, help="number of prompts (default: %(default)s)")
    arguments = parser.parse_args()
    measured = set(notes_unrelated(None, arguments.seed))
    rng, document = random.Random("retain"), draw_notes(arguments.seed)[0]
    prompts = [one for one in draw_unrelated(rng, document, arguments.number + len(measured)) if one not in measured]
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(arguments.file, [{"text1": prompt} for prompt in prompts[: arguments.number]])


if __name__ == "__main__":
    main()
