"""What lets a command that has ended pass without a look at torch, and what does not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from huggingface_hub import constants

from llmft.arguments.command_line import read
from llmft.arguments.flags import paths_named
from llmft.arguments.run import RunArguments
from llmft.errors import InputError
from llmft.pipelines import distill, fine_tune
from llmft.pipelines.prepare import prepare
from llmft.runs.finished import OUTPUT_DIR, Command, process_command
from tests.pipelines.conftest import MAIN

GROUPS = {"distill.py": distill.GROUPS, "ft.py": fine_tune.GROUPS}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with everything a command may name; the process is in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "LLMFT_DATA_DIR", "CUDA_VISIBLE_DEVICES", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for file in (
        "data/glue/rte/train.csv",
        "model/config.json",
        "base/w.safetensors",
        "shots.csv",
        "one.txt",
        "two.txt",
        "ds.json",
        "metric.py",
    ):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("{}")
    Path("model/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base"}))
    return tmp_path


WORDS = (
    "--task rte --data_dir data --model_name_or_path=model --sample_indices_file shots.csv --context demonstrations,file "
    "--context_file one.txt,two.txt --num_contexts 2 --metric metric.py --deepspeed ds.json --output_dir out "
    "--no_save_final_model"
).split()


def command(*words, script="distill.py"):
    return Command.of([script, *words])


def reading(*words, script="distill.py"):
    """The command on its way: it has noted what it is about to read."""
    started, groups = command(*words, script=script), GROUPS[script]
    values, _ = read(groups, words, "")
    started.reads(paths_named(groups, values))
    return started


@pytest.fixture
def done(place):
    record = place / "out" / "pbft" / "run"
    record.mkdir(parents=True)
    (record / "DONE").touch()
    reading(*WORDS).keep([Path("out/pbft/run")])
    return record


def test_the_same_command_is_recognised(done, capsys):
    assert command(*WORDS).finished()
    assert capsys.readouterr().out == "already finished: out/pbft/run (--overwrite_output_dir runs it again)\n"
    (note,) = (done.parents[1] / ".finished").iterdir()
    assert json.loads(note.read_text()).keys() == {"records", "files"}  # no word of the command: it may be a secret


CHANGES = {
    "another word": lambda: [*WORDS, "--bf16"],
    "another order": lambda: [*WORDS[2:], *WORDS[:2]],
    "to be done again": lambda: [*WORDS, "--overwrite_output_dir"],
    "data": lambda: Path("data/glue/rte/train.csv").write_text("[]"),  # of the same size
    "a file that is taken before another": lambda: Path("data/glue/rte/train.parquet").touch(),
    "a model": lambda: Path("model/config.json").touch(),
    "a model's base": lambda: os.utime("base/w.safetensors", (0, 0)),
    "a file in a list": lambda: Path("two.txt").write_text("[]"),
    "demonstrations": lambda: Path("shots.csv").unlink(),
    "DeepSpeed's config": lambda: Path("ds.json").write_text("[]"),
    "a module that a metric imports": lambda: Path("other.py").write_text("1"),
    "a run that is not finished": lambda: Path("out/pbft/run/DONE").unlink(),
    "a run that is gone": lambda: shutil.rmtree("out/pbft"),
    "a broken note": lambda: next(Path("out/.finished").iterdir()).write_text("[]"),
    "half a note": lambda: next(Path("out/.finished").iterdir()).write_text('{"rec'),
    "a folder that cannot be looked at": lambda: Path("data/loop").symlink_to("loop"),
    "another variable": lambda: os.environ.__setitem__("LLMFT_DATA_DIR", "base"),
    "another cache of the hub": lambda: os.environ.__setitem__("HF_HOME", "base"),
    "another home": lambda: os.environ.__setitem__("HOME", "base"),
    "several processes": lambda: os.environ.__setitem__("WORLD_SIZE", "2"),
    "a device more": lambda: os.environ.__setitem__("CUDA_VISIBLE_DEVICES", "0,1"),
    "a device more of Slurm": lambda: os.environ.__setitem__("SLURM_JOB_GPUS", "0,1"),
    "another folder": lambda: os.chdir("data"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_doubt_goes_the_long_way(done, monkeypatch, change):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    words = CHANGES[change]()
    assert not command(*(words if isinstance(words, list) else WORDS)).finished()


def test_another_script_or_code_goes_the_long_way(done, monkeypatch):
    assert not command(*WORDS, script="ft.py").finished()
    original = Path.stat
    monkeypatch.setattr(Path, "stat", lambda p, **k: original(ROOT / "ft.py", **k) if p.name == "losses.py" else original(p, **k))
    assert not command(*WORDS).finished()


@pytest.mark.parametrize("change", ["gpu", "output"])
def test_what_changes_no_result_changes_nothing(done, monkeypatch, change):
    if change == "gpu":
        for gpu in ("3", "5"):  # each task of a job array has another one
            for name in (
                "CUDA_VISIBLE_DEVICES",
                "ROCR_VISIBLE_DEVICES",
                "GPU_DEVICE_ORDINAL",
                "SLURM_JOB_GPUS",
                "SLURM_STEP_GPUS",
            ):
                monkeypatch.setenv(name, gpu)
            if gpu == "3":
                reading(*WORDS).keep([Path("out/pbft/run")])
    else:
        (done.parent / "other run").mkdir()
    assert command(*WORDS).finished()


def test_a_change_while_the_command_runs_is_not_taken_for_what_it_read(done):
    running = reading(*WORDS)
    Path("data/glue/rte/train.csv").write_text("[1]")
    running.keep([Path("out/pbft/run")])
    assert not command(*WORDS).finished()


def test_texts_are_no_paths(done):
    words = [*WORDS, "--pattern", "{text1} . , / ?", "--task_description", "x" * 5000]
    reading(*words).keep([Path("out/pbft/run")])
    assert command(*words).finished()


def test_the_default_folder_is_the_real_one():
    assert RunArguments.__dataclass_fields__["output_dir"].default == OUTPUT_DIR


def test_a_model_that_has_moved_on_the_hub_goes_the_long_way(done, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    words = ("--task", "rte", "--output_dir", "out")
    started = command(*words)
    started.reads(["facebook/opt-125m"])  # the task's default, which no word names
    started.keep([Path("out/pbft/run")])
    assert command(*words).finished()
    refs = tmp_path / "hub" / "models--facebook--opt-125m" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("0" * 40)
    assert not command(*words).finished()


def test_adapters_that_are_each_others_base_are_an_error_of_one_line(place, monkeypatch):
    for name, base in {"one": "two", "two": "one"}.items():
        Path(name).mkdir()
        Path(name, "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    monkeypatch.setattr(sys, "argv", "eval.py --task toy --model_name_or_path one --use_cpu".split())
    process_command.cache_clear()
    with pytest.raises(InputError, match=r"^--model_name_or_path one: is an adapter whose base is itself"):
        MAIN["eval.py"](None)
    process_command.cache_clear()


@pytest.mark.parametrize("more", ["", "--push_to_hub"])
def test_a_command_that_pushes_leaves_no_note(place, monkeypatch, more):
    monkeypatch.setattr(sys, "argv", f"ft.py --task toy --use_cpu {more}".split())
    process_command.cache_clear()
    with patch.dict(os.environ):
        prepare("pbft", fine_tune.GROUPS, None, "")
    assert (process_command().note is None) == bool(more)
    process_command.cache_clear()


@pytest.mark.parametrize("more", ["", "--overwrite_output_dir", "--overwrite_output_dir false"])
def test_a_run_notes_what_it_reads_unless_there_is_work_left(place, monkeypatch, more):
    words = f"--task toy --num_shots 4 --max_eval_samples 4 --use_cpu --output_dir out {more}".split()
    monkeypatch.setattr(sys, "argv", ["eval.py", *words])
    process_command.cache_clear()
    with patch.dict(os.environ):  # a start sets variables that another one does not begin with
        process_command().keep(MAIN["eval.py"](None))
    process_command.cache_clear()
    assert process_command().finished() == (more != "--overwrite_output_dir")
    process_command.cache_clear()


@pytest.mark.parametrize("script", ["eval.py", "ft.py", "distill.py"])
def test_nothing_heavy_is_imported_for_it(done, tmp_path, script):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = "from llmft.runs.finished import process_command; from pathlib import Path"
    code += "; process_command().keep([Path('out/pbft/run')])"
    noting = f"import sys; sys.argv = {[str(ROOT / script), *WORDS]!r}; {code}"
    subprocess.run([sys.executable, "-c", noting], check=True, env=environment, timeout=300)
    started = [sys.executable, "-X", "importtime", str(ROOT / script), *WORDS]
    again = subprocess.run(started, capture_output=True, text=True, check=True, env=environment, timeout=300)
    assert again.stdout.startswith("already finished: out/pbft/run")
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in again.stderr.splitlines() if "|" in line}
    assert not imported & {"torch", "transformers", "numpy", "safetensors", "psutil", "pandas"}
