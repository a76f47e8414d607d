"""Distils contexts of a few examples into the weights of pretrained ensembles, which shows what a student takes over:

    python -m llmft.worlds.regression.distill --pretrained logfiles

The teacher is the trained model behind the examples of one task, f(context, x); the student starts as the same model, reads x
alone and is trained towards the teacher's outputs on fresh x. Both predict a number, so the divergence is the squared error:
KL(N(f, s2) || N(g, s2)) = (f - g)^2 / (2 s2) for normal distributions of equal variance. The teacher and the divergences of
`llmft.distillation` are those of distributions over tokens, which these models do not have.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmft.cost.meter import Meter, process_meter
from llmft.errors import InputError

if __name__ == "__main__":
    process_meter().open()  # before what takes long to import

import torch

from llmft.runs.launch import this_process
from llmft.runs.record import RunRecord
from llmft.runs.store import short_hash
from llmft.worlds.regression.estimators import dmmse, place_between, ridge
from llmft.worlds.regression.model import Regressors
from llmft.worlds.regression.pretrain import add_run_flags, config_of, finish_record
from llmft.worlds.regression.pretrained import PretrainedRun, find_pretrained
from llmft.worlds.regression.recipe import VERSION, pool_name
from llmft.worlds.regression.running import doing, run_command, use_device
from llmft.worlds.regression.tasks import Pool, Problem, Sequences, draw_sequences, seeded_generator

CONTEXTS = 50
"""Beside the seed, what the stream of contexts and queries depends on."""
CHUNK = 256
"""Queries that a teacher or an estimator reads behind a context at a time."""
KEPT = 256
"""Queries of each context whose predictions are in the record."""
NEW, OF_POOL = "new", "pool"
COLUMNS = (
    "student_to_teacher", "student_to_dmmse", "student_to_ridge", "dmmse_to_ridge", "place", "error_student", "error_teacher",
    "error_dmmse", "error_ridge", "error_fit",
)  # fmt: skip


@dataclass(frozen=True)
class DistillationRecipe:
    """How contexts are drawn and students trained."""

    context_task: str = NEW
    """Whether a context shows a new task, or one of the model's own pool."""
    context_examples: int = 7
    num_contexts: int = 4
    """A model; each has a student of its own."""
    queries: int = 4096
    """Inputs that students are trained on."""
    eval_queries: int = 1024
    steps: int = 400
    fit_steps: int = 200
    """Of the control, which is fitted on the examples themselves."""
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


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
    with doing(record, arguments.output_dir) as meter:
        if meter is None:
            return None
        groups = {"RegressionRecipe": asdict(run.recipe), "DistillationRecipe": {**asdict(recipe), "seed": None}}
        config = config_of("distill", run.recipe, groups)
        own = {name: value for name, value in asdict(recipe).items() if value != getattr(DistillationRecipe, name)}
        config["given"] |= own
        config["setting"] = short_hash([run.recipe.setting, groups["DistillationRecipe"]])
        config["arguments"]["seeds"] = {"seed": run.recipe.seed, "data_seed": recipe.seed}
        record.write_config(config | {"pretrained": str(run.path)})
        outcome = distill_contexts(run, recipe, meter, device)
        rows = finish_distillation(outcome, run, recipe, record, meter)
    return rows


@dataclass(frozen=True)
class Outcome:
    """Predictions for the evaluation queries, each (E, Q) for E = models x contexts, contexts varying fastest.

    Attributes:
        signal: w.x of the context's task.
        teacher, student, dmmse, ridge: the model, its estimators and the student.
        before: the student as it started.
        fit: the control.
    """

    signal: torch.Tensor
    teacher: torch.Tensor
    student: torch.Tensor
    before: torch.Tensor
    fit: torch.Tensor
    dmmse: torch.Tensor
    ridge: torch.Tensor


