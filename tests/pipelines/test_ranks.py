"""What several ranks say at once is said once."""

import os
import time
from types import SimpleNamespace

import pytest

from llmft.command_line import modern
from llmft.cost.meter import Meter
from llmft.errors import InputError
from llmft.models import gather
from llmft.pipelines import session
from llmft.runs.finished import Command
from llmft.runs.record import RunRecord


@pytest.mark.parametrize(("rank", "local_rank", "waits"), [(None, None, []), (0, 0, []), (8, 0, [10]), (1, 1, [20])])
def test_ranks_other_than_0_wait_for_their_end_before_they_say_an_error(monkeypatch, capsys, rank, local_rank, waits):
    for name, value in {"RANK": rank, "LOCAL_RANK": local_rank}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(value))
    waited, handled = [], []
    monkeypatch.setattr(time, "sleep", lambda seconds: waited.append((seconds, capsys.readouterr().err)))
    monkeypatch.setattr(session.signal, "signal", lambda *what: handled.append(what))

    def wrong():
        raise InputError("--task_name nope: no such task")

    with pytest.raises(SystemExit) as end:
        session.run_main(wrong, Command())
    assert end.value.code == 2
    assert waited == [(seconds, "") for seconds in waits]
    default = (session.signal.SIGTERM, session.signal.SIG_DFL)
    assert handled.count(default) == len(waits)
    assert capsys.readouterr().err == "error: --task_name nope: no such task\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_is_charged_for_another_process_that_does_the_run(tmp_path, monkeypatch, rank):
    meter, answers = Meter(from_start=False), [False, False, True]
    monkeypatch.setattr(session, "process_meter", lambda: meter)
    monkeypatch.setattr(session, "LOOK_EVERY_S", 0.3)
    monkeypatch.setattr(gather, "from_rank_0", lambda _: answers.pop(0))  # what rank 0 finds
    job = SimpleNamespace(record=RunRecord(tmp_path / "run", writes=rank == 0))
    with meter.measuring():
        with session.turn(job):
            pass
        assert meter.as_dict()["total"]["wall_s"] < 0.2
    assert answers == []


def test_rank_0_alone_says_notes(monkeypatch, capsys):
    assert "RANK" not in os.environ
    for rank, notes in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert modern(["--overwrite_cache", "True", "--seed", "1"]) == ["--seed", "1"]
        assert capsys.readouterr().err.count("note: ") == notes
