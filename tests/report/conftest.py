import pytest

from llmft.report.collect import collect
from llmft.report.statistics import summarise, welch
from tests.report.synthetic import Made, write

METHODS = ("icl", "pbft", "distill")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder of 25 finished runs and two that are not, and what they are by their records."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [Made("rte", "opt-125m", method, 16, "minimal", seed) for method in METHODS for seed in range(4)]
    runs += [Made("rte", "opt-1.3b", method, 16, "minimal", seed) for method in ("icl", "pbft") for seed in range(4)]
    runs += [Made("rte", "opt-125m", "icl", 0, "minimal", seed) for seed in range(3)]
    runs += [Made("qqp", "opt-125m", "icl", 16, "gpt-3", seed) for seed in range(2)]
    runs += [Made("rte", "opt-125m", "pbft", 16, "minimal", seed, done=False) for seed in (4, 5)]
    return folder, write(folder, runs, hans_rows=40)


@pytest.fixture(scope="session")
def collection(made):
    return collect(made[0])


@pytest.fixture(scope="session")
def summary(collection):
    return summarise(collection)


@pytest.fixture(scope="session")
def tests(summary):
    return welch(summary)