def distill_contexts(run: PretrainedRun, recipe: DistillationRecipe, meter: Meter, device: torch.device) -> Outcome:
    """Draw contexts, train students of all models and contexts side by side, and let everyone answer the evaluation queries."""
    problem = replace(run.recipe.problem, examples=recipe.context_examples)
    generator = seeded_generator(recipe.seed, CONTEXTS, device=device)
    with meter.phase("load"):
        trained, pools = run.load(device)
        drawn_from = pools if recipe.context_task == OF_POOL else [None] * len(pools)
        contexts = draw_sequences(drawn_from, problem, recipe.num_contexts, generator)
        queries, unseen = (
            torch.randn(count, problem.dimension, generator=generator, device=device)
            for count in (recipe.queries, recipe.eval_queries)
        )
        teacher, student = trained.copies(recipe.num_contexts), trained.copies(recipe.num_contexts)
        control = trained.copies(recipe.num_contexts)
    with meter.phase("teacher"):
        targets, answers = (behind_contexts(teacher, contexts, x) for x in (queries, unseen))
    with meter.phase("train"):
        before = without_context(student, unseen)

        def batch() -> tuple[torch.Tensor, torch.Tensor]:
            chosen = torch.randint(len(queries), (recipe.batch_size,), generator=generator, device=device)
            return queries[chosen], targets[:, chosen]

        fit_students(student, batch, recipe.steps, recipe.learning_rate)
        pairs = contexts.x.repeat(len(pools), 1, 1), contexts.labels.flatten(0, 1)
        fit_students(control, lambda: pairs, recipe.fit_steps, recipe.learning_rate)
    with meter.phase("evaluate", "after", recipe.context_task):
        by_dmmse, by_ridge = estimates(contexts, unseen, pools, problem)
        signal = contexts.tasks.flatten(0, 1) @ unseen.T
        after, fit = (without_context(model, unseen) for model in (student, control))
    return Outcome(signal, answers, after, before, fit, by_dmmse, by_ridge)


