import errno
import fcntl
import json
import os

import pytest
from safetensors import SafetensorError

from llmft.errors import InputError
from llmft.runs.record import PROGRESS, RunRecord
from llmft.runs.run_lock import RunLock
from llmft.runs.store import lock as locked
from llmft.runs.store import short_hash, whole_file, whole_folder, write_if_changed, write_json, write_json_lines, writing


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), whole_file(target) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_file_that_would_be_the_same_is_left_alone(tmp_path):
    target = tmp_path / "rows.jsonl"
    write_json_lines(target, [{"text1": "é"}])
    before = target.stat().st_ctime_ns
    write_json_lines(target, [{"text1": "é"}])
    write_if_changed(target, target.read_bytes())
    assert target.stat().st_ctime_ns == before
    write_if_changed(target, "other")
    assert target.read_text() == "other"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(RuntimeError), whole_folder(target) as aside:
        (aside / "half").write_text("")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    for text in ("old", "new"):
        with whole_folder(target) as aside:
            (aside / text).write_text(text)
            (aside / text).chmod(0o600)  # as safetensors does
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["model"]
    assert (target / "new").stat().st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(OSError, match="not empty"), whole_folder(target, replace=False) as aside:
        (aside / "newer").write_text("")
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_new_name_is_on_the_disk_before_anything_counts_on_it(tmp_path, monkeypatch):
    synced, original = [], os.fsync

    def watched(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        synced.append((path, sorted(os.listdir(tmp_path))))
        original(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write_json(tmp_path / "a.json", {})
    assert synced[-1] == (str(tmp_path), ["a.json"])
    with whole_folder(tmp_path / "model"):
        pass
    assert synced[-1] == (str(tmp_path), ["a.json", "model"])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_files_of_several_runs_are_written_where_the_disk_takes_no_locks(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "a.csv"):
        pass
    assert capsys.readouterr().err.startswith(f"note: {tmp_path} does not support file locks (")


def test_short_hash_follows_content():
    assert short_hash({"a": 1, "b": [2]}) == short_hash({"b": [2], "a": 1})
    assert short_hash({"a": 1}) != short_hash({"a": 2})


def test_a_record_is_finished_when_done_is_there(tmp_path):
    record = RunRecord.locate(str(tmp_path), ["icl", "toy"], {"a": 1}, writes=True)
    record.write_config({"method": "icl"})
    (record.checkpoints / "checkpoint-1").mkdir(parents=True)
    assert not record.finished
    record.add("icl", "toy", {"n": 2}, {"idx": [1, 2], "prediction": [0, 1]})
    record.write_results({"sets": {}}, log=[{"loss": 1.0}])
    record.write_costs({"total": {}})
    record.finish()
    again = RunRecord.locate(str(tmp_path), ["icl", "toy"], {"a": 1}, writes=True)
    assert again.path == record.path
    assert again.finished
    assert {file.name for file in record.path.iterdir()} == {
        "DONE", "config.json", "cost.json", "metrics.json", "predictions.parquet", "train_log.jsonl",
    }  # fmt: skip
    assert not RunRecord.locate(str(tmp_path), ["icl", "toy"], {"a": 2}, writes=True).finished


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path):
    record = RunRecord(tmp_path)
    assert record.last_checkpoint is None
    for step, whole in ((9, True), (10, True), (12, False)):
        folder = record.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}")  # the last file of transformers; evaluations and costs come behind it
        if whole:
            (folder / PROGRESS).write_bytes(b"")
    assert record.last_checkpoint == str(record.checkpoints / "checkpoint-10")


def test_only_one_rank_writes(tmp_path):
    record = RunRecord.locate(str(tmp_path), ["icl"], {}, writes=False)
    record.write_config({})
    record.write_results({})
    record.write_costs({})
    record.finish()
    assert os.listdir(tmp_path) == []


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--output_dir"):
        RunRecord.locate(str(tmp_path / "file"), ["icl"], {}, writes=True)


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"
TORCH = "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3: file write failed"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "out/x"),
        OSError(errno.EROFS, "Read-only file system", "out/x"),
        PermissionError(errno.EACCES, "Permission denied", "out/x"),
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
        SafetensorError(FULL),
        RuntimeError(TORCH),
    ],
)
def test_what_the_disk_will_not_take_is_one_line(tmp_path, error):
    write_json(tmp_path / "a.json", {"old": 1})
    with (
        pytest.raises(InputError, match=r"^--output_dir out: cannot be written to \(.*\); free some space") as caught,
        writing("out"),
        whole_file(tmp_path / "a.json") as aside,
    ):
        aside.write_text("half")
        raise error
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file"), RuntimeError("a fault of ours"), KeyError("x")]
)
def test_other_errors_are_not_the_disks(error):
    with pytest.raises(type(error)), writing("out"):
        raise error


def test_an_abandoned_run_leaves_nothing_but_whole_checkpoints(tmp_path):
    record = RunRecord.locate(str(tmp_path / "out"), ["icl", "toy"], {"a": 1}, writes=True)
    lock = RunLock(record.path)  # which makes the folders above, and takes them away
    assert lock.take()
    record.write_config({"method": "icl"})
    record.abandon()
    lock.release()
    assert os.listdir(tmp_path) == []
    record.write_config({"method": "icl"})
    for step, whole in ((1, True), (2, False)):
        (record.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
        if whole:
            (record.checkpoints / f"checkpoint-{step}" / PROGRESS).write_text("{}")
    record.abandon()
    assert [path.name for path in record.checkpoints.iterdir()] == ["checkpoint-1"]
    again = RunRecord.locate(str(tmp_path / "out"), ["icl", "toy"], {"a": 1}, writes=True)
    again.write_config({"method": "icl"})
    again.abandon()
    assert again.last_checkpoint == record.last_checkpoint


def test_an_earlier_run_goes_away_only_when_the_new_one_begins(tmp_path):
    record = RunRecord.locate(str(tmp_path), ["icl"], {}, writes=True)
    record.write_config({"run": 1})
    record.add("icl", "toy", {"n": 2}, {"idx": [1, 2]})
    record.write_results({})
    record.write_costs({})
    record.finish()
    again = RunRecord.locate(str(tmp_path), ["icl"], {}, writes=True)
    again.overwrite = True
    again.abandon()  # it was bad input
    assert again.finished
    again.write_config({"run": 2})
    assert [path.name for path in again.path.iterdir()] == ["config.json"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
