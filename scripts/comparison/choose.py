"""Chooses the pattern of each model and task, and whether to calibrate, using only training rows; choose.sh runs both steps.

`python scripts/comparison/choose.py split DATA_DIR FOLDER TASK...` writes a data folder whose evaluation rows are every tenth
training row of DATA_DIR, and whose training rows are the others. `python scripts/comparison/choose.py table RUNS CSV` reads the
calibrated runs of eval.py on that folder. Each gives two candidates, with calibration and without: the log-probabilities that
calibration starts from are in the record too. Of a model and task the candidate with the best accuracy is chosen; of equal
ones that with the lowest loss (mean negative log-probability of the right label among the labels, nats).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmft.errors import InputError
from llmft.evaluation.labels import renormalise
from llmft.runs.program import exit_on_bad_input
from llmft.runs.store import write_if_changed
from llmft.tasks.files import locate
from llmft.tasks.formats import read_file
from llmft.tasks.table import get_task

EVERY = 10
"""One in this many training rows is an evaluation row of the choice."""
COLUMNS = ("label_logprobs", "token_logprobs")
"""Columns of predictions.parquet with and without calibration."""


def split(data_dir: str, folder: str, *tasks: str) -> None:
    """Write the training and evaluation rows of the choice, both from the tasks' training rows.

    Raises:
        InputError: there is no data folder, or a file is missing in it.
    """
    if not data_dir:
        raise InputError("DATA_DIR: is empty; name the folder with local data, whose training rows are split")
    for name in tasks:
        task = get_task(name)
        place = locate(task.train.source, data_dir)
        rows = pd.concat([pd.DataFrame(read_file(path, place.where)) for path in place.paths], ignore_index=True)
        held_out = rows.index % EVERY == 0
        for source, part in ((task.train.source, rows[~held_out]), (task.in_domain.source, rows[held_out])):
            path = Path(folder, f"{source.local_files[0]}.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_if_changed(path, part.to_parquet(index=False))


def candidates(record: Path) -> Iterator[dict[str, Any]]:
    """The two candidates in a calibrated run."""
    config = json.loads((record / "config.json").read_text())
    data = config["arguments"]["DataArguments"]
    predictions = pd.read_parquet(record / "predictions.parquet")
    targets = predictions["target"].to_numpy()
    for calibrated, column in zip((1, 0), COLUMNS, strict=True):
        logprobs = renormalise(np.stack(predictions[column].to_numpy()))
        yield {
            "model": Path(config["arguments"]["ModelArguments"]["model_name_or_path"]).name,
            "task": data["task_name"],
            "pattern": data["pattern_name"],
            "calibrated": calibrated,
            "rows": len(predictions),
            "accuracy": round(float(np.mean(logprobs.argmax(1) == targets)), 3),
            "loss": round(float(-logprobs[np.arange(len(targets)), targets].mean()), 3),
        }


def table(runs: str, csv: str) -> None:
    """Write all candidates, and which ones are chosen. Rows of the table for other models and tasks stay.

    Raises:
        InputError: candidates of a model and task were scored on different numbers of rows.
    """
    records = [done.parent for done in sorted(Path(runs).rglob("DONE"))]
    rows = pd.DataFrame([row for record in records for row in candidates(record)])
    numbers = rows.groupby(["model", "task"])["rows"].unique()
    for (model, task), different in numbers[numbers.map(len) > 1].items():
        count = " and ".join(map(str, sorted(different)))
        raise InputError(f"{runs}: {model} was scored on {count} rows of {task}; remove the runs of one number")
    if Path(csv).is_file():
        others = pd.read_csv(csv)
        again = pd.MultiIndex.from_frame(others[["model", "task"]]).isin(numbers.index)
        rows = pd.concat([others[~again], rows], ignore_index=True)
    rows = rows.sort_values(["model", "task", "accuracy", "loss"], ascending=[True, True, False, True], ignore_index=True)
    rows["chosen"] = (~rows.duplicated(["model", "task"])).astype(int)
    write_if_changed(Path(csv), rows.to_csv(index=False))


if __name__ == "__main__":
    with exit_on_bad_input():
        {"split": split, "table": table}[sys.argv[1]](*sys.argv[2:])
