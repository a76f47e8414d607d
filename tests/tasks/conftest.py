"""Tasks and rows from command lines, without a model."""

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