@torch.no_grad()
def behind_contexts(model: Regressors, contexts: Sequences, x: torch.Tensor) -> torch.Tensor:
    """(E, Q) predictions for (Q, D) inputs, each behind the context of its member: (S, n, D) inputs that all models share, with
    labels of their own, (E / S, S, n)."""
    members, (count, examples, dimension) = model.members, contexts.x.shape
    inputs = contexts.x.repeat(members // count, 1, 1)[:, None]  # (E, 1, n, D)
    labels = contexts.labels.reshape(members, 1, examples)
    parts = []
    for some in x.split(CHUNK):
        size = len(some)
        last = some.view(1, size, 1, dimension).expand(members, -1, -1, -1)
        sequences = torch.cat([inputs.expand(-1, size, -1, -1), last], 2)
        unknown = labels.new_zeros(members, size, 1)
        parts.append(model(sequences, torch.cat([labels.expand(-1, size, -1), unknown], 2))[:, :, -1])
    return torch.cat(parts, 1)


def without_context(model: Regressors, x: torch.Tensor) -> torch.Tensor:
    """(E, Q) predictions for (Q, D) inputs, or (E, Q, D), with nothing in front of them."""
    x = x.expand(model.members, *x.shape[-2:])
    with torch.set_grad_enabled(model.training):
        return model(x[:, :, None], x.new_zeros(*x.shape[:2], 1))[:, :, 0]


def fit_students(
    model: Regressors, batch: Callable[[], tuple[torch.Tensor, torch.Tensor]], steps: int, learning_rate: float
) -> None:
    """Train all weights on the squared error, by Adam whose rate falls to 0 in a line.

    Args:
        batch: draws inputs, as `without_context` takes them, and their (E, B) targets.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    model.train()
    for step in range(steps):
        x, targets = batch()
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        (without_context(model, x) - targets).square().mean(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def estimates(contexts: Sequences, x: torch.Tensor, pools: Sequence[Pool], problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """What dMMSE and ridge predict for (Q, D) inputs behind the contexts: two (E, Q)."""
    by_dmmse, by_ridge = [], []
    for pool, of_model in zip(pools, contexts.labels, strict=True):
        for inputs, labels in zip(contexts.x, of_model, strict=True):
            sequences = torch.cat([inputs.expand(len(x), -1, -1), x[:, None]], 1)
            shown = torch.cat([labels, labels.new_zeros(1)]).expand(len(x), -1)
            by_ridge.append(ridge(sequences, shown, problem.noise_variance)[:, -1])
            of_pool = by_ridge[-1] if pool is None else dmmse(sequences, shown, pool, problem.noise_variance)[:, -1]
            by_dmmse.append(of_pool)
    return torch.stack(by_dmmse), torch.stack(by_ridge)


def distances_of(outcome: Outcome, dimension: int, contexts: int) -> list[dict[str, float]]:
    """The table's columns for each model: mean squared differences over queries and contexts, divided by D."""

    def apart(one: torch.Tensor, other: torch.Tensor) -> list[float]:
        return ((one - other).square().view(-1, contexts * one.shape[1]).mean(1) / dimension).tolist()

    student, names = outcome.student, ("student", "teacher", "dmmse", "ridge", "fit")
    columns = {
        **{f"student_to_{name}": apart(student, getattr(outcome, name)) for name in ("teacher", "dmmse", "ridge")},
        "dmmse_to_ridge": apart(outcome.dmmse, outcome.ridge),
        **{f"teacher_to_{name}": apart(outcome.teacher, getattr(outcome, name)) for name in ("dmmse", "ridge")},
        **{f"error_{name}": apart(getattr(outcome, name), outcome.signal) for name in names},
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        place = place_between(row["student_to_dmmse"], row["student_to_ridge"], row["dmmse_to_ridge"])
        if place is not None:
            row["place"] = place
    return rows


def finish_distillation(
    outcome: Outcome, run: PretrainedRun, recipe: DistillationRecipe, record: RunRecord, meter: Meter
) -> dict[str, dict[str, float]]:
    """Write the record: a set for each pool, whose `error` at each stage is the distance from the true w.x. Returns its table."""
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
    """The table as Markdown, a row a pool."""
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

    parser.add_argument("--pretrained", type=Path, required=True, help="a pretraining run, or a folder of them: each is taken")
    parser.add_argument("--pretraining_steps", type=int, help="take only the runs of so many steps")
    add("context_task", "whether contexts show new tasks or those of a model's own pool", choices=(NEW, OF_POOL))
    parser.add_argument("--context_examples", type=int, help="examples in a context (default: all but one of the model's)")
    add("num_contexts", "contexts a model, each with a student of its own")
    add("queries", "inputs that students are trained on")
    add("eval_queries", "inputs that they are evaluated on")
    add("steps", "of a student's training")
    add("fit_steps", "of the control's, which is fitted on the examples themselves")
    add("batch_size", "inputs a step")
    add("learning_rate", "Adam's, which falls to 0 in a line")
    add("seed", "decides contexts, queries and batches")
    add_run_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command: flags, the pretraining runs, then a distillation for each.

    Raises:
        InputError: a flag cannot be used.
    """
    arguments = distillation_parser().parse_args(argv)
    chosen = {name: value for name, value in vars(arguments).items() if name in DistillationRecipe.__dataclass_fields__}
    for name in ("num_contexts", "queries", "eval_queries", "steps", "fit_steps", "batch_size"):
        if chosen[name] < 1:
            raise InputError(f"--{name} {chosen[name]}: give 1 or more")
    if this_process().world_size > 1:
        raise InputError(
            f"WORLD_SIZE {this_process().world_size}: students are trained by one process; start it without a launcher"
        )
    runs = find_pretrained(arguments.pretrained, "--pretrained")
    if arguments.pretraining_steps is not None:
        runs = [run for run in runs if run.recipe.steps == arguments.pretraining_steps]
        if not runs:
            raise InputError(
                f"--pretraining_steps {arguments.pretraining_steps}: no run below {arguments.pretrained} has so many"
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
    run_command(main)
