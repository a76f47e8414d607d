"""docs/defaults.md has the learning rates and epochs that are used."""

import re
from pathlib import Path

from llmft.arguments.methods import PARTS as FLAGS
from llmft.arguments.training_defaults import DISTILLATION, FINE_TUNING, TrainingDefaults
from llmft.worlds.nli.training import TOY_TRAINING

DOCUMENT = Path(__file__).parents[2] / "docs" / "defaults.md"


def table():
    """The rows of the document's first table, without its header."""
    lines = DOCUMENT.read_text().split("| trained part |", 1)[1].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    assert {len(row) for row in rows} == {4}
    return rows


def parts_of(cell):
    if cell == "all weights":
        return [None]
    words = [code.split()[-1] for code in re.findall("`([^`]*)`", cell)]
    return ["lora" if word == "--use_adapter" else FLAGS.get(word.removeprefix("--"), word) for word in words]


def fine_tuning_of(cell):
    rate, epochs = cell.split(", ", 1)
    rows = re.match(r"(\d+) rows read in total, at most (\d+) epochs", epochs)
    if rows:
        return TrainingDefaults(float(rate), int(rows[1]), int(rows[2]))
    return TrainingDefaults(float(rate), most_epochs=int(re.match(r"(\d+) epochs", epochs)[1]))


def test_the_table_of_rates_and_epochs():
    *rows, (name, queries, _, toy_rows) = table()
    assert name == "epochs if not set"
    read = re.compile(r"(\d+) \w+ read in total, 1 to (\d+) epochs")
    seen = {cell: [*map(int, read.match(cell).groups())] for cell in (queries, toy_rows)}
    written = [{}, {}, {}]
    for cell, distillation, fine_tuning, toy in rows:
        for part in parts_of(cell):
            written[0][part] = TrainingDefaults(float(distillation), *seen[queries])
            written[1][part] = fine_tuning_of(fine_tuning)
            written[2][part] = TrainingDefaults(float(toy), *seen[toy_rows])
    assert written == [DISTILLATION, FINE_TUNING, TOY_TRAINING]
    examples = re.findall(r"(\d+) for (\d+)", queries)
    assert len(examples) == 4
    for epochs, number in examples:
        assert DISTILLATION["lora"].epochs(int(number)) == int(epochs)
    shown = re.search(r"learning rate (\S+), (\d+) epochs \(defaults for LoRA on (\d+) queries;", DOCUMENT.read_text())
    assert float(shown[1]) == DISTILLATION["lora"].learning_rate
    assert int(shown[2]) == DISTILLATION["lora"].epochs(int(shown[3]))
