"""From the command line to help, to an error, and to the first answers: whole processes, as a user starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import alternate, ratio
from benchmarks.results import plain_row
from benchmarks.world import World

ROOT = Path(__file__).parents[1]
BARE_HELP = "from transformers import HfArgumentParser, TrainingArguments; HfArgumentParser(TrainingArguments).parse_args()"
BARE_ANSWER = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
with torch.no_grad():
    model(**tokenizer(["One question ?", "Some other ?"], return_tensors="pt", padding=True))
"""


def measure(world: World) -> dict[str, Any]:
    """Seconds from start to end of processes."""
    folder = world.model_folder()
    no_weights = world.folder / "no-weights"  # a run that tried to load this model would end with another error
    no_weights.mkdir(exist_ok=True)
    (no_weights / "config.json").write_text((folder / "config.json").read_text())
    evaluate = ["eval.py", "--task", "rte", "--eval_task_name", "none", "--data_dir", str(world.data_dir), "--use_cpu"]
    evaluate += ["--output_dir", str(world.folder / "runs")]
    wrong_flag, missing = ["--num_shotz", "16"], ["--sample_indices_file", "missing.csv"]
    errors: dict[str, tuple[int, str]] = {}

    def failing(name: str, arguments: Sequence[str]) -> Any:
        return lambda: errors.__setitem__(name, _run([*evaluate, "--model_name_or_path", str(no_weights), *arguments]))

    first = [*evaluate, "--model_name_or_path", str(folder), "--num_shots", "0", "--max_eval_samples", "2"]
    arms = {
        "help": lambda: _succeed(["distill.py", "--help"]),
        "bare help": lambda: _succeed(["-c", BARE_HELP, "--help"]),
        "wrong flag": failing("wrong flag", wrong_flag),
        "missing file": failing("missing file", missing),
        "first batch": lambda: _succeed([*first, "--overwrite_output_dir", "true"]),
        "bare first batch": lambda: _succeed(["-c", BARE_ANSWER, str(folder)]),
    }
    _succeed(["-c", BARE_HELP, "--help"])  # files get into the page cache
    times = alternate(arms, world.turns + 2)
    bare = times["bare help"].median
    rows = [
        plain_row("start-up", name, "s", times[arm].median, floor, of)
        for name, arm, floor, of in (
            ("python distill.py --help", "help", bare, "a bare HfArgumentParser(TrainingArguments)"),
            ("a wrong flag is reported", "wrong flag", bare, "a bare HfArgumentParser(TrainingArguments)"),
            ("a missing file is reported", "missing file", bare, "a bare HfArgumentParser(TrainingArguments)"),
            (
                "eval.py on two rows, with its record",
                "first batch",
                times["bare first batch"].median,
                "a bare script that answers",
            ),
        )
    ]
    named = {"wrong flag": wrong_flag[0], "missing file": missing[0]}
    reported = all(code == 2 and named[name] in text and len(text.splitlines()) == 1 for name, (code, text) in errors.items())
    values = {
        "wall: help over a bare parser": ratio(times["help"].wall, times["bare help"].wall),
        "cpu: help over a bare parser": ratio(times["help"].cpu, times["bare help"].cpu),
        "errors before any model is loaded": reported,
    }
    return {"rows": rows, "values": values, "times": {name: found.as_dict() for name, found in times.items()}}


def _run(arguments: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, "\n".join(lines)


def _succeed(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
