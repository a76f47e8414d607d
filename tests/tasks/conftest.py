"""Tasks and rows from command lines, without a model."""

import json

import pandas as pd
import pytest

from llmft.arguments.data import DataArguments
from llmft.tasks.load import load_task
from llmft.tasks.resolve import resolve_task
from tests.parsing import parse


def resolve(*arguments, **more):
    """The task that the arguments ask for."""
    ((data,), _) = parse((DataArguments,), list(map(str, arguments)))
    return resolve_task(data, **more)


def load(task, data_dir=None, **more):
    return load_task(task, **{"variant": None, "data_seed": 0, "data_dir": data_dir and str(data_dir), "cache_dir": None, **more})


@pytest.fixture
def write(tmp_path):
    """Writes rows to a file of the given name."""

    def make(rows, name="rows.jsonl"):
        file = tmp_path / name
        if file.suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(file)
        elif file.suffix == ".csv":
            pd.DataFrame(rows).to_csv(file, index=False)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return make
