"""Several processes say what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmft.errors import InputError
from llmft.report.__main__ import main
from llmft.report.records import pool
from llmft.report.records.pool import Workers
from tests.report.synthetic import Made, write

ROOT = Path(__file__).parents[2]
BOTH = """
import sys
from pathlib import Path
from pandas.testing import assert_frame_equal
from llmft.report.records import pool
from llmft.report.records.collect import collect
from llmft.report.statistics.paired import read_row_scores

folder = Path(sys.argv[1])
alone = collect(folder)
answers, missing = read_row_scores(alone, alone.runs["id"])()
pool.MANY, pool.PART, pool.os.sched_getaffinity = 2, 3, lambda _: {0, 1}
with pool.Workers() as workers:
    several = collect(folder, workers)
    assert_frame_equal(several.runs, alone.runs)
    text = ["id", "selection", "stage", "set", "metric"]
    assert_frame_equal(several.scores.astype(dict.fromkeys(text, str)), alone.scores.astype(dict.fromkeys(text, str)))
    assert (several.left_out, several.sets) == (alone.left_out, alone.sets)
    theirs, not_theirs = read_row_scores(several, several.runs["id"], workers)()
    assert theirs.keys() == answers.keys() and not_theirs == missing
    for key, own in answers.items():
        assert theirs[key].rows == own.rows
        assert (theirs[key].scores == own.scores).all() and (theirs[key].confusion == own.confusion).all()
    try:
        workers.begin(int, "no number")()
    except ValueError:
        print(len(answers), "alike")
"""


def test_several_processes_read_what_one_reads(made):
    done = subprocess.run([sys.executable, "-c", BOTH, str(made[0])], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, word = done.stdout.split()
    assert int(count) >= 25  # runs, each with the answers of a domain or two
    assert word == "alike"


def test_one_process_does_the_work_on_few():
    workers = Workers()
    items = list(range(120))
    assert list(workers.in_parts(sum, items, 5)) == [sum(items[:50]) + 5, sum(items[50:100]) + 5, sum(items[100:]) + 5]
    assert workers.begin(int, "7")() == 7


def test_a_process_that_is_killed_is_one_line(monkeypatch):
    monkeypatch.setattr(pool, "MANY", 2)
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(InputError, match="was killed"), Workers() as workers:
        list(workers.in_parts(_die, [1, 2, 3]))


def test_another_process_tells_of_a_log_that_is_not_whole(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pool, "MANY", 2)
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr("llmft.report.commands.write.PICTURES", ("training",))
    made = write(tmp_path, [Made(method="pbft", seed=seed) for seed in range(2)], hans_rows=4)
    record = next(iter(made))
    (tmp_path / record / "train_log.jsonl").write_text('{"loss": 1.0, "step": 1}\n{"loss": ')
    main([str(tmp_path)])
    assert f"train_log.jsonl of {Path(record).name}: " in capsys.readouterr().out
    assert (tmp_path / "report" / "training.png").is_file()


def _die(_):
    os._exit(1)
