"""Fifteen commands whose results must not change with the code, to the bit: metrics, predictions and weights.

    python -m tests.pinned run RESULTS.json [--checkout FOLDER] [--only NAME ...]
    python -m tests.pinned compare BEFORE.json AFTER.json

`run` starts the commands of a checkout (this one, or a worktree of an older commit) and keeps what they gave; `compare` prints
a table and exits with 1 if anything differs. Both results must come from one machine: other processors round otherwise. Twelve
commands are of the embedded world; three want SmolLM2 (scripts/get_smollm2.sh) and the sample data ($LLMFT_DATA_DIR or
../shared/data), and are left out with a note where these are absent. Rates and epochs stand on each line, so that a change of
defaults changes nothing here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct"
DATA = Path(os.environ.get("LLMFT_DATA_DIR", ROOT / ".." / "shared" / "data")).resolve()
SEEDS = "--seed 1 --data_seed 1 --use_cpu"
TOY = f"--task toy --max_eval_samples 100 {SEEDS}"
SHOTS = f"{TOY} --num_shots 16 --max_train_samples 64 --per_device_train_batch_size 16 --num_train_epochs 2"
TUNE = f"{TOY} --max_train_samples 16 --per_device_train_batch_size 8 --num_train_epochs 4"
REAL = f"--data_dir {DATA} --model_name_or_path {SMOLLM2} --max_eval_samples 16 {SEEDS}"
COMMANDS = {
    "icl": f"eval.py {TOY} --num_shots 16",
    "pbft": f"ft.py {TUNE} --learning_rate 1e-3",
    "lora": f"ft.py {TUNE} --learning_rate 3e-3 --use_adapter",
    "ia3": f"ft.py {TUNE} --learning_rate 1e-2 --use_adapter --adapter_type ia3",
    "soft-prompt": f"ft.py {TUNE} --learning_rate 1e-2 --use_soft_prompt --num_soft_prompt_tokens 10",
    "vanilla": f"ft.py {TUNE} --learning_rate 1e-3 --method vanilla",
    "mean": f"distill.py {SHOTS} --learning_rate 1e-3 --num_contexts 4",
    "cycle": f"distill.py {SHOTS} --learning_rate 1e-3 --num_contexts 4 --context_schedule cycle",
    "online-lora": f"distill.py {SHOTS} --learning_rate 3e-3 --use_adapter --teacher_mode online",
    "topk": f"distill.py {SHOTS} --learning_rate 1e-3 --support topk --topk 20 --divergence reverse --temperature 2",
    "multi-token": f"distill.py {SHOTS} --learning_rate 1e-3 --multi_token_labels --target_tokens Yes_Yes,No",
    "cartridge": f"distill.py {SHOTS} --learning_rate 3e-3 --use_cartridge",
    "sst2-lora": f"distill.py --task sst2 {REAL} --num_shots 4 --max_train_samples 8 --per_device_train_batch_size 4 "
    "--num_train_epochs 1 --learning_rate 5e-4 --use_adapter",
    "rte-icl": f"eval.py --task rte {REAL} --num_shots 4",
    "cola-ft": f"ft.py --task cola {REAL} --max_train_samples 8 --per_device_train_batch_size 4 --num_train_epochs 1 "
    "--learning_rate 1e-5",
}
LABEL_COLUMN = "label"
"""Name of the column of right answers in records before version 5; later ones call it `target`."""


def run(checkout: Path, names: Sequence[str]) -> dict[str, Any]:
    """Run the commands in `checkout` in sequence: name -> results."""
    results = {}
    variables = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    variables |= {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    for name in names:
        if str(SMOLLM2) in COMMANDS[name] and not (SMOLLM2.is_dir() and DATA.is_dir()):
            print(f"{name}: left out, there is no {SMOLLM2} or no {DATA}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            words = [word.replace("Yes_Yes", "Yes Yes") for word in COMMANDS[name].split()]
            begun = time.monotonic()
            subprocess.run(
                [sys.executable, *words, "--output_dir", folder],
                cwd=checkout,
                env=variables,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (done,) = Path(folder).rglob("DONE")
            results[name] = outcome(done.parent)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return results


def outcome(record: Path) -> dict[str, Any]:
    """Metrics of a finished run, a hash of its predictions for each stage and set, and one of each file of weights."""
    stages = json.loads((record / "metrics.json").read_text(encoding="utf-8"))["stages"]
    predictions = pd.read_parquet(record / "predictions.parquet").rename(columns={LABEL_COLUMN: "target"})
    columns = ["idx", "target", "prediction", "label_logprobs", "token_logprobs"]
    hashes = {}
    for (stage, set_name), rows in predictions.groupby(["stage", "set"], sort=False):
        values = [[_plain(value) for value in row] for row in rows[columns].itertuples(index=False)]
        hashes[f"{stage} {set_name}"] = _sha256(json.dumps(values).encode())
    return {
        "metrics": stages,
        "predictions": hashes,
        "weights": {f.parent.name: weights(f) for f in record.rglob("*.safetensors")},
    }


def _plain(value: Any) -> Any:
    """A cell as JSON; floats are written so that different bits give different texts."""
    return value.tolist() if hasattr(value, "tolist") else value


def weights(file: Path) -> str:
    """Hash of the tensors in a safetensors file, by name."""
    digest = hashlib.sha256()
    with safe_open(file, framework="pt") as tensors:
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name).contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def compare(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Print a row for each command; returns whether everything in `before` is the same in `after`."""
    alike = True
    print(f"{'command':12} {'metrics':>9} {'predictions':>12} {'weights':>9}   first difference")
    for name, old in before.items():
        cells, first = [], ""
        for part in ("metrics", "predictions", "weights"):
            differences = list(_differences(old[part], after.get(name, {}).get(part), part))
            cells.append("equal" if not differences else f"{len(differences)} differ")
            first = first or next(iter(differences), "")
        alike &= not first
        print(f"{name:12} {cells[0]:>9} {cells[1]:>12} {cells[2]:>9}   {first}")
    return alike


def _differences(old: Any, new: Any, place: str) -> Iterator[str]:
    """Paths at which `new` differs from `old`; what is only in `new` is not a difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            yield from _differences(value, new.get(key), f"{place}/{key}")
    elif old != new:
        yield f"{place}: {old} -> {new}"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("run")
    start.add_argument("results", type=Path)
    start.add_argument("--checkout", type=Path, default=ROOT)
    start.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    two = commands.add_parser("compare")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        given.results.write_text(json.dumps(run(given.checkout.resolve(), given.only), indent=1), encoding="utf-8")
        return 0
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in (given.before, given.after))
    return 0 if compare(before, after) else 1


if __name__ == "__main__":
    sys.exit(main())
