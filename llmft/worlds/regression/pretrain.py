"""Pretrains small transformers on few or many linear regression tasks, one model for each pool size:

    python -m llmft.worlds.regression.pretrain --num_pretraining_tasks 4 16 64 256 1024 0 --steps 2000 4000 --seeds 0 1

Each budget and seed is a run with its own record in `<output_dir>/pretrain/regression/`; `measure` makes tables of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from llmft.cost.meter import Meter, process_meter
from llmft.errors import InputError

if __name__ == "__main__":
    process_meter().open()  # before what takes long to import

import torch
from safetensors.torch import save

from llmft.cost.phases import combine_ranks
from llmft.runs.finished import OUTPUT_DIR
from llmft.runs.launch import join_launch, this_process
from llmft.runs.program import oom_as_input_error, run_main
from llmft.runs.ranks import all_gather, from_rank_0
from llmft.runs.record import RunRecord
from llmft.runs.session import session
from llmft.runs.signals import Preemption
from llmft.runs.store import whole_file
from llmft.worlds.pretraining import progress
from llmft.worlds.regression.evaluation import PRETRAIN, TASK_SETS, TRUE, Comparison, evaluate
from llmft.worlds.regression.pretrained import WEIGHTS
from llmft.worlds.regression.recipe import VERSION, RegressionRecipe, add_recipe_flags, pool_name, recipes_of
from llmft.worlds.regression.training import EnsembleTraining

CURVE_SEQUENCES = 512
"""Sequences of each set of tasks for one point of the curves over steps."""
NO_ROOM = "--batch_size: the device has no room for such batches; lower it, or train fewer models side by side"
HEADLINE = {"name": "distance", "higher_is_better": False}


def pretrain_ensemble(recipe: RegressionRecipe, arguments: argparse.Namespace, device: torch.device) -> Path:
    """Do one run, or what remains of it, and write its record.

    Returns:
        Its folder.
    """
    settings = {**asdict(recipe), "version": VERSION, "device": device.type, "compile": arguments.compile}
    settings["ranks"] = this_process().world_size  # the last bits of sums over ranks depend on their number
    where = ("pretrain", "regression", recipe.model_name)
    record = RunRecord.locate(arguments.output_dir, where, settings, this_process().is_first)
    record.overwrite = arguments.overwrite_output_dir
    with oom_as_input_error(NO_ROOM), session(record, arguments.output_dir) as meter:
        if meter is not None:
            record.write_config(config_of("pretrain", recipe, {"RegressionRecipe": asdict(recipe)}))
            with meter.phase("train"):
                training = EnsembleTraining(recipe, device, arguments.compile)
                resumed = train(training, record, meter, arguments.save_every)
            finish_pretraining(training, record, meter, resumed)
    return record.path


def config_of(method: str, recipe: RegressionRecipe, arguments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `config.json` says about a run, in the form that all runs share."""
    return {
        "method": method,
        "task": "regression",
        "task_version": VERSION,
        "model": recipe.model_name,
        "setting": recipe.setting,
        "given": {name: value for name, value in recipe.given.items() if name != "seed"},
        "arguments": {**arguments, "seeds": {"seed": recipe.seed, "data_seed": recipe.seed}},
        "data_fingerprints": {},
        "draws": {"demonstrations": [], "train_rows": [], "eval_rows": {}},
    }


def train(training: EnsembleTraining, record: RunRecord, meter: Meter, save_every: int) -> str | None:
    """Take the remaining steps, with a point of the curves every `eval_every` and a checkpoint every `save_every` of them. On
    SIGTERM or Ctrl-C, save one more checkpoint and end the process.

    Returns:
        The checkpoint that training resumed from.
    """
    recipe, checkpoint, preemption = training.recipe, from_rank_0(record.last_checkpoint), Preemption()
    if checkpoint is not None:
        costs = training.load(Path(checkpoint))
        meter.add(costs["phases"], costs["total"]["largest_process_bytes"])
    with preemption.listening(), progress(recipe.steps, training.step) as report:
        while training.step < recipe.steps:
            losses = training.take_step()
            step = training.step
            names = map(pool_name, recipe.num_pretraining_tasks)
            report(step, dict(zip(names, losses.tolist(), strict=True)) if step % 100 == 0 else {})
            if step % recipe.eval_every == 0 or step == recipe.steps:
                training.log.append(curve_point(training))
                check_finite(training)
            asked = preemption.asks_to_save(training.device, last=step == recipe.steps)
            if record.writes and (asked or (save_every and step % save_every == 0)):
                training.save(record.checkpoints, meter.as_dict())
            if asked:
                preemption.end_after(f"checkpoint-{step}")
    return checkpoint


