"""Bad input: one line that names the flag, exit status 2, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmft.errors import InputError
from tests.pipelines.conftest import MAIN

ROOT = Path(__file__).parents[2]

CASES = [
    ("eval.py", ["--no_such_flag"], "--no_such_flag: no such argument; see --help"),
    ("eval.py", ["--num_shot", "4"], "--num_shot: no such argument; did you mean --num_shots?"),
    ("eval.py", ["--model_name_or_path", "no/hub-here"], "--model_name_or_path no/hub-here: cannot be loaded"),
    ("eval.py", ["--task_variant", "entailmint"], "--task_variant"),
    ("eval.py", ["--task", "rte", "--task_variant", "flipped"], "--task_variant flipped: task rte has no variants"),
    ("eval.py", ["--task", "qqp"], "--paws_qqp_file"),
    ("eval.py", ["--task", "qqp", "--paws_qqp_file", "/nowhere.tsv"], "--paws_qqp_file /nowhere.tsv: no such file"),
    ("eval.py", ["--task", "rte", "--hans_subcase", "le_nothing"], "--hans_subcase le_nothing"),
    ("ft.py", ["--max_train_samples", "99999"], "--max_train_samples 99999"),
    ("ft.py", ["--use_cartridge"], "--cartridge_tokens 0: there is no context to take the length from; give a number"),
    ("ft.py", ["--use_cartridge", "--cartridge_tokens", "1"], "--cartridge_frozen_tokens 1: the cartridge has 1 tokens; leave 1"),
    (
        "ft.py",
        ["--use_soft_prompt", "--num_soft_prompt_tokens", "445"],
        "--num_soft_prompt_tokens 445: with them the longest prompt",
    ),
    ("distill.py", ["--use_soft_prompt", "--pattern", "</s></s> {text1}"], "2 placeholders for --num_soft_prompt_tokens 20"),
    ("eval.py", ["--gguf_file", "none.gguf"], "--model_name_or_path toy: the folder has no none.gguf"),
    ("ft.py", ["--eval_on_start"], "--eval_on_start True: not supported"),
    ("ft.py", ["--eval_strategy", "often"], "invalid choice: 'often' (choose from 'no', 'epoch', 'steps')"),
    ("ft.py", ["--eval_strategy", "steps"], "--eval_strategy steps: needs --eval_steps"),
    ("ft.py", ["--loss", "hinge"], "argument --loss: invalid choice: 'hinge'"),
    ("distill.py", ["--loss", "t-few"], "--loss: no such argument"),
    ("ft.py", ["--label_smoothing_factor", "0.1"], "--label_smoothing_factor 0.1: not supported"),
    ("ft.py", ["--neftune_noise_alpha", "5"], "--neftune_noise_alpha 5.0: not supported; leave it at None"),
    (
        "ft.py",
        ["--average_tokens_across_devices", "False"],
        "--average_tokens_across_devices False: not supported; leave it at True",
    ),
    ("ft.py", ["--use_cache"], "--use_cache True: not supported; leave it at False"),
    ("ft.py", ["--lr_scheduler_type", "zigzag"], "zigzag"),
    ("ft.py", ["--train_on", "demonstrations", "--num_shots", "0"], "--num_shots 0"),
    ("eval.py", ["--eval_strategy", "epoch"], "--eval_strategy epoch: eval.py does not train"),
    ("eval.py", ["--hub_model_id", "me/model"], "--hub_model_id me/model: eval.py does not train; leave it out"),
    ("eval.py", ["--model_name_or_path", "no/hub-here", "--num_data_seeds", "2"], "2 of 2 data seeds failed: --data_seed 0"),
    ("eval.py", ["--sample_indices_file", "/nowhere.csv"], "--sample_indices_file /nowhere.csv: no such file"),
    ("eval.py", ["--pattern_name", "gpt-3"], "--pattern_name gpt-3: toy has the patterns minimal"),
    ("distill.py", ["--max_seq_length", "400"], "--max_seq_length 400: would cut queries after a context, but not without one"),
    ("eval.py", ["--max_seq_length", "20"], "more than --max_seq_length of 20"),
    ("ft.py", ["--multi_token_labels"], "--multi_token_labels: works only in eval.py and distill.py"),
    ("distill.py", ["--context", "songs"], "--context songs: choose from demonstrations"),
    ("distill.py", ["--context", "file"], "--context file: name the file with --context_file"),
    ("distill.py", ["--context", "file", "--context_file", "/no.txt"], "--context_file /no.txt: cannot be read"),
    (
        "distill.py",
        ["--context", "instruction", "--instruction", "instrutcion.txt"],
        "looks like a file name, but there is no such file",
    ),
    ("eval.py", ["--task", "notes", "--num_shots", "2", "--no_balanced"], "--balanced False: is for answers that are labels"),
    ("distill.py", ["--num_contexts", "600", "--num_shots", "16"], "use up the rows"),
    (
        "distill.py",
        ["--student_pattern", "{text1} ?", "--support", "vocab"],
        "--support vocab: teacher and student have different",
    ),
    ("distill.py", ["--task", "notes", "--multi_token_labels"], "True: is for answers that are labels, but those to notes"),
    (
        "distill.py",
        ["--multi_token_labels", "--support", "topk"],
        "--multi_token_labels: cannot be combined with --support topk",
    ),
    ("distill.py", ["--query_file", "/nowhere.csv"], "--query_file /nowhere.csv"),
    ("distill.py", ["--retention_tasks", "toy"], "--retention_tasks toy: toy is the run's own task"),
    ("distill.py", ["--student_pattern", "?"], "--student_pattern '?'"),
    ("distill.py", ["--teacher_target_tokens", "Yes,Nope"], "--teacher_target_tokens 'Yes,Nope'"),
    ("distill.py", ["--task", "notes", "--student_target_tokens", "a,b"], "--student_target_tokens a,b: is for answers that are"),
    (
        "distill.py",
        ["--teacher_model_revision", "step1000"],
        "--teacher_model_revision step1000: has no effect without --teacher_model_name_or_path",
    ),
    ("eval.py", ["--accelerator_config", '{"foo": 1}'], "--accelerator_config: 'foo' is not one of its entries, split_batches"),
    (
        "ft.py",
        ["--gradient_checkpointing", "--gradient_checkpointing_kwargs", '{"foo": 1}'],
        "--gradient_checkpointing_kwargs: 'foo' is not one of its entries, use_reentrant",
    ),
]


@pytest.mark.parametrize(
    ("script", "arguments", "says"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else None
)
def test_one_line_and_nothing_left_behind(tmp_path, monkeypatch, script, arguments, says):
    monkeypatch.chdir(tmp_path)
    task = [] if "--task" in arguments else ["--task", "toy"]
    with pytest.raises(InputError) as caught:
        MAIN[script]([*task, "--output_dir", str(tmp_path / "out"), "--use_cpu", *arguments])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_missing_and_damaged_files(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    call = [
        "--task",
        "sst2",
        "--model_name_or_path",
        "toy",
        "--data_dir",
        str(data),
        "--output_dir",
        str(tmp_path / "out"),
        "--use_cpu",
    ]
    with pytest.raises(InputError, match="no file glue/sst2/train"):
        MAIN["eval.py"](call)
    for split in ("train", "validation"):
        file = data / "glue" / "sst2" / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"PAR1 no parquet at all")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        MAIN["eval.py"](call)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", list(MAIN))
def test_the_scripts_exit_with_two_and_one_line(tmp_path, script):
    (tmp_path / "a.txt").write_text("a text")
    study = f"-m llmft.self_study --model_name_or_path toy --context_file {tmp_path}/a.txt --output_file {tmp_path}/out.jsonl"
    wrong = ["--runs", "no run"] if script == "compose" else ["--pattern", "no text"]
    command = {"self_study": study, "compose": "-m llmft.compose"}.get(script, f"{ROOT / script} --task toy").split()
    command = [sys.executable, *command, *wrong, "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    flag, value = wrong
    assert line.startswith((f"error: {flag} {value!r}", f"error: {flag} {value}: "))


def test_an_error_of_ours_keeps_its_traceback(tmp_path):
    code = "from llmft.runs.program import run_main\n"
    code += "def broken(): raise ZeroDivisionError('a fault of ours')\nrun_main(broken)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
