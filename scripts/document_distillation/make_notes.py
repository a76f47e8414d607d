"""Write the document of the task notes for a data seed into a file, for self-study.

    python scripts/document_distillation/make_notes.py FOLDER [--seed 0]

makes FOLDER/notes-0: the file has the name that the document has in the task, so that pairs about it are pairs about that.
"""

import argparse
from pathlib import Path

from llmft.runs.store import write_if_changed
from llmft.worlds.notes.world import document_id, draw_notes


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="data seed of the document (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(arguments.folder / document_id(arguments.seed), draw_notes(arguments.seed)[0].text)


if __name__ == "__main__":
    main()