def curve_point(training: EnsembleTraining) -> dict[str, Any]:
    """The distances at this step, name -> one value for each member, and `loss`, the mean over all members (eq. 1)."""
    recipe = training.recipe
    compared = evaluate(training.model, training.pools, recipe.problem, min(CURVE_SEQUENCES, recipe.eval_sequences))
    of_pools, of_fresh = ([one.metrics(name) for one in compared[name]] for name in TASK_SETS)
    return {
        "step": training.step,
        "loss": sum(one["loss"] for one in of_pools) / len(of_pools),
        "losses": [one["loss"] for one in of_pools],
        "pretrain_to_dmmse": [one["to_dmmse"] for one in of_pools],
        "pretrain_to_ridge": [one["to_ridge"] for one in of_pools],
        "true_to_ridge": [one["to_ridge"] for one in of_fresh],
    }


def check_finite(training: EnsembleTraining) -> None:
    """Check the losses of the last point of the curves.

    Raises:
        InputError: one is NaN or infinite.
    """
    recipe, point = training.recipe, training.log[-1]
    lost = [
        pool_name(size) for size, loss in zip(recipe.num_pretraining_tasks, point["losses"], strict=True) if not isfinite(loss)
    ]
    if lost:
        rates = f"--learning_rate {recipe.learning_rate}"
        if recipe.optimizer == "muon":
            rates += f" --muon_rate {recipe.muon_rate}"
        lower = "one or both" if recipe.optimizer == "muon" else "it"
        raise InputError(f"{rates}: the loss of {', '.join(lost)} is not finite at step {point['step']}; lower {lower}")


def finish_pretraining(training: EnsembleTraining, record: RunRecord, meter: Meter, resumed: str | None) -> None:
    """Evaluate, and write weights and record."""
    recipe = training.recipe
    names = [pool_name(size) for size in recipe.num_pretraining_tasks]
    by_position = {}
    for task_set in TASK_SETS:
        with meter.phase("evaluate", "after", task_set):
            compared = evaluate(training.model, training.pools, recipe.problem, recipe.eval_sequences, [task_set])[task_set]
        for name, one in zip(names, compared, strict=True):
            add_comparison(record, task_set, name, one)
            by_position[f"{task_set} {name}"] = {key: values.tolist() for key, values in one.by_position.items()}
    with meter.phase("record"):
        if record.writes:
            with whole_file(record.path / WEIGHTS) as aside:
                aside.write_bytes(save(training.model.state_dict()))
        sets = {"in_domain": [f"{PRETRAIN} {name}" for name in names], "out_of_domain": [f"{TRUE} {name}" for name in names]}
        trained = sum(parameter.numel() for parameter in training.model.parameters()) // len(names)
        metrics = {"headline": HEADLINE, "sets": sets, "tokens_per_query": {}, "by_position": by_position}
        record.write_results({**metrics, "weights": {"model": trained, "trainable": trained}}, training.log)
    finish_record(record, meter, resumed)


def add_comparison(record: RunRecord, task_set: str, name: str, one: Comparison) -> None:
    """Add a member's results on a set of tasks to the record."""
    rows = {"idx": list(range(len(one.rows["score"]))), **one.rows}
    record.add("after", f"{task_set} {name}", one.metrics(task_set), rows)


def finish_record(record: RunRecord, meter: Meter, resumed: str | None) -> None:
    """Write the costs of all ranks, end the record, and say where it is."""
    costs = combine_ranks(all_gather(meter.as_dict()))
    record.write_costs({**costs, "resumed_from": resumed, "loaded_by": None, "saved_by_teacher_cache": {}})
    record.finish()
    if record.writes:
        print(f"record: {record.path}")


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for where a run's record goes, and what it runs on."""
    parser.add_argument("--output_dir", default=OUTPUT_DIR, help="folder of the records (default: %(default)s)")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="do finished runs again")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")


def use_device(name: str) -> torch.device:
    """The device that this process computes on, after it has joined the other ranks of its launch.

    Raises:
        InputError: there is no such device.
    """
    torch.set_num_threads(1)  # matrices this small gain nothing from more threads, and one gives the same bits every time
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU; use --device cpu")
    join_launch(alone=False)
    process = this_process()
    device = torch.device(name, process.local_rank) if name == "cuda" else torch.device(name)
    if process.world_size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
    return device


def pretraining_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m llmft.worlds.regression.pretrain", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add_recipe_flags(parser)
    add_run_flags(parser)
    parser.add_argument("--compile", action="store_true", help="have torch compile the model")
    parser.add_argument("--save_every", type=int, default=1000, help="steps between checkpoints; 0: none (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Read the flags and do each run.

    Raises:
        InputError: a flag cannot be used.
    """
    arguments = pretraining_parser().parse_args(argv)
    recipes = list(recipes_of(arguments))
    ranks = this_process().world_size
    if arguments.batch_size % ranks:
        raise InputError(f"--batch_size {arguments.batch_size}: is no multiple of the {ranks} processes; choose another")
    if arguments.save_every < 0:
        raise InputError(f"--save_every {arguments.save_every}: give 0 or more")
    device = use_device(arguments.device)
    for recipe in recipes:
        pretrain_ensemble(recipe, arguments, device)


if __name__ == "__main__":
    run_main(main)
