"""Pretrains small transformers on few or many linear regression tasks, one model for each size of the pool of tasks:

    python -m llmft.worlds.regression.pretrain --num_pretraining_tasks 4 16 64 256 1024 0 --steps 2000 4000 --seeds 0 1

Each budget and seed is a run with a record of its own, in `<output_dir>/pretrain/regression/`; `measure` makes tables of them.
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
from llmft.runs.launch import this_process
from llmft.runs.record import RunRecord
from llmft.runs.signals import Ended, end_at_once, on_sigterm
from llmft.runs.store import whole_file
from llmft.worlds.pretraining import progress
from llmft.worlds.regression.evaluation import PRETRAIN, TASK_SETS, TRUE, Comparison, evaluate
from llmft.worlds.regression.pretrained import WEIGHTS
from llmft.worlds.regression.recipe import VERSION, RegressionRecipe, add_recipe_flags, pool_name, recipes_of
from llmft.worlds.regression.running import doing, gathered, of_first_rank, run_command, use_device
from llmft.worlds.regression.training import EnsembleTraining

CURVE_SEQUENCES = 512
"""Of each set of tasks, for a point of the curves over steps."""
HEADLINE = {"name": "distance", "higher_is_better": False}


def pretrain_ensemble(recipe: RegressionRecipe, arguments: argparse.Namespace, device: torch.device) -> Path:
    """Do one run, or what is left of it, and write its record.

    Returns:
        Its folder.
    """
    settings = {**asdict(recipe), "version": VERSION, "device": device.type, "compile": arguments.compile}
    settings["ranks"] = this_process().world_size  # sums over ranks have last bits of their own
    where = ("pretrain", "regression", recipe.model_name)
    record = RunRecord.locate(arguments.output_dir, where, settings, this_process().is_first)
    record.overwrite = arguments.overwrite_output_dir
    with doing(record, arguments.output_dir) as meter:
        if meter is not None:
            record.write_config(config_of("pretrain", recipe, {"RegressionRecipe": asdict(recipe)}))
            with meter.phase("train"):
                training = EnsembleTraining(recipe, device, arguments.compile)
                resumed = train(training, record, meter, arguments.save_every)
            finish_pretraining(training, record, meter, resumed)
    return record.path


def config_of(method: str, recipe: RegressionRecipe, arguments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `config.json` says of a run, in the form that all runs have."""
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
    """Take the steps that are left, with a point of the curves every `eval_every` and a checkpoint every `save_every` of them.
    On SIGTERM a single process saves one more; several end at once.

    Returns:
        The checkpoint that the training went on from.
    """
    recipe, checkpoint, asked = training.recipe, of_first_rank(record.last_checkpoint), []
    if checkpoint is not None:
        costs = training.load(Path(checkpoint))
        meter.add(costs["phases"], costs["total"]["largest_process_bytes"])
    alone = this_process().world_size == 1
    with on_sigterm((lambda *_: asked.append(True)) if alone else end_at_once), progress(recipe.steps, training.step) as report:
        while training.step < recipe.steps:
            losses = training.take_step()
            step = training.step
            names = map(pool_name, recipe.num_pretraining_tasks)
            report(step, dict(zip(names, losses.tolist(), strict=True)) if step % 100 == 0 else {})
            if step % recipe.eval_every == 0 or step == recipe.steps:
                training.log.append(curve_point(training))
                check_finite(training)
            if record.writes and (asked or (save_every and step % save_every == 0)):
                training.save(record.checkpoints, meter.as_dict())
            if asked:
                raise Ended(f"ended by SIGTERM: checkpoint-{step} is saved, and the same command goes on from there")
    return checkpoint


def curve_point(training: EnsembleTraining) -> dict[str, Any]:
    """The distances at this step: name -> one value a member; and `loss`, the mean of all members' (eq. 1)."""
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
    """Checks the losses of the last point of the curves.

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
    """Put a member's results on a set of tasks into the record."""
    rows = {"idx": list(range(len(one.rows["score"]))), **one.rows}
    record.add("after", f"{task_set} {name}", one.metrics(task_set), rows)


def finish_record(record: RunRecord, meter: Meter, resumed: str | None) -> None:
    """Write the costs of all ranks, end the record, and say where it is."""
    costs = combine_ranks(gathered(meter.as_dict()))
    record.write_costs({**costs, "resumed_from": resumed, "loaded_by": None, "saved_by_teacher_cache": {}})
    record.finish()
    if record.writes:
        print(f"record: {record.path}")


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Where a run's record goes, and what it runs on."""
    parser.add_argument("--output_dir", default=OUTPUT_DIR, help="folder of the records (default: %(default)s)")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="do finished runs again")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")


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
    """The command: flags, then each run.

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
    run_command(main)
