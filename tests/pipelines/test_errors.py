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
    ("eval.py", ["--task", "rtee"], "--task rtee: no such task"),
    ("eval.py", ["--data_dir", "/nowhere"], "--data_dir /nowhere: no such folder"),
    ("eval.py", ["--pattern", "no text ?"], "--pattern 'no text ?'"),
    ("eval.py", ["--pattern", "{text1} {text3} ?"], "--pattern '{text1} {text3} ?': unknown placeholder {text3}"),
    ("eval.py", ["--target_tokens", "Yes,Nope"], "--target_tokens 'Yes,Nope': 'Nope' is not one token"),
    ("eval.py", ["--target_tokens", "Yes,Yes"], "--target_tokens 'Yes,Yes': two labels have the same word"),
    ("eval.py", ["--target_tokens", "Yes"], "--target_tokens 'Yes': 1 words for 2 labels"),
    ("eval.py", ["--num_shots", "3"], "--num_shots 3: cannot be divided evenly"),
    ("eval.py", ["--num_shots", "100"], "--num_shots 100: the longest prompt has"),
    ("eval.py", ["--num_shots", "9000"], "--num_shots 9000: 4500 demonstrations of label 0"),
    ("eval.py", ["--num_shots", "many"], "argument --num_shots"),
    ("eval.py", ["--no_such_flag"], "--no_such_flag: no such argument; see --help"),
    ("eval.py", ["--num_shot", "4"], "--num_shot: no such argument; did you mean --num_shots?"),
    ("eval.py", ["--max_eval_samples", "0"], "--max_eval_samples 0"),
    ("eval.py", ["--model_name_or_path", "/nowhere/model"], "--model_name_or_path /nowhere/model: there is no such folder"),
    ("eval.py", ["--model_name_or_path", "no/hub-here"], "--model_name_or_path no/hub-here: cannot be loaded"),
    ("eval.py", ["--task_variant", "entailmint"], "--task_variant"),
    ("eval.py", ["--task", "rte", "--task_variant", "flipped"], "--task_variant flipped: task rte has no variants"),
    ("eval.py", ["--train_file", "/nowhere.csv"], "--task toy: cannot be combined with --train_file; drop one of them"),
    ("eval.py", ["--task", "sst2", "--eval_task_name", "hans"], "--eval_task_name hans: belongs to rte, mnli, mnli-original"),
    ("eval.py", ["--task", "qqp"], "--paws_qqp_file"),
    ("eval.py", ["--task", "qqp", "--paws_qqp_file", "/nowhere.tsv"], "--paws_qqp_file /nowhere.tsv: no such file"),
    ("eval.py", ["--task", "rte", "--hans_subcase", "le_nothing"], "--hans_subcase le_nothing"),
    ("eval.py", ["--per_device_eval_batch_size", "0"], "--per_device_eval_batch_size 0"),
    ("ft.py", ["--max_train_samples", "99999"], "--max_train_samples 99999"),
    ("ft.py", ["--adapter_dim", "4"], "--adapter_dim 4: has no effect without --use_adapter"),
    ("ft.py", ["--adapter_type", "ia3"], "--adapter_type ia3: has no effect without --use_adapter"),
    (
        "ft.py",
        ["--use_adapter", "--adapter_type", "ia3", "--adapter_dim", "4"],
        "--adapter_dim 4: has no effect without --use_adapter --adapter_type lora, parallel, parallel-attn or parallel-fc",
    ),
    ("ft.py", ["--use_adapter", "--adapter_type", "parallel", "--lora_alpha", "4"], "--lora_alpha 4: has no effect without"),
    ("ft.py", ["--use_adapter", "--lora_alpha", "-2"], "--lora_alpha -2: must be 1 or more, or -1 for a scale of 1"),
    ("ft.py", ["--max_steps", "-2"], "--max_steps -2: must be 1 or more, or -1 to use --num_train_epochs"),
    ("ft.py", ["--bitfit", "--head_only"], "--head_only True: cannot be combined with --bitfit (only one part can be trained)"),
    ("distill.py", ["--use_cartridge", "--num_contexts", "2"], "2 or more (it starts as the keys and values of one context)"),
    ("distill.py", ["--use_soft_prompt", "--use_adapter"], "--use_adapter True: cannot be combined with --use_soft_prompt (only"),
    ("ft.py", ["--bitfit", "--untie_embeddings"], "--untie_embeddings True: cannot be combined with --bitfit (it has no"),
    ("ft.py", ["--bitfit", "--freeze_embeddings"], "--freeze_embeddings True: cannot be combined with --bitfit (it has no"),
    ("ft.py", ["--use_soft_prompt", "--use_cartridge"], "--use_soft_prompt True: cannot be combined with --use_cartridge (only"),
    ("ft.py", ["--cartridge_tokens", "3"], "--cartridge_tokens 3: has no effect without --use_cartridge"),
    ("ft.py", ["--cartridge_frozen_tokens", "2"], "--cartridge_frozen_tokens 2: has no effect without --use_cartridge"),
    ("ft.py", ["--use_cartridge"], "--cartridge_tokens 0: there is no context to take the length from; give a number"),
    ("ft.py", ["--use_cartridge", "--cartridge_tokens", "-1"], "--cartridge_tokens -1: must be 0 or more"),
    ("ft.py", ["--use_cartridge", "--cartridge_tokens", "1"], "--cartridge_frozen_tokens 1: the cartridge has 1 tokens; leave 1"),
    *(
        (
            "ft.py",
            ["--use_cartridge", "--cartridge_tokens", "3", flag],
            f"{flag} True: cannot be combined with --use_cartridge (layers then read only their own",
        )
        for flag in ("--activation_checkpointing", "--gradient_checkpointing")
    ),
    ("ft.py", ["--num_soft_prompt_tokens", "3"], "--num_soft_prompt_tokens 3: has no effect without --use_soft_prompt"),
    ("ft.py", ["--use_soft_prompt", "--num_soft_prompt_tokens", "0"], "--num_soft_prompt_tokens 0: must be 1 or more"),
    (
        "ft.py",
        ["--use_soft_prompt", "--num_soft_prompt_tokens", "445"],
        "--num_soft_prompt_tokens 445: with them the longest prompt",
    ),
    ("distill.py", ["--use_soft_prompt", "--pattern", "</s></s> {text1}"], "2 placeholders for --num_soft_prompt_tokens 20"),
    ("ft.py", ["--classifier_type", "linear"], "--classifier_type linear: has no effect without --method vanilla"),
    (
        "ft.py",
        ["--method", "vanilla", "--target_tokens", "No,Yes"],
        "--target_tokens No,Yes: has no effect without --method pbft",
    ),
    ("ft.py", ["--method", "vanilla", "--untie_embeddings"], "--untie_embeddings True: has no effect without --method pbft"),
    ("eval.py", ["--gguf_file", "none.gguf"], "--model_name_or_path toy: the folder has no none.gguf"),
    ("ft.py", ["--train_on", "demonstrations", "--max_train_samples", "4"], "4: has no effect without --train_on train"),
    ("ft.py", ["--use_adapter", "--adapter_dim", "0"], "--adapter_dim 0"),
    ("ft.py", ["--eval_on_start"], "--eval_on_start True: not supported"),
    ("ft.py", ["--eval_strategy", "often"], "invalid choice: 'often' (choose from 'no', 'epoch', 'steps')"),
    ("ft.py", ["--eval_strategy", "steps"], "--eval_strategy steps: needs --eval_steps"),
    ("ft.py", ["--eval_strategy", "epoch", "--eval_steps", "5"], "--eval_steps 5.0: has no effect without --eval_strategy steps"),
    ("ft.py", ["--save_best_models"], "--save_best_models True: has no effect without --eval_strategy epoch or steps"),
    ("ft.py", ["--eval_delay", "2"], "--eval_delay 2.0: has no effect without --eval_strategy epoch or steps"),
    ("ft.py", ["--loss", "hinge"], "argument --loss: invalid choice: 'hinge'"),
    ("ft.py", ["--loss", "t-few", "--target_tokens_logits_only"], "no effect without --method pbft --loss cross-entropy"),
    *(
        (
            "ft.py",
            ["--train_on", "document", *label],
            f"{says}: cannot be combined with --train_on document (documents have no labels",
        )
        for label, says in (
            (["--loss", "t-few"], "--loss t-few"),
            (["--method", "vanilla"], "--method vanilla"),
            (["--target_tokens_logits_only"], "--target_tokens_logits_only True"),
        )
    ),
    ("distill.py", ["--loss", "t-few"], "--loss: no such argument"),
    ("ft.py", ["--report_to", "carrier_pigeon"], "--report_to carrier_pigeon: no such service; use none, or any of wandb"),
    ("ft.py", ["--label_smoothing_factor", "0.1"], "--label_smoothing_factor 0.1: not supported"),
    ("ft.py", ["--neftune_noise_alpha", "5"], "--neftune_noise_alpha 5.0: not supported; leave it at None"),
    (
        "ft.py",
        ["--average_tokens_across_devices", "False"],
        "--average_tokens_across_devices False: not supported; leave it at True",
    ),
    ("ft.py", ["--use_cache"], "--use_cache True: not supported; leave it at False"),
    ("ft.py", ["--lr_scheduler_type", "zigzag"], "zigzag"),
    ("ft.py", ["--num_train_epochs", "0"], "--num_train_epochs 0"),
    ("ft.py", ["--train_on", "demonstrations", "--num_shots", "0"], "--num_shots 0"),
    ("ft.py", ["--num_shots", "4"], "--num_shots 4: has no effect without --train_on demonstrations"),
    ("distill.py", ["--num_shots", "0"], "--num_shots 0"),
    ("eval.py", ["--eval_strategy", "epoch"], "--eval_strategy epoch: eval.py does not train"),
    ("eval.py", ["--hub_model_id", "me/model"], "--hub_model_id me/model: eval.py does not train; leave it out"),
    ("eval.py", ["--model_name_or_path", "no/hub-here", "--num_data_seeds", "2"], "2 of 2 data seeds failed: --data_seed 0"),
    ("eval.py", ["--sample_indices_file", "/nowhere.csv"], "--sample_indices_file /nowhere.csv: no such file"),
    ("eval.py", ["--pattern_name", "gpt-3"], "--pattern_name gpt-3: toy has the patterns minimal"),
    (
        "eval.py",
        ["--pattern_name", "gpt-3", "--pattern", "{text1}"],
        "--pattern_name gpt-3: cannot be combined with --pattern; drop",
    ),
    ("eval.py", ["--max_seq_length", "0"], "--max_seq_length 0: must be 1 or more"),
    ("eval.py", ["--max_seq_length", "20"], "more than --max_seq_length of 20"),
    ("ft.py", ["--multi_token_labels"], "--multi_token_labels: works only in eval.py and distill.py"),
    ("distill.py", ["--context", "songs"], "--context songs: choose from demonstrations"),
    ("distill.py", ["--context", "file"], "--context file: name the file with --context_file"),
    ("distill.py", ["--context", "file", "--context_file", "/no.txt"], "--context_file /no.txt: cannot be read"),
    ("distill.py", ["--instruction", "x"], "--instruction x: has no effect without --context instruction"),
    (
        "distill.py",
        ["--context", "instruction", "--instruction", "instrutcion.txt"],
        "looks like a file name, but there is no such file",
    ),
    (
        "distill.py",
        ["--context", "instruction", "--num_shots", "4"],
        "--num_shots 4: has no effect without --context demonstrations",
    ),
    ("distill.py", ["--context", "label", "--calibrate"], "--context label (a content-free query has no label to show)"),
    ("distill.py", ["--context", "label", "--sample_indices_file", __file__], f"--sample_indices_file {__file__}: has no effect"),
    ("distill.py", ["--support", "topk", "--topk", "0"], "--topk 0: must be 1 or more"),
    ("distill.py", ["--topk", "9"], "--topk 9: has no effect without --support topk"),
    ("distill.py", ["--jsd_beta", "2", "--divergence", "jsd"], "--jsd_beta 2.0: must be above 0 and below 1; the ends are"),
    ("distill.py", ["--num_contexts", "0"], "--num_contexts 0"),
    ("distill.py", ["--num_contexts", "600", "--num_shots", "16"], "use up the rows"),
    ("distill.py", ["--context_schedule", "cycle"], "--context_schedule cycle: has no effect without --num_contexts 2"),
    ("distill.py", ["--targets", "hard", "--support", "vocab"], "--support vocab: has no effect without --targets soft"),
    (
        "distill.py",
        ["--student_pattern", "{text1} ?", "--support", "vocab"],
        "--support vocab: teacher and student have different",
    ),
    (
        "distill.py",
        ["--task", "notes", "--answers", "student", "--support", "vocab"],
        "--support vocab: cannot be combined with --answers student or mixed (teacher and student are compared on the student's",
    ),
    (
        "distill.py",
        ["--task", "notes", "--answers", "mixed", "--ce_weight", "1"],
        "--ce_weight 1.0: cannot be combined with --answers",
    ),
    (
        "distill.py",
        ["--task", "notes", "--support", "sampled", "--divergence", "reverse"],
        "--divergence reverse: cannot be combined with --support sampled (which is a cross-entropy",
    ),
    (
        "distill.py",
        ["--task", "notes", "--support", "sampled", "--teacher_mode", "online"],
        "--teacher_mode online: cannot be combined",
    ),
    ("distill.py", ["--task", "notes", "--multi_token_labels"], "True: is for answers that are labels, but those to notes"),
    (
        "distill.py",
        ["--multi_token_labels", "--ce_weight", "1"],
        "--multi_token_labels True: cannot be combined with --ce_weight (the",
    ),
    (
        "distill.py",
        ["--multi_token_labels", "--targets", "gold"],
        "True: cannot be combined with --targets hard or gold (which are",
    ),
    (
        "distill.py",
        ["--multi_token_labels", "--support", "topk"],
        "--multi_token_labels: cannot be combined with --support topk",
    ),
    ("distill.py", ["--query_file", "/nowhere.csv"], "--query_file /nowhere.csv"),
    ("distill.py", ["--retention_tasks", "toy"], "--retention_tasks toy: toy is the run's own task"),
    ("distill.py", ["--temperature", "0"], "--temperature 0.0"),
    ("distill.py", ["--student_pattern", "?"], "--student_pattern '?'"),
    ("distill.py", ["--teacher_target_tokens", "Yes,Nope"], "--teacher_target_tokens 'Yes,Nope'"),
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
