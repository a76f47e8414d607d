"""Distils contexts of a few examples into the weights of pretrained ensembles, which shows what a student takes over:

    python -m llmft.worlds.regression.distill --pretrained logfiles

The teacher is the trained model that reads the examples of one task before x, f(context, x). The student starts as the same
model, reads only x, and is trained towards the teacher's outputs on fresh x. Both predict a number, so the divergence is the
squared error: KL(N(f, s2) || N(g, s2)) = (f - g)^2 / (2 s2) for normal distributions of equal variance. The teacher and the
divergences of `llmft.distillation` are for distributions over tokens, which these models do not have.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmft.cost.meter import Meter, process_meter
from llmft.errors import InputError

if __name__ == "__main__":
    process_meter().open()  # before what takes long to import

import torch

from llmft.runs.launch import this_process
from llmft.runs.program import oom_as_input_error, run_main
from llmft.runs.record import RunRecord
from llmft.runs.session import session
from llmft.runs.store import short_hash
from llmft.worlds.regression.pretrain import NO_ROOM, add_run_flags, config_of, finish_record, use_device
from llmft.worlds.regression.pretrained import PretrainedRun, find_pretrained
from llmft.worlds.regression.recipe import VERSION, check_seed, pool_name
from llmft.worlds.regression.students import NEW, OF_POOL, DistillationRecipe, Outcome, distances_of, distill_contexts

KEPT = 256
"""Queries of each context whose predictions go into the record."""
COLUMNS = (
    "student_to_teacher", "student_to_dmmse", "student_to_ridge", "dmmse_to_ridge", "place", "error_student", "error_teacher",
    "error_dmmse", "error_ridge", "error_fit",
)  # fmt: skip


def distill_run(
    run: PretrainedRun, recipe: DistillationRecipe, arguments: argparse.Namespace, device: torch.device
) -> dict[str, dict[str, float]] | None:
    """Do one run and write its record.

    Returns:
        The rows of the table by pool; None where the run was finished before.
    """
    settings = {**asdict(recipe), "version": VERSION, "device": device.type, "pretrained": run.path.name}
    record = RunRecord.locate(arguments.output_dir, ("distill", "regression", run.recipe.model_name), settings, True)
    record.overwrite = arguments.overwrite_output_dir
    with oom_as_input_error(NO_ROOM), session(record, arguments.output_dir) as meter:
        if meter is None:
            return None
        groups = {"RegressionRecipe": asdict(run.recipe), "DistillationRecipe": {**asdict(recipe), "seed": None}}
        config = config_of("distill", run.recipe, groups)
        pretraining = {f"pretraining_{name}": value for name, value in config["given"].items()}
        config["given"] = pretraining | {name: value for name, value in recipe.given.items() if name != "seed"}
        config["setting"] = short_hash([run.recipe.setting, groups["DistillationRecipe"]])
        config["arguments"]["seeds"] = {"seed": run.recipe.seed, "data_seed": recipe.seed}
        record.write_config(config | {"pretrained": str(run.path)})
        outcome = distill_contexts(run, recipe, meter, device)
        check_outcome(outcome, run, recipe)
        rows = finish_distillation(outcome, run, recipe, record, meter)
    return rows


def check_outcome(outcome: Outcome, run: PretrainedRun, recipe: DistillationRecipe) -> None:
    """Checks what students and controls predict.

    Raises:
        InputError: it is NaN or infinite for one of them.
    """
    finite = (outcome.student.isfinite() & outcome.fit.isfinite()).view(len(run.recipe.num_pretraining_tasks), -1).all(1)
    lost = [pool_name(size) for size, fine in zip(run.recipe.num_pretraining_tasks, finite.tolist(), strict=True) if not fine]
    if lost:
        raise InputError(
            f"--learning_rate {recipe.learning_rate}: what students of {', '.join(lost)} predict is not finite; lower it"
        )


def finish_distillation(
    outcome: Outcome, run: PretrainedRun, recipe: DistillationRecipe, record: RunRecord, meter: Meter
) -> dict[str, dict[str, float]]:
    """Write the record, with a set for each pool whose `error` at each stage is the distance from the true w.x.

    Returns:
        The rows of the table by pool.
    """
    dimension = run.recipe.dimension
    names = [pool_name(size) for size in run.recipe.num_pretraining_tasks]
    stages = {"teacher": outcome.teacher, "before": outcome.before, "after": outcome.student, "fit": outcome.fit}
    with meter.phase("record"):
        table = dict(zip(names, distances_of(outcome, dimension, recipe.num_contexts), strict=True))
        for stage, predictions in stages.items():
            squares = (predictions - outcome.signal).square() / dimension
            for name, errors, values, signal in zip(
                names,
                *(part.split(recipe.num_contexts) for part in (squares, predictions, outcome.signal)),
                strict=True,
            ):
                kept = {"target": signal, "prediction": values, "score": errors}
                rows = {column: part[:, :KEPT].flatten().tolist() for column, part in kept.items()}
                further = table[name] if stage == "after" else {}
                metrics: dict[str, Any] = {"error": errors.mean().item(), **further, "n": errors.numel()}
                record.add(stage, name, metrics, {"idx": list(range(len(rows["score"]))), **rows})
        domain = {NEW: "out_of_domain", OF_POOL: "in_domain"}[recipe.context_task]
        headline = {"name": "error", "higher_is_better": False}
        sets: dict[str, list[str]] = {"in_domain": [], "out_of_domain": [], domain: names}
        record.write_results({"headline": headline, "sets": sets, "tokens_per_query": {}, "table": table})
    finish_record(record, meter, None)
    return table


def distillation_markdown(table: dict[str, dict[str, float]]) -> str:
    """The table as Markdown, one row per pool."""
    lines = ["| pool | " + " | ".join(COLUMNS).replace("_", " ") + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in table.items():
        cells = (f"{row[column]:.4f}" if column in row else "-" for column in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def distillation_parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m llmft.worlds.regression.distill", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    default = DistillationRecipe()

    def add(name: str, text: str, **options: Any) -> None:
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{text} (default: %(default)s)", **options)

    parser.add_argument(
        "--pretrained", type=Path, required=True, help="a pretraining run, or a folder of them, each of which is distilled"
    )
    parser.add_argument("--pretraining_steps", type=int, help="take only the runs with this many steps")
    add("context_task", "whether contexts show new tasks or tasks of a model's own pool", choices=(NEW, OF_POOL))
    parser.add_argument("--context_examples", type=int, help="examples in a context (default: all but one of the model's)")
    add("num_contexts", "contexts per model, each with its own student")
    add("queries", "inputs that students are trained on")
    add("eval_queries", "inputs that they are evaluated on")
    add("steps", "training steps of a student")
    add("fit_steps", "training steps of the control, which is fitted on the examples themselves")
    add("batch_size", "inputs per step")
    add("learning_rate", "of Adam; it falls linearly to 0")
    add("seed", "decides contexts, queries and batches")
    add_run_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Read the flags, find the pretraining runs and distil each.

    Raises:
        InputError: a flag cannot be used.
    """
    arguments = distillation_parser().parse_args(argv)
    chosen = {name: value for name, value in vars(arguments).items() if name in DistillationRecipe.__dataclass_fields__}
    for name in ("num_contexts", "queries", "eval_queries", "steps", "fit_steps", "batch_size"):
        if chosen[name] < 1:
            raise InputError(f"--{name} {chosen[name]}: give 1 or more")
    if not 0 < chosen["learning_rate"] < math.inf:
        raise InputError(f"--learning_rate {chosen['learning_rate']}: give a finite number above 0")
    check_seed("seed", chosen["seed"])
    if this_process().world_size > 1:
        raise InputError(
            f"WORLD_SIZE {this_process().world_size}: students are trained by one process; start it without a launcher"
        )
    runs = find_pretrained(arguments.pretrained, "--pretrained")
    if arguments.pretraining_steps is not None:
        runs = [run for run in runs if run.recipe.steps == arguments.pretraining_steps]
        if not runs:
            raise InputError(
                f"--pretraining_steps {arguments.pretraining_steps}: no run below {arguments.pretrained} has that many"
            )
    device = use_device(arguments.device)
    for run in runs:
        longest = run.recipe.examples - 1
        examples = longest if arguments.context_examples is None else arguments.context_examples
        if not 1 <= examples <= longest:
            raise InputError(f"--context_examples {examples}: {run.path} reads 1 to {longest} before the query")
        table = distill_run(run, DistillationRecipe(**chosen | {"context_examples": examples}), arguments, device)
        if table is not None:
            print(f"{run.path}: contexts of {examples} examples of {arguments.context_task} tasks\n")
            print(distillation_markdown(table), end="\n\n")


if __name__ == "__main__":
    run_main(main)
